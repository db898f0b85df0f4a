"""The machine's own disk: a qcow2 overlay on its own hold of the image and the layers. Made once, never made again.

The holds are hard links where that is possible, so that clearing the cache cannot cost a machine.
"""

import fcntl
import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from devbox import fs, proc, ui
from devbox.box import qcow2
from devbox.box.store import Blob, Image
from devbox.box.traits import Traits
from devbox.disk import chain, enlarge
from devbox.disk.record import Record, check_size, resized
from devbox.errors import DevboxError, ExitCode

_FICLONE = 0x40049409  # linux/fs.h: share the blocks of two files (btrfs, XFS)


@dataclass(frozen=True, slots=True)
class Overlay:
    path: Path
    base: Path


def ensure(record: Record, image: Image, layers: Sequence[Blob] = ()) -> Overlay:
    """The overlay of the machine, made on `layers` (the uppermost first) above `image` if there is none yet.

    Raises `disk.base-missing` when a file under an existing disk is gone, and `disk.other-image` when `image` is
    not the one that the machine was made from.
    """
    files = record.dir
    if os.path.lexists(files.disk):
        _require_base(record)
        return Overlay(files.disk, chain.image(files, record.image))
    if image.sha256 != record.image:
        raise DevboxError(
            "disk.other-image",
            f"The machine was made from sha256:{record.image[:12]}…, but the box is now sha256:{image.sha256[:12]}….",
            hint="It has no disk yet, so nothing is lost by `devbox destroy` and then `devbox up`.",
        )
    check_size(record.disk_size, image.virtual_size)
    base = files.parent(image.sha256)
    hold(image.path, base)
    for layer in layers:
        hold(layer.path, files.parent(layer.sha256))
    below = (layers[0].sha256, layers[0].format) if layers else (base.name, record.image_format)
    chain.sweep(files)  # what a crash left
    disk = chain.new_name(files)
    with _aside(files.disk) as aside:
        _create(aside, *below, record.disk_size)
        fs.publish(aside, disk)
        chain.activate(files, disk)
    return Overlay(files.disk, base)


def put_above(below: Path, disk: Path, size: int) -> None:
    """Make `disk`, an empty overlay of `size` bytes above `below` beside it."""
    with _aside(disk) as aside:
        _create(aside, below.name, "qcow2", size)
        fs.publish(aside, disk)


def held_image(record: Record) -> Image:
    """The image as a machine that has its disk holds it: the store need not have it any more.

    Raises `disk.base-missing` and `disk.base-spoilt`.
    """
    _require_base(record)
    _require_unchanged(record)
    base = chain.image(record.dir, record.image)
    header = qcow2.inspect(base, record.image_format, name=record.image_label)
    traits = Traits(
        label=record.image_label, arch=record.arch, os=record.os, lacks=frozenset(record.lacks), cpu=record.cpu
    )
    return Image(record.image, base, record.image_format, header.virtual_size, traits)


def grow(record: Record, size: int) -> Record:
    """Make the disk of a stopped machine `size` bytes large; its file system follows at the next boot.

    Raises `disk.shrink`, and `disk.grow-failed` while the machine runs.
    """
    refuse_to_shrink(record, size)
    if size == record.disk_size:
        return record
    enlarge.enlarge(record.dir.disk, size, "The disk")
    return resized(record, size)


def _require_base(record: Record) -> None:
    image = chain.image(record.dir, record.image)
    gone = chain.missing(record.dir, record.image) or (None if image.exists() else image)
    if gone:
        raise DevboxError(
            "disk.base-missing",
            f"The image under the machine's disk is gone: {gone}",
            hint=f"Put the image sha256:{_digest(gone, record)} back there, or begin anew with `devbox destroy`.",
        )


def _digest(parent: Path, record: Record) -> str:
    return record.image if parent == record.dir.base else parent.name


def refuse_to_shrink(record: Record, size: int) -> None:
    """Raises `disk.shrink` for a size below the disk's own."""
    if size < record.disk_size:
        raise DevboxError(
            "disk.shrink",
            f"The disk has {ui.size(record.disk_size)} and cannot shrink to {ui.size(size)}.",
            hint="Set `disk` back, or make the machine anew: `devbox destroy`, then `devbox up`.",
            exit_code=ExitCode.USAGE,
        )


def _require_unchanged(record: Record) -> None:
    """Nothing of ours ever writes to a base, so one that is younger than its machine is hashed again."""
    created = datetime.fromisoformat(record.created).timestamp()
    for base in chain.parents(record.dir):
        digest = _digest(base, record)
        # Records count whole seconds, rounded down. What a cut left without a digest's name cannot be proved.
        if base.stat().st_mtime < created + 1 or digest.startswith("disk-"):
            continue
        if fs.sha256_file(base) != digest:
            raise DevboxError(
                "disk.base-spoilt",
                f"The image under the machine's disk was changed, so the machine cannot be trusted any more: {base}",
                hint=f"Put the image sha256:{digest} back there, or begin anew with `devbox destroy`.",
            )
        with suppress(OSError):
            os.utime(base, (created, created))  # so that it is not hashed at every start


def _create(disk: Path, below: str, format: str, size: int) -> None:
    """An empty overlay above the file `below` beside it, which is not opened: a running QEMU may hold it."""
    words = ["create", "-q", "-u", "-f", "qcow2", "-F", format, "-b", below]
    done = proc.run([_qemu_img(), *words, disk, str(size)], timeout=120)
    if done.status != 0:
        raise DevboxError("disk.create-failed", "The machine's disk could not be made.", details=done.error_text)
    disk.chmod(0o600)


def hold(blob: Path, base: Path) -> None:
    """Make `base` the same bytes as `blob`: by a hard link, else by shared blocks, else by a copy."""
    if base.exists():
        return
    try:
        os.link(blob, base)
    except FileExistsError:
        return
    except FileNotFoundError as pruned:
        raise DevboxError(
            "disk.image-gone",
            f"The image was removed from the store just now: {blob}",
            hint="Run `devbox up` again: it is fetched anew.",
        ) from pruned
    except OSError:  # another file system, or one without hard links
        with _aside(base) as aside:
            try:
                _copy(blob, aside)
            except OSError as full:  # a write's error does not tell which disk it was
                raise OSError(full.errno, full.strerror, os.fspath(base)) from full
            info = blob.stat()
            os.utime(aside, ns=(info.st_atime_ns, info.st_mtime_ns))  # by which a later change of it shows
            aside.chmod(0o444)
            _link_durably(aside, base)
    fs.fsync_dir(base.parent)


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as reader, target.open("xb") as writer:
        if sys.platform == "linux":
            try:
                fcntl.ioctl(writer.fileno(), _FICLONE, reader.fileno())
                return
            except OSError:
                pass  # Not a file system that shares blocks.
        while chunk := reader.read(fs.CHUNK):
            if chunk.count(0) == len(chunk):
                writer.seek(len(chunk), os.SEEK_CUR)  # a hole stays a hole
            else:
                writer.write(chunk)
        writer.truncate()


def _link_durably(aside: Path, path: Path) -> None:
    """Give the finished file its name, unless somebody was faster: an existing file is never replaced."""
    fs.fsync_file(aside)
    try:
        os.link(aside, path)
    except FileExistsError:
        return
    except OSError:  # no hard links here; the caller holds the machine's lock
        aside.rename(path)
    fs.fsync_dir(path.parent)


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """A name beside `path` for making it, removed afterwards, with what a crash left of earlier ones."""
    for left in path.parent.glob(f".{path.name}.*"):
        left.unlink(missing_ok=True)
    aside = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    try:
        yield aside
    finally:
        aside.unlink(missing_ok=True)


def _qemu_img() -> Path:
    return proc.find_tool("qemu-img", hint=enlarge.QEMU_IMG_HINT)
