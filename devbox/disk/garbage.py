"""`gc`: everything on this computer that devbox made and nobody uses any more, by the user's policy.

In the order that lets one thing free the next: destroyed machines, what crashes left, templates, then the store. Each
item says what it holds and why it goes or stays. Nothing that a machine uses or another devbox works on is touched.
"""

import json
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from devbox import fs, paths
from devbox.box import prune, qcow2, store
from devbox.box.prune import DAY, Item, Pruned, Rules, age, asked
from devbox.box.references import Uses
from devbox.disk import holds, trash
from devbox.disk import record as records
from devbox.disk.record import Record
from devbox.errors import DevboxError
from devbox.fs import Place

_JUST_NOW = 60.0  # seconds; what an `up` has found is what it goes on with
_LEFTOVER = 3600.0  # seconds; a template or a small file is written in far less
_INSTALLING = DAY  # seconds; what Ansible Galaxy brings may take as long as a step may
# What `write_atomic` and the stages that make something aside call it, with their eight characters at the end.
_ASIDE = re.compile(r"\..+\.[0-9a-z_]{8}")
_DISK = re.compile(r"(frozen|disk)-[0-9a-f]+\.qcow2")


@dataclass(frozen=True, slots=True)
class Policy:
    """How long what nobody uses is kept; `limit` is how many bytes all layers may take."""

    trash_days: float
    unused_days: float
    limit: int | None

    @property
    def unused(self) -> float:
        return max(_JUST_NOW, self.unused_days * DAY)


def collect(policy: Policy, *, dry_run: bool, stopped: Callable[[Record], bool]) -> Pruned:
    """`stopped` tells for certain that no QEMU has a machine's disk open. With `dry_run` nothing is touched."""
    removed: list[Item] = []
    kept: list[Item] = []
    released: Counter[Place] = Counter()
    for item, goes in (
        *_trash(policy, released, dry_run=dry_run),
        *_unmade(dry_run=dry_run),
        *_in_machines(stopped, dry_run=dry_run),
        *_ansible(policy, dry_run=dry_run),
        *_small(policy, dry_run=dry_run),
    ):
        (removed if goes else kept).append(item)
    digests, files = holds.of_machines()
    uses = Uses(digests, files, released if dry_run else {}, _beside())
    pruned = prune.prune(uses, dry_run=dry_run, rules=_rules(policy))
    # Last: the memory of a layer goes with it.
    gone = {item.digest for item in pruned.removed}
    for item, goes in _templates(policy, gone, dry_run=dry_run):
        (removed if goes else kept).append(item)
    return Pruned((*removed, *pruned.removed), (*kept, *pruned.kept))


def collect_layers(policy: Policy, *, dry_run: bool) -> Pruned:
    """Layers alone, and the memory that goes with one."""
    digests, files = holds.of_machines()
    uses = Uses(digests, files, beside=_beside())
    pruned = prune.prune_layers(uses, dry_run=dry_run, rules=_rules(policy))
    gone = {item.digest for item in pruned.removed}
    memories = [item for item, goes in _templates(policy, gone, dry_run=dry_run) if goes]
    return Pruned((*pruned.removed, *memories), pruned.kept)


def _rules(policy: Policy) -> Rules:
    return Rules(policy.unused, policy.unused, policy.unused, min(policy.unused, DAY), policy.limit)


def _trash(policy: Policy, released: Counter[Place], *, dry_run: bool) -> Iterator[tuple[Item, bool]]:
    """Adds to `released` the names of files that go with what goes."""
    for entry, since in trash.entries():
        name, size, goes = holds.whose(entry) or entry.name, fs.allocated(entry), since > policy.trash_days * DAY
        why = f"destroyed {age(since)} ago"
        if goes:
            released.update((info.st_dev, info.st_ino) for _, info in fs.walk(entry))
            if not dry_run and not trash.remove(entry):
                continue
        else:
            why += f", and kept for {age(policy.trash_days * DAY)} (`devbox undo` takes it back)"
        yield Item("trash", name, size, why), goes
    for entry in sorted(paths.trash_dir().glob(".going-*")):
        yield _gone(entry, "it was being deleted", dry_run=dry_run)


def _unmade(*, dry_run: bool) -> Iterator[tuple[Item, bool]]:
    """Machines that a crash left half-made; under the lock by which they are made, so nobody is at work there."""
    found = sorted(paths.machines_dir().glob(".new-*"))
    if not found:
        return
    try:
        with fs.lock(paths.machines_dir() / ".lock", wait=0):
            for entry in found:
                yield _gone(entry, "making a machine was broken off", dry_run=dry_run)
    except DevboxError as busy:
        if busy.id != "lock.busy":
            raise
        for entry in found:
            yield Item("leftover", entry.name, fs.allocated(entry), "another devbox is making a machine"), False


def _in_machines(stopped: Callable[[Record], bool], *, dry_run: bool) -> Iterator[tuple[Item, bool]]:
    """What a crash left aside in the folder of a machine that is stopped and that nobody works on."""
    for record in records.all_records():
        if not isinstance(record, Record) or not _asides(record.dir.folder):
            continue
        try:
            with records.locked(record, wait=0):
                if stopped(record):
                    for path in _asides(record.dir.folder):
                        yield _gone(path, f"left in the machine of {record.project}", dry_run=dry_run)
        except DevboxError as busy:
            if busy.id not in {"lock.busy", "machine.gone"}:
                raise


def _asides(folder: Path) -> tuple[Path, ...]:
    try:
        names = sorted(path for path in folder.iterdir() if not path.is_dir())
    except OSError:
        return ()
    asides = [path for path in names if _ASIDE.fullmatch(path.name)]
    disks = [path for path in names if _DISK.fullmatch(path.name)]
    if disks:
        named = _named(folder)
        asides += [path for path in disks if path.name not in named]
    return tuple(asides)


def _named(folder: Path) -> frozenset[str]:
    """The names of disks that something in the machine's folder stands on, leads to or speaks of."""
    found = set()
    for path, info in fs.walk(folder):
        if path.is_symlink():
            found.add(path.readlink().name)
        elif path.suffix == ".json" and info.st_size < fs.CHUNK:
            with suppress(OSError):
                found.update(match.group() for match in _DISK.finditer(path.read_text(errors="replace")))
        elif path.is_file():
            found.add(qcow2.backing(path))
    return frozenset(found)


def _beside() -> Mapping[str, int]:
    """Layer → the bytes of its memory for warm starts."""
    found: Counter[str] = Counter()
    for folder in paths.templates_dir().glob("[!.]*"):
        found[_template(folder)[0]] += fs.allocated(folder)
    return found


def _templates(policy: Policy, gone: Collection[str], *, dry_run: bool) -> Iterator[tuple[Item, bool]]:
    """The memory of layers, by machine/template.py. A QEMU that has it open keeps it until it ends."""
    for folder in sorted(paths.templates_dir().glob("*")):
        since = _since(folder)
        item = Item("memory", folder.name[:12], fs.allocated(folder))
        if folder.name.startswith("."):
            if since > _LEFTOVER:
                yield _gone(folder, "saving a machine's memory was broken off", dry_run=dry_run)
            continue
        layer, label = _template(folder)
        orphan = layer in gone or not layer or not store.blob_path(layer).exists()
        goes = since > (_JUST_NOW if orphan else policy.unused)
        why = asked(since, None if goes else policy.unused)
        if goes and not dry_run:
            _delete(folder)
        yield (
            Item(item.what, label or item.name, item.size, "its layer goes, or is gone" if goes and orphan else why),
            goes,
        )


def _template(folder: Path) -> tuple[str, str]:
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        stored = json.loads((folder / "template.json").read_bytes())
        layer = str(stored["layer"])
        return (layer, str(stored.get("label", ""))) if re.fullmatch("[0-9a-f]{64}", layer) else ("", "")
    return "", ""


def _ansible(policy: Policy, *, dry_run: bool) -> Iterator[tuple[Item, bool]]:
    """Roles and collections, by provision/playbook.py, which touches them at each use."""
    for folder in sorted((paths.cache_dir() / "ansible").glob("*")):
        since = max(0.0, time.time() - folder.lstat().st_mtime)
        if not re.fullmatch("[0-9a-f]{32}", folder.name):
            if since > _INSTALLING:
                yield _gone(folder, "an installation was broken off", dry_run=dry_run)
            continue
        goes = since > policy.unused
        item = Item("download", f"Ansible {folder.name[:12]}", fs.allocated(folder))
        if goes and not dry_run:
            _delete(folder)
        yield Item(item.what, item.name, item.size, asked(since, None if goes else policy.unused)), goes


def _small(policy: Policy, *, dry_run: bool) -> Iterator[tuple[Item, bool]]:
    """Devboxfiles that were checked long ago, and what kills left of writing small files in the cache."""
    old = [path for path in (paths.cache_dir() / "documents").glob("*.json") if _since(path) > policy.unused]
    if old:
        size = sum(fs.allocated(path) for path in old)
        if not dry_run:
            for path in old:
                path.unlink(missing_ok=True)
        yield Item("leftover", f"{len(old)} checked Devboxfiles", size, "not read for long"), True
    for name in ("documents", "index", "records", "blobs/sha256", "artefacts"):
        for path in sorted((paths.cache_dir() / name).glob(".*")):
            if _since(path) > _LEFTOVER:
                yield _gone(path, "left in the cache", dry_run=dry_run)


def _gone(path: Path, why: str, *, dry_run: bool) -> tuple[Item, bool]:
    item = Item("leftover", path.name, fs.allocated(path), why)
    if not dry_run:
        _delete(path)
    return item, True


def _delete(path: Path) -> None:
    """A folder goes out of reach in one rename first: nobody finds half of it."""
    with suppress(OSError):
        if path.is_symlink() or not path.is_dir():
            path.unlink()
            return
        going = path.with_name(f".going-{path.name.lstrip('.')}")
        path.rename(going)
        shutil.rmtree(going, ignore_errors=True)


def _since(path: Path) -> float:
    """Seconds since it was changed, or a file in it was read or changed."""
    latest = 0.0
    for each, info in fs.walk(path):
        latest = max(latest, info.st_mtime, info.st_atime if each.name in {"ram", "state"} else 0.0)
    return max(0.0, time.time() - latest)
