"""Removes from the store what nobody uses: images, layers, kernels, broken-off downloads, damaged files, steps' files.
Says of each what it holds and why it goes or stays.

In use is what a machine hard-links or names in its record, what a layer that stays stands on, and what some devbox
asked for a moment ago. Each file is looked at again under its lock before it goes.
"""

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from devbox import fs, paths, ui
from devbox.box import references, store
from devbox.box.references import Stored, Uses
from devbox.errors import DevboxError

DAY = 86400.0
_NEVER = 1000 * 365 * DAY
_LEFTOVER = 3600.0  # seconds; index files and a layer's keys are written a moment before their blob is there


@dataclass(frozen=True, slots=True)
class Item:
    """`size` is what the disk gets back, in bytes; `why` says why it goes, or why it stays. `digest` is a blob's."""

    what: str
    name: str
    size: int
    why: str = ""
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Pruned:
    removed: tuple[Item, ...]
    kept: tuple[Item, ...]

    @property
    def size(self) -> int:
        return sum(item.size for item in self.removed)


@dataclass(frozen=True, slots=True)
class Rules:
    """How many seconds ago what nobody uses must have been asked for last, to go; None: it never goes.

    `limit` is how many bytes all layers may take: over it, those that were not asked for longest go first.
    """

    images: float = 0.0
    layers: float | None = None
    downloads: float = 30 * DAY
    unfinished: float = 0.0
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class _Found:
    item: Item
    goes: bool


def prune(uses: Uses, *, dry_run: bool, rules: Rules = Rules()) -> Pruned:  # noqa: B008 - a frozen value
    """With `dry_run` nothing is touched."""
    found = (
        *_partials(rules, dry_run=dry_run),
        *_damaged(dry_run=dry_run),
        *_artefacts(rules, dry_run=dry_run),
        *_blobs(uses, rules, dry_run=dry_run),
    )
    if not dry_run:
        _forget_leftovers()
    return Pruned(tuple(one.item for one in found if one.goes), tuple(one.item for one in found if not one.goes))


def prune_layers(uses: Uses, *, dry_run: bool, rules: Rules) -> Pruned:
    """The same for layers alone."""
    found = [one for one in _blobs(uses, replace(rules, images=_NEVER), dry_run=dry_run) if one.item.what == "layer"]
    return Pruned(tuple(one.item for one in found if one.goes), tuple(one.item for one in found if not one.goes))


def age(seconds: float) -> str:
    """How long ago, in words."""
    for unit, length in (("day", DAY), ("hour", 3600.0), ("minute", 60.0)):
        count = int(seconds // length)
        if count:
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return "a moment"


def _partials(rules: Rules, *, dry_run: bool) -> Iterator[_Found]:
    by_key: dict[str, list[Path]] = {}
    for path in sorted(store.folder("partial").iterdir()):
        by_key.setdefault(path.name.lstrip(".").partition(".")[0], []).append(path)
    for key, files in by_key.items():
        item = Item("unfinished", key[:24], sum(fs.allocated(path) for path in files), "it was broken off")
        try:
            with store.lock(key, wait=0):
                since = min((_since(path) for path in files), default=0.0)
                if since < rules.unfinished:
                    why = f"it was broken off {age(since)} ago, and can go on from there"
                    yield _Found(_because(item, why), goes=False)
                    continue
                if not dry_run:
                    for path in files:
                        path.unlink(missing_ok=True)
        except DevboxError as busy:
            if busy.id != "lock.busy":
                raise
            yield _Found(_because(item, "another devbox is making it"), goes=False)
        else:
            yield _Found(item, goes=True)


def _damaged(*, dry_run: bool) -> Iterator[_Found]:
    for path in sorted(store.folder("damaged").iterdir()):
        item = Item("damaged", path.name[:12], fs.allocated(path), "it is not what it should be")
        if not dry_run:
            path.unlink(missing_ok=True)
        yield _Found(item, goes=True)


def _artefacts(rules: Rules, *, dry_run: bool) -> Iterator[_Found]:
    """Files of steps, by provision/artefacts.py, which touches them at each use."""
    for path in sorted((paths.cache_dir() / "artefacts").glob("*")):
        item = Item("download", path.name[:12], fs.allocated(path))
        try:
            with store.lock(f"artefact-{path.name}", wait=0):
                since = _since(path)
                goes = since > rules.downloads
                if goes and not dry_run:
                    path.unlink(missing_ok=True)
                yield _Found(_because(item, asked(since, None if goes else rules.downloads)), goes)
        except DevboxError as busy:
            if busy.id != "lock.busy":
                raise
            yield _Found(_because(item, "another devbox works on it"), goes=False)


def _blobs(uses: Uses, rules: Rules, *, dry_run: bool) -> Iterator[_Found]:
    stored = references.stored()
    reasons = _Reasons(stored, uses, rules)
    reasons.keep_within(rules.limit)
    stay = reasons.stay()
    for one in sorted(stored.values(), key=lambda one: (one.kind == "kernel", -len(_below(one, stored)), one.name)):
        why = stay.get(one.sha256, "")
        if not why and not dry_run and (why := _remove(one)):
            stay |= {other: "what needs it stays" for other in _with(one, stored)}
        item = Item(one.kind, one.name, one.size, why or reasons.why_it_goes(one), one.sha256)
        yield _Found(item, goes=not why)


@dataclass
class _Reasons:
    """Why blobs stay: because something uses them, or because they are young; the second may be overruled."""

    stored: Mapping[str, Stored]
    uses: Uses
    rules: Rules
    over: set[str] = field(default_factory=set)  # layers that are too many

    def stay(self) -> dict[str, str]:
        kept = {sha256: why for sha256, one in self.stored.items() if (why := self._own(one))}
        for sha256 in tuple(kept):
            one = self.stored[sha256]
            for other in _with(one, self.stored):
                kept.setdefault(other, f"the {one.kind} {one.name} needs it")
        for image in self.stored.values():
            if image.kind == "image" and image.sha256 in kept:
                for kernel in _kernels(image, self.stored):
                    kept.setdefault(kernel, f"it belongs to the image {image.name}")
        return kept

    def keep_within(self, limit: int | None) -> None:
        while limit is not None:
            kept = self.stay()
            layers = [one for one in self.stored.values() if one.kind == "layer" and one.sha256 in kept]
            if sum(one.size + self.uses.beside.get(one.sha256, 0) for one in layers) <= limit:
                return
            under = {one.parent for one in layers}
            free = [one for one in layers if one.sha256 not in under and not references.used(one, self.uses)]
            if not free:
                return
            self.over.add(max(free, key=lambda one: (one.since, one.sha256)).sha256)

    def why_it_goes(self, one: Stored) -> str:
        if one.sha256 in self.over:
            return f"all layers may take {ui.size(self.rules.limit or 0)}, and it was not asked for longest"
        return "its image goes" if one.kind == "kernel" else asked(one.since, None)

    def _own(self, one: Stored) -> str:
        if used := references.used(one, self.uses):
            return used
        if one.kind == "kernel":
            return next((f"used by {who}" for image, who in self.uses.digests.items() if image in one.images), "")
        after = self.rules.layers if one.kind == "layer" else self.rules.images
        if after is None:
            return "`devbox gc` looks after layers"
        return asked(one.since, after) if one.since <= after and one.sha256 not in self.over else ""


def _below(one: Stored, stored: Mapping[str, Stored]) -> tuple[str, ...]:
    """What it stands on, the nearest first."""
    found: list[str] = []
    while one.parent in stored and one.parent not in found:
        found.append(one.parent)
        one = stored[one.parent]
    return tuple(found)


def _kernels(image: Stored, stored: Mapping[str, Stored]) -> tuple[str, ...]:
    return tuple(one.sha256 for one in stored.values() if image.sha256 in one.images)


def _with(one: Stored, stored: Mapping[str, Stored]) -> tuple[str, ...]:
    """What must stay where this one does."""
    return (*_below(one, stored), *_kernels(one, stored))


def _remove(one: Stored) -> str:
    """Remove the blob, unless it is used, looked at again under its lock: then why it stays."""
    try:
        with store.lock(f"blob-{one.sha256}", wait=0):
            if why := references.used_now(one.sha256):
                return why
            store.blob_path(one.sha256).unlink(missing_ok=True)
            store.record_path(one.sha256).unlink(missing_ok=True)
            shutil.rmtree(paths.layers_dir() / one.sha256, ignore_errors=True)
    except DevboxError as busy:
        if busy.id != "lock.busy":
            raise
        return "another devbox works on it"
    return ""


def asked(since: float, kept: float | None) -> str:
    """Words for when it was last asked for, and how long that keeps it; with None that it goes."""
    if kept is None:
        return f"no machine uses it; last asked for {age(since)} ago"
    return f"asked for {age(since)} ago, and kept for {age(kept)}"


def _because(item: Item, why: str) -> Item:
    return replace(item, why=why)


def _since(path: Path) -> float:
    """Seconds since it was changed."""
    with suppress(FileNotFoundError):
        return max(0.0, time.time() - path.lstat().st_mtime)
    return 0.0


def _forget_leftovers() -> None:
    """Index files, records and layers' keys of blobs that are gone, and what a kill left of writing one."""
    old = time.time() - _LEFTOVER
    for path in (paths.cache_dir() / "index").glob("*.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            gone = not store.blob_path(json.loads(path.read_bytes())["sha256"]).exists()
            if gone and path.stat().st_mtime < old:
                path.unlink()
    for path in (paths.cache_dir() / "records").glob("*.json"):
        with suppress(OSError):
            if not store.blob_path(path.stem).exists() and path.stat().st_mtime < old:
                path.unlink()
    for path in paths.layers_dir().glob("*"):
        with suppress(OSError):
            if not store.blob_path(path.name).exists() and path.stat().st_mtime < old:
                shutil.rmtree(path, ignore_errors=True)
