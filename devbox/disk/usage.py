"""`du`: what devbox holds on this computer, by class. Every file counts once, however many names it has.

Images and layers are counted in the store, so a machine counts what is its own: its disk, its memory, its snapshots.
Only looks; takes no lock.
"""

import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from devbox import fs, paths
from devbox.box import references, store
from devbox.box.references import Uses
from devbox.disk import holds, trash
from devbox.disk import record as records
from devbox.disk.record import Damaged
from devbox.fs import Place

CLASSES = (
    "images",
    "kernels",
    "layers",
    "memory for warm starts",
    "machines' disks",
    "machines' memory",
    "snapshots",
    "data disks",
    "downloads of steps",
    "unfinished",
    "damaged",
    "trash",
    "leftovers",
    "other",
)
_STORED = {"image": "images", "kernel": "kernels", "layer": "layers"}
_MEMORY = frozenset({"memory.state"})


@dataclass(frozen=True, slots=True)
class Used:
    """`size` is what it takes of the disk, `apparent` how long its files are: holes in them take nothing.

    `user` is who uses it, "" for nobody; what is a machine's own is used by its project.
    """

    what: str
    name: str
    size: int
    apparent: int
    user: str = ""


def survey() -> tuple[Used, ...]:
    """Everything, in the order of `CLASSES`."""
    seen: set[Place] = set()
    found = [*_store(seen), *_cache(seen), *_machines(seen), *_state(seen)]
    return tuple(sorted(found, key=lambda one: CLASSES.index(one.what)))


def _store(seen: set[Place]) -> Iterator[Used]:
    uses = Uses(*holds.of_machines())
    for one in references.stored().values():
        size, apparent = _count([store.blob_path(one.sha256), paths.layers_dir() / one.sha256], seen)
        user = references.used(one, uses).removeprefix("used by ")
        yield Used(_STORED[one.kind], one.name, size, apparent, user)


def _cache(seen: set[Place]) -> Iterator[Used]:
    cache = paths.cache_dir()
    for name, what in (
        ("templates", "memory for warm starts"),
        ("artefacts", "downloads of steps"),
        ("ansible", "downloads of steps"),
        ("partial", "unfinished"),
        ("damaged", "damaged"),
    ):
        for path in _inside(cache / name):
            what_it_is = "leftovers" if path.name.startswith(".") and what != "unfinished" else what
            yield Used(what_it_is, path.name[:24], *_count([path], seen))
    yield Used("other", "cache: index, records, locks, checked Devboxfiles", *_count([cache], seen))


def _machines(seen: set[Place]) -> Iterator[Used]:
    for one in records.all_records():
        folder = one.folder if isinstance(one, Damaged) else one.dir.folder
        user = "damaged" if isinstance(one, Damaged) else str(one.project)
        name = one.id if isinstance(one, Damaged) or one.machine == records.MAIN else f"{one.id} ({one.machine})"
        for what, parts in (
            ("snapshots", [folder / "snapshots"]),
            ("machines' memory", [folder / name for name in _MEMORY]),
            ("machines' disks", [folder]),
        ):
            size, apparent = _count(parts, seen)
            if size or apparent or what == "machines' disks":
                yield Used(what, name, size, apparent, user)
    for path in paths.machines_dir().glob(".new-*"):
        yield Used("leftovers", path.name, *_count([path], seen))


def _state(seen: set[Place]) -> Iterator[Used]:
    for folder, name in holds.data().items():
        yield Used("data disks", name, *_count([folder], seen), user=name.partition(" of ")[2])
    for entry, _ in trash.entries():
        yield Used("trash", holds.whose(entry) or entry.name, *_count([entry], seen))
    yield Used("other", "state: approvals, reports of crashes, locks", *_count([paths.state_dir()], seen))


def _inside(folder: Path) -> Sequence[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return ()


def _count(parts: Sequence[Path], seen: set[Place]) -> tuple[int, int]:
    """Allocated and apparent bytes of what was not counted before."""
    size = apparent = 0
    for part in parts:
        for _, info in fs.walk(part):
            place = (info.st_dev, info.st_ino)
            if place not in seen:
                seen.add(place)
                size += info.st_blocks * 512
                apparent += 0 if stat.S_ISDIR(info.st_mode) else info.st_size
    return size, apparent
