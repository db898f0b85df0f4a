"""A machine's memory as a file, so that it can be copied while the machine stands still, and mapped by its forks.

The file has no name (memfd): it is gone with the last that has it open, and no limit of a folder like /dev/shm holds
for it, beyond which a write would kill QEMU long after the start.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

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
def fresh(size: int | None) -> Iterator[RamFile | None]:
    """An empty file for `size` bytes of memory; None where none is wanted, or this computer cannot have it.

    Its path is good for the duration of the block, in which QEMU opens it.
    """
    descriptor = _make(size) if size is not None else None
    try:
        yield RamFile(Ram(_path(descriptor), shared=True), descriptor) if descriptor is not None else None
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _make(size: int) -> int | None:
    if size > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
        return None
    try:
        descriptor = os.memfd_create("devbox-memory")
    except (AttributeError, OSError):  # macOS has none
        return None
    try:
        os.ftruncate(descriptor, size)
        os.close(os.open(_path(descriptor), os.O_RDWR | os.O_CLOEXEC))  # as QEMU will; not every sandbox allows it
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _path(descriptor: int) -> Path:
    return Path(f"/proc/{os.getpid()}/fd/{descriptor}")


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
