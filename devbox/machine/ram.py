"""A machine's memory as a file, so that it can be copied while the machine stands still, and mapped by its forks.

The file lies in memory (tmpfs) and loses its name as soon as QEMU has it: it is gone with the last that has it open.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the files in it are made anew and for their owner only
_SPARE = 256 << 20
_STEP = 1 << 26


@dataclass(frozen=True, slots=True)
class Ram:
    """What QEMU maps as the guest's memory. What a guest with `shared` False writes stays its own."""

    path: Path
    shared: bool


@dataclass(frozen=True, slots=True)
class RamFile:
    """Such a file, open here as long as it may be copied."""

    ram: Ram
    descriptor: int


@contextmanager
def fresh(size: int | None, *, folder: Path = _SHARED_MEMORY) -> Iterator[RamFile | None]:
    """An empty file for `size` bytes of memory; None where none is wanted, or this computer has no room for it.

    Its name is good for the duration of the block, in which QEMU opens it. One that a kill has left goes with the next.
    """
    made = _make(size, folder) if size is not None else None
    try:
        yield made
    finally:
        if made:
            made.ram.path.unlink(missing_ok=True)
            os.close(made.descriptor)


def _make(size: int, folder: Path) -> RamFile | None:
    prefix = f"devbox-{os.getuid()}-"
    try:
        _sweep(folder, prefix)
        room = os.statvfs(folder)
        if room.f_bavail * room.f_frsize < size + _SPARE:
            return None
        path = folder / f"{prefix}{os.urandom(8).hex()}"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError:
        return None  # macOS has no such folder, a container often a small one.
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # which says that somebody still needs the name
    if not path.exists():  # a sweep came between
        os.close(descriptor)
        return None
    os.ftruncate(descriptor, size)
    return RamFile(Ram(path, shared=True), descriptor)


def _sweep(folder: Path, prefix: str) -> None:
    for left in folder.glob(f"{prefix}*"):
        descriptor = os.open(left, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink(missing_ok=True)
        except BlockingIOError:
            pass  # In use.
        finally:
            os.close(descriptor)


def copy(source: int, target: int) -> int:
    """Copy what is written of one open file into another, empty one; holes stay holes. How many bytes that were."""
    size, offset, copied = os.fstat(source).st_size, 0, 0
    os.ftruncate(target, size)
    while offset < size:
        try:
            begin = os.lseek(source, offset, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but a hole up to the end
            break
        end = os.lseek(source, begin, os.SEEK_HOLE)
        os.lseek(target, begin, os.SEEK_SET)
        while begin < end:
            sent = os.sendfile(target, source, begin, min(end - begin, _STEP))
            begin, copied = begin + sent, copied + sent
        offset = end
    return copied
