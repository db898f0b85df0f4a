"""Images by sha256: have, find, publish, verify, list, prune.

A blob stored under a digest has that digest, or it is never used: it is hashed when it comes in, again whenever its
size, inode or time differ from the record made then, and always by `verify_all`. Blobs are read-only and never
written again; machines hard-link them. An index file says which blob a published digest or a recipe's inputs became.
"""

import json
import os
import re
import stat
import time
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from devbox import fs, paths, ui
from devbox.box import qcow2
from devbox.box.traits import Traits
from devbox.config.model import Digest
from devbox.errors import DevboxError

_WAIT = 6 * 3600.0  # seconds that one devbox waits for another that fetches the same image
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FILE = "file"  # the format of a blob that is no disk


@dataclass(frozen=True, slots=True)
class Image:
    """Verified bytes and what is known about them: the stage's result."""

    sha256: str
    path: Path
    format: str
    virtual_size: int
    traits: Traits
    source: str = field(
        default="", compare=False
    )  # names what was asked for (`image.identity`), to tell later whether that has moved


@dataclass(frozen=True, slots=True)
class Blob:
    """A stored file. `label` says what it was when it came in; `links` counts its names: more than one means in use.
    A layer stands on the blob `parent`.
    """

    sha256: str
    path: Path
    size: int
    format: str
    virtual_size: int
    label: str
    links: int
    parent: str = ""


@dataclass(frozen=True, slots=True)
class File:
    """A file as it came, before it was unpacked: what its publisher has."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class _Record:
    size: int
    inode: int
    mtime_ns: int
    format: str
    virtual_size: int
    label: str
    parent: str = ""


def folder(name: str) -> Path:
    """One of the store's folders: blobs/sha256, records, index, partial, damaged, locks."""
    return fs.make_private_dir(paths.cache_dir() / name)


def key(digest: Digest) -> str:
    return f"{digest.algorithm}-{digest.value}"


def partial(key: str) -> Path:
    """Where the file that will be known by this key is made."""
    return folder("partial") / f"{key}.part"


@contextmanager
def lock(key: str, *, wait: float = _WAIT) -> Iterator[None]:
    """One devbox at a time makes what this key stands for. Taken before a blob's own lock, never after."""
    with fs.lock(
        folder("locks") / key, wait=wait, on_wait=lambda who: ui.note(f"Waiting for {who}, which works on this image")
    ):
        yield


def blob_path(sha256: str) -> Path:
    return paths.cache_dir() / "blobs/sha256" / sha256


def find(key: str) -> Blob | None:
    """The blob that a published digest ("sha512-…") or a recipe's inputs ("recipe-…") became, if here and whole."""
    algorithm, _, value = key.partition("-")
    with suppress(OSError, ValueError, KeyError, TypeError):
        sha256 = json.loads((paths.cache_dir() / "index" / f"{key}.json").read_bytes())["sha256"]
        if _SHA256.fullmatch(sha256):
            return have(sha256)
    return have(value) if algorithm == "sha256" else None


def came_as(key: str) -> File | None:
    """The file that the blob of this key came as. None where that was not written down."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads((paths.cache_dir() / "index" / f"{key}.json").read_bytes())["came_as"]
        if _SHA256.fullmatch(found["sha256"]) and type(found["size"]) is int:
            return File(found["sha256"], found["size"])
    return None


def leads_to(key: str) -> str:
    """The sha256 that this key stands for, whether or not its blob is here; "" for none."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads((paths.cache_dir() / "index" / f"{key}.json").read_bytes())["sha256"])
    return ""


def forget(key: str) -> None:
    (paths.cache_dir() / "index" / f"{key}.json").unlink(missing_ok=True)


def have(sha256: str) -> Blob | None:
    """The blob, if it is here and is what its name says. A damaged one is set aside, with a warning."""
    path = blob_path(sha256)
    known = _known(path)
    if known is None and path.exists():
        with blob_lock(sha256):
            known = _known(path) or _rehash(path)
    if known:
        with suppress(OSError):
            os.utime(record_path(sha256))  # `prune` leaves alone what was asked for just now.
    return known


def publish_file(aside: Path, *, label: str, keys: Collection[str]) -> Blob:
    """Take a finished file into the store that is no disk: a kernel, an initrd."""
    header = qcow2.Header(_FILE, aside.stat().st_size, compressed=False)
    return publish(aside, fs.sha256_file(aside), header, label=label, keys=keys)


def publish(
    aside: Path, sha256: str, header: qcow2.Header, *, label: str, keys: Collection[str], came_as: File | None = None
) -> Blob:
    """Take the finished file `aside`, whose digest the caller has computed, into the store under that digest."""
    about = {"sha256": sha256, "label": label, **({"came_as": asdict(came_as)} if came_as else {})}
    path = folder("blobs/sha256") / sha256
    with blob_lock(sha256):
        blob = _known(path) or (_rehash(path) if path.exists() else None)
        if blob:
            aside.unlink()
        else:
            aside.chmod(0o444)
            _record(sha256, aside, header, label)
        for each in keys:
            fs.write_atomic(folder("index") / f"{each}.json", json.dumps(about).encode())
        if blob is None:
            # Last of all: an index or a record without its blob means nothing, a blob without them costs a download.
            fs.publish(aside, path)
            blob = _known(path)
    if blob is None:
        raise DevboxError(
            "store.changed", f"The image {label} changed while it was stored in {path}.", hint="Try again"
        )
    return blob


def entries() -> tuple[Blob, ...]:
    """What is here, as recorded; nothing is hashed."""
    return tuple(_entry(path) for path in _blob_files())


@dataclass(frozen=True, slots=True)
class Verdict:
    blob: Blob
    whole: bool


def verify_all() -> tuple[Verdict, ...]:
    """Hash every blob anew; what is not what its name says is set aside."""
    found = []
    for path in _blob_files():
        blob = _entry(path)
        with blob_lock(path.name):
            if path.exists():
                found.append(Verdict(blob, whole=_rehash(path) is not None))
    return tuple(found)


def _blob_files() -> list[Path]:
    return sorted(path for path in folder("blobs/sha256").iterdir() if _SHA256.fullmatch(path.name))


def _entry(path: Path) -> Blob:
    record, info = _read_record(path.name), path.stat()
    if record is None:
        return Blob(path.name, path, info.st_size, "?", 0, "", info.st_nlink)
    return _blob(path, record, info)


def _blob(path: Path, record: _Record, info: os.stat_result) -> Blob:
    return Blob(
        path.name, path, info.st_size, record.format, record.virtual_size, record.label, info.st_nlink, record.parent
    )


def _known(path: Path) -> Blob | None:
    """The blob, if nothing about its file has changed since it was hashed."""
    try:
        info = path.lstat()
    except FileNotFoundError:
        return None
    record = _read_record(path.name)
    if record is None or not stat.S_ISREG(info.st_mode):
        return None
    same = (info.st_size, info.st_ino, info.st_mtime_ns) == (record.size, record.inode, record.mtime_ns)
    return _blob(path, record, info) if same else None


def _rehash(path: Path) -> Blob | None:
    """Under the blob's lock: hash it, and write down or set aside."""
    old = _read_record(path.name)
    label = old.label if old else ""
    if not stat.S_ISREG(path.lstat().st_mode):
        _set_aside(path, label, "it is not a file")
        return None
    what = f"layer {path.name[:12]} of" if qcow2.backing(path) else "image"
    with ui.transfer(f"Checking the stored {what} {label or path.name[:12]}", path.stat().st_size) as advance:
        found = fs.sha256_file(path, advance)
    if found != path.name:
        _set_aside(path, label, f"its sha256 is {found}")
        return None
    _record(path.name, path, _judged(path, old, label), label)
    return _known(path)


def _judged(path: Path, old: _Record | None, label: str) -> qcow2.Header:
    if old and old.format == _FILE:
        return qcow2.Header(_FILE, path.stat().st_size, compressed=False)
    format = "qcow2" if qcow2.sniff(path) == "qcow2" else "raw"
    parent = old.parent if old else layer_parent(path.name)
    return qcow2.inspect(path, format, name=label, parent=parent)


def layer_parent(sha256: str) -> str:
    """What the layer of that digest was made to stand on, "" for what was never published as a layer."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads((paths.layers_dir() / sha256 / "meta.json").read_bytes())["parent"])
    return ""


def _set_aside(path: Path, label: str, why: str) -> None:
    target = folder("damaged") / f"{path.name}.{time.time_ns()}"
    path.rename(target)
    fs.fsync_dir(path.parent)
    record_path(path.name).unlink(missing_ok=True)
    ui.warn(f"The stored image {label} (sha256 {path.name}) is damaged: {why}. It is not used; moved to {target}")


def blob_lock(sha256: str) -> AbstractContextManager[None]:
    return lock(f"blob-{sha256}")


def record_path(sha256: str) -> Path:
    return paths.cache_dir() / "records" / f"{sha256}.json"


def _record(sha256: str, file: Path, header: qcow2.Header, label: str) -> None:
    info = file.stat()
    record = _Record(
        info.st_size, info.st_ino, info.st_mtime_ns, header.format, header.virtual_size, label, header.parent
    )
    fs.write_atomic(folder("records") / f"{sha256}.json", json.dumps(asdict(record)).encode())


def _read_record(sha256: str) -> _Record | None:
    with suppress(OSError, ValueError, TypeError):
        return _Record(**json.loads(record_path(sha256).read_bytes()))
    return None
