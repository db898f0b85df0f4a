"""A machine's memory as a file, so that it can be copied while the machine stands still, and mapped by its forks.

The file lies in memory (tmpfs) and has no name once QEMU has it: it is gone with the last that has it open.
"""

import os
import secrets
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

    def forget_name(self) -> None:
        """QEMU has it open: nobody else is to find it, and no crash is to leave it."""
        self.ram.path.unlink(missing_ok=True)


@contextmanager
def fresh(size: int | None, *, folder: Path = _SHARED_MEMORY) -> Iterator[RamFile | None]:
    """An empty file for `size` bytes of memory; None where none is wanted, or this computer has no room for it."""
    made = _make(size, folder) if size is not None else None
    try:
        yield made
    finally:
        if made:
            made.forget_name()
            os.close(made.descriptor)


def _make(size: int, folder: Path) -> RamFile | None:
    try:
        room = os.statvfs(folder)
        if room.f_bavail * room.f_frsize < size + _SPARE:
            return None
        path = folder / f"devbox-{os.getuid()}-{secrets.token_hex(8)}"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError:
        return None  # macOS has no such folder, a container often a small one.
    os.ftruncate(descriptor, size)
    return RamFile(Ram(path, shared=True), descriptor)


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
