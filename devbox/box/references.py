"""What in the store stands on what, and who uses it: read from the index, the headers and the hard links.

A layer's header names what it stands on by its digest; the index says what a blob is (`layer-…`, `kernel-<image>`,
`initrd-<image>`, else an image). Reads only.
"""

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType

from devbox import fs, paths
from devbox.box import qcow2, store
from devbox.fs import Place

_JUST_NOW = 60.0  # seconds between an `up` that found the image and its hard link to it: far more than it takes
_OF_AN_IMAGE = ("kernel-", "initrd-", "cmdline-")


@dataclass(frozen=True, slots=True)
class Uses:
    """Who uses what, in words. `digests`: what machines' records name; `files`: what they have hard links of.

    `released` counts the links that would go, with what is in the trash, before the store is looked at; `beside` are
    the bytes that a layer takes elsewhere: its memory for warm starts.
    """

    digests: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    files: Mapping[Place, str] = field(default_factory=lambda: MappingProxyType({}))
    released: Mapping[Place, int] = field(default_factory=lambda: MappingProxyType({}))
    beside: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Stored:
    """`kind`: image, layer or kernel (or initrd). `size` is on the disk, a layer's keys with it; `since` are seconds.

    `parent` is the digest of what a layer stands on; `images` are those that a kernel was taken out of.
    """

    sha256: str
    kind: str
    name: str
    size: int
    since: float
    place: Place
    links: int
    parent: str
    images: tuple[str, ...]


def stored() -> Mapping[str, Stored]:
    """Everything below `blobs/`, by digest."""
    keys, found = _keys(), {}
    for blob in store.entries():
        with suppress(FileNotFoundError):
            info = blob.path.lstat()
            names, parent = keys.get(blob.sha256, ()), qcow2.backing(blob.path)
            beside = paths.layers_dir() / blob.sha256
            size = info.st_blocks * 512 + sum(one.st_blocks * 512 for _, one in fs.walk(beside))
            found[blob.sha256] = Stored(
                sha256=blob.sha256,
                kind=_kind(names, parent),
                name=blob.label or blob.sha256[:12],
                size=size,
                since=_since(blob.sha256),
                place=(info.st_dev, info.st_ino),
                links=info.st_nlink,
                parent=parent,
                images=tuple(name.partition("-")[2] for name in names if name.startswith(_OF_AN_IMAGE)),
            )
    return found


def used(one: Stored, uses: Uses) -> str:
    """Who uses it, in words; "" for nobody."""
    if one.sha256 in uses.digests:
        return f"used by {uses.digests[one.sha256]}"
    if one.links - uses.released.get(one.place, 0) > 1:
        return f"used by {uses.files.get(one.place, 'a file outside devbox (a hard link)')}"
    return "asked for a moment ago" if one.since < _JUST_NOW else ""


def used_now(sha256: str) -> str:
    """The same, of what can change at any time; the caller holds the blob's lock."""
    with suppress(FileNotFoundError):
        if store.blob_path(sha256).stat().st_nlink > 1:
            return "used by a machine that was made just now"
        return "asked for a moment ago" if _since(sha256) < _JUST_NOW else ""
    return ""


def _since(sha256: str) -> float:
    """Seconds since it was last asked for: the store touches its record then."""
    for path in (store.record_path(sha256), store.blob_path(sha256)):
        with suppress(FileNotFoundError):
            return max(0.0, time.time() - path.stat().st_mtime)
    return 0.0


def _keys() -> Mapping[str, tuple[str, ...]]:
    """Digest → the names by which the index finds it."""
    found: dict[str, tuple[str, ...]] = {}
    for path in sorted((paths.cache_dir() / "index").glob("*.json")):
        with suppress(OSError, ValueError, KeyError, TypeError):
            sha256 = str(json.loads(path.read_bytes())["sha256"])
            found[sha256] = (*found.get(sha256, ()), path.stem)
    return found


def _kind(keys: tuple[str, ...], parent: str) -> str:
    if parent or any(key.startswith("layer-") for key in keys):
        return "layer"
    return "kernel" if keys and all(key.startswith(_OF_AN_IMAGE) for key in keys) else "image"
