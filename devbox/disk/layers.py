"""Layers: what a machine's disk held after its first steps, kept in the store for the next machine of the same file.

A layer is a blob like an image, found by its *chain*: the digest of the image, of what went into the first boot, and
of each step up to it. It stands on the very bytes of its parent. Beside it lie the keys that its guest was born with,
by which a fork is reached until it has an identity of its own; they open nothing after that.
"""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from devbox import fs, paths, version
from devbox.box import qcow2, store
from devbox.box.store import Blob
from devbox.disk import overlay
from devbox.disk.record import Record
from devbox.errors import DevboxError

SCHEMA = 1
DEEPEST = 6  # layers above an image; deeper ones read several times slower, so they are made flat
_META = "meta.json"
_DEPTH_BOUND = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """`chain` finds it, `parent` is the sha256 of what it stands on; `seconds` is the work that it saves in all."""

    sha256: str
    chain: str
    parent: str
    image: str
    label: str
    mac: str
    steps: tuple[str, ...]
    seconds: float
    created: str
    devbox: str = version.__version__

    @property
    def folder(self) -> Path:
        return paths.layers_dir() / self.sha256

    @property
    def blob(self) -> Path:
        return store.blob_path(self.sha256)

    @property
    def age(self) -> float:
        """Seconds since it was made."""
        return (datetime.now(UTC) - datetime.fromisoformat(self.created)).total_seconds()


@dataclass(frozen=True, slots=True)
class Link:
    """One step, as the chain sees it."""

    digest: str
    key: str
    condition: Mapping[str, Any]


def root_key(record: Record, first_boot: Mapping[str, Any]) -> str:
    """The beginning of a chain: the image, the disk, and what the first boot makes of it. Of the record nothing counts
    that is this machine's own: not its host name, place, ports or keys.
    """
    disk = (record.image, record.disk_size, record.arch, record.firmware, record.user, record.uid, record.gid)
    return _digest({"schema": SCHEMA, "disk": disk, "first boot": first_boot})


def chain(root: str, links: Sequence[Link]) -> tuple[str, ...]:
    """The key of the layer after each step, in order."""
    made = []
    for link in links:
        root = _digest([root, link.digest, link.key, link.condition])
        made.append(root)
    return tuple(made)


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no place in a layer's key")


def index_key(chain: str) -> str:
    return f"layer-{chain}"


def longest(keys: Sequence[str]) -> tuple[int, Layer] | None:
    """The layer of the longest prefix that is here and whole, and how many of the keys it is."""
    for count in range(len(keys), 0, -1):
        if found := find(keys[count - 1]):
            return count, found
    return None


def find(chain: str) -> Layer | None:
    """The layer, if all that it needs is here and whole: its keys, its bytes, and what it stands on."""
    try:
        blob = store.find(index_key(chain))
        layer = read(blob.sha256) if blob else None
        if layer and layer.chain == chain and _keys(layer.folder) and stack(layer):
            return layer
    except DevboxError as spoilt:  # a damaged one is worth no more than none
        if not spoilt.id.startswith(("box.", "store.")):
            raise
    return None


def read(sha256: str) -> Layer | None:
    """What is known of a layer, whether or not its bytes are here."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        raw = json.loads((paths.layers_dir() / sha256 / _META).read_bytes())
        if raw.pop("schema") == SCHEMA:
            return Layer(**{**raw, "sha256": sha256, "steps": tuple(raw["steps"])})
    return None


def stack(layer: Layer) -> tuple[Blob, ...]:
    """The blobs from the layer down to the one above the image; empty where one of them, or the image, is gone."""
    found: list[Blob] = []
    sha256 = layer.sha256
    for _ in range(_DEPTH_BOUND):
        if sha256 == layer.image:
            return tuple(found) if store.have(sha256) else ()
        blob = store.have(sha256)
        if blob is None or not blob.parent:
            return ()
        found.append(blob)
        sha256 = blob.parent
    return ()


def publish(record: Record, made: Layer, *, again: bool = False) -> Layer | None:
    """Take the file `made.sha256` of the machine's disk into the store, with the keys that its guest was born with.

    None where that cannot be: its parent's bytes are not in the store, or the machine has an identity of its own.
    With `again` it takes the place of the one that has its key. The caller holds `claim`.
    """
    file = record.dir.parent(made.sha256)
    made = replace(made, parent=qcow2.backing(file))
    if (find(made.chain) and not again) or store.have(made.parent) is None or not _keys(record.dir.provisional):
        return None
    _put_beside(record.dir.provisional, made)
    part = store.partial(index_key(made.chain))
    part.unlink(missing_ok=True)
    overlay.hold(file, part)
    header = qcow2.inspect(part, "qcow2", parent=made.parent)
    store.publish(part, made.sha256, header, label=made.label, keys=[index_key(made.chain)])
    return made


def flat(layer: Layer, sha256: str) -> Layer:
    """The layer of other bytes that takes the place of this one, standing on its image; its keys are put beside."""
    made = replace(layer, sha256=sha256, parent=layer.image)
    _put_beside(layer.folder, made)
    return made


def claim(chain: str) -> AbstractContextManager[None]:
    """Held while this layer is made. Raises `lock.busy` at once where another devbox makes the same."""
    return store.lock(index_key(chain), wait=0)


def _put_beside(keys: Path, made: Layer) -> None:
    """The layer's folder, whole or not at all. One that is there belongs to the same bytes."""
    layers = fs.make_private_dir(paths.layers_dir())
    aside = fs.make_private_dir(layers / f".new-{secrets.token_hex(8)}")
    try:
        for file in _keys(keys):
            fs.write_atomic(aside / file.name, file.read_bytes())
        fs.write_atomic(aside / _META, json.dumps({"schema": SCHEMA, **asdict(made)}, indent=2).encode())
        if made.folder.exists() and read(made.sha256) is None:
            shutil.rmtree(made.folder)  # of another version, or half gone
        with suppress(OSError):
            aside.rename(made.folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    fs.fsync_dir(layers)


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _keys(folder: Path) -> tuple[Path, ...]:
    """The files of a provisional identity; empty where it is not whole."""
    try:
        files = tuple(sorted(path for path in folder.iterdir() if path.is_file() and path.name != _META))
    except OSError:
        return ()
    return files if {"id_ed25519", "host_ed25519"} <= {path.name for path in files} else ()


@dataclass(frozen=True, slots=True)
class Entry:
    """A layer that is here, as `devbox layers` and `devbox gc` see it. `size` is bytes on the disk, `depth` counts the
    layers from the image up to this one; `reachable`: its chain still leads to it, and not to one that replaced it.
    """

    layer: Layer
    size: int
    depth: int
    reachable: bool
    asked: float  # seconds since 1970, when it was last found
    children: tuple[str, ...]  # sha256 of the layers that stand on it


def entries() -> tuple[Entry, ...]:
    """Every layer of the store, the oldest first. Nothing is hashed."""
    found = {layer.sha256: layer for layer in _layers()}
    made = []
    for layer in found.values():
        children = tuple(one.sha256 for one in found.values() if one.parent == layer.sha256)
        made.append(
            Entry(
                layer,
                layer.blob.stat().st_blocks * 512,
                _depth(layer, found),
                store.leads_to(index_key(layer.chain)) == layer.sha256,
                _asked(layer),
                children,
            )
        )
    return tuple(sorted(made, key=lambda one: (one.layer.created, one.depth)))


def _layers() -> Iterator[Layer]:
    try:
        names = sorted(os.listdir(paths.layers_dir()))  # noqa: PTH208 - names
    except FileNotFoundError:
        return
    for name in names:
        found = read(name)
        if found and found.blob.exists():
            yield found


def _depth(layer: Layer, among: Mapping[str, Layer]) -> int:
    depth, below = 1, among.get(layer.parent)
    while below and depth < _DEPTH_BOUND:
        depth, below = depth + 1, among.get(below.parent)
    return depth


def _asked(layer: Layer) -> float:
    with suppress(OSError):
        return store.record_path(layer.sha256).stat().st_mtime
    return 0.0
