"""Removes from the store what nobody uses: images, broken-off downloads, damaged files, steps' files that were not
asked for in a month. Says what and how much.

In use is what a machine hard-links or names in its record, and what some devbox asked for a moment ago.
"""

import json
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from devbox import paths
from devbox.box import store
from devbox.errors import DevboxError

_JUST_NOW = 60.0  # seconds between an `up` that found the image and its hard link to it: far more than it takes
_STALE = 30 * 86400.0  # seconds since a step's file was last asked for
_LEFTOVER = 3600.0  # seconds; index files are written a moment before their blob is there


@dataclass(frozen=True, slots=True)
class Item:
    """`size` is what the disk gets back, in bytes."""

    what: str
    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Pruned:
    removed: tuple[Item, ...]
    kept: tuple[Item, ...]

    @property
    def size(self) -> int:
        return sum(item.size for item in self.removed)


def prune(in_use: Collection[str], *, dry_run: bool) -> Pruned:
    """`in_use` are the sha256 that machines' records name. With `dry_run` nothing is touched."""
    removed: list[Item] = []
    kept: list[Item] = []
    found = (
        *_partials(dry_run=dry_run),
        *_damaged(dry_run=dry_run),
        *_artefacts(dry_run=dry_run),
        *_blobs(in_use, dry_run=dry_run),
    )
    for item, taken in found:
        (kept if taken else removed).append(item)
    if not dry_run:
        _forget_leftovers()
    return Pruned(tuple(removed), tuple(kept))


def _partials(*, dry_run: bool) -> Iterator[tuple[Item, bool]]:
    by_key: dict[str, list[Path]] = {}
    for path in sorted(store.folder("partial").iterdir()):
        by_key.setdefault(path.name.lstrip(".").partition(".")[0], []).append(path)
    for key, files in by_key.items():
        item = Item("unfinished", key[:24], sum(_allocated(path) for path in files))
        try:
            with store.lock(key, wait=0):
                if not dry_run:
                    for path in files:
                        path.unlink(missing_ok=True)
        except DevboxError as busy:
            if busy.id != "lock.busy":
                raise
            yield Item(item.what, f"{item.name} (being made)", item.size), True
        else:
            yield item, False


def _damaged(*, dry_run: bool) -> Iterator[tuple[Item, bool]]:
    for path in sorted(store.folder("damaged").iterdir()):
        item = Item("damaged", path.name[:12], _allocated(path))
        if not dry_run:
            path.unlink(missing_ok=True)
        yield item, False


def _artefacts(*, dry_run: bool) -> Iterator[tuple[Item, bool]]:
    """Files of steps, by provision/artefacts.py, which touches them at each use. A recent one is not worth a word."""
    for path in sorted((paths.cache_dir() / "artefacts").glob("*")):
        item = Item("download", path.name[:12], _allocated(path))
        with suppress(FileNotFoundError), store.lock(f"artefact-{path.name}"):
            if time.time() - path.stat().st_mtime > _STALE:
                if not dry_run:
                    path.unlink()
                yield item, False


def _blobs(in_use: Collection[str], *, dry_run: bool) -> Iterator[tuple[Item, bool]]:
    for blob in store.entries():
        item = Item("image", blob.label or blob.sha256[:12], _allocated(blob.path))
        used = blob.sha256 in in_use or _used(blob.sha256)
        if not used and not dry_run:
            used = not _remove(blob.sha256)
        yield item, used


def _remove(sha256: str) -> bool:
    """Remove the blob, unless it is used; looked at again under its lock."""
    with store.blob_lock(sha256):
        if _used(sha256):
            return False
        store.blob_path(sha256).unlink(missing_ok=True)
        store.record_path(sha256).unlink(missing_ok=True)
        return True


def _used(sha256: str) -> bool:
    with suppress(FileNotFoundError):
        if store.blob_path(sha256).stat().st_nlink > 1:
            return True
        return time.time() - store.record_path(sha256).stat().st_mtime < _JUST_NOW
    return False


def _forget_leftovers() -> None:
    """Index files and records of blobs that are gone."""
    for path in (paths.cache_dir() / "index").glob("*.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            gone = not store.blob_path(json.loads(path.read_bytes())["sha256"]).exists()
            if gone and time.time() - path.stat().st_mtime > _LEFTOVER:
                path.unlink()
    for path in (paths.cache_dir() / "records").glob("*.json"):
        with suppress(OSError):
            if not store.blob_path(path.stem).exists() and time.time() - path.stat().st_mtime > _LEFTOVER:
                path.unlink()


def _allocated(path: Path) -> int:
    with suppress(FileNotFoundError):
        info = path.lstat()
        return info.st_blocks * 512 if info.st_nlink == 1 else 0
    return 0
