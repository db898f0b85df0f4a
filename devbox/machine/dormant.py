"""Whether a machine has a saved memory that belongs to its disk, and forgetting it: before the disk moves on, always.

The memory is good once, and only with the disk as it was then. Light: `status` reads this.
"""

from pathlib import Path

from devbox import fs
from devbox.paths import MachineDir


def has_memory(folder: MachineDir) -> bool:
    return folder.memory_hardware.exists()


def forget(folder: MachineDir) -> bool:
    """The memory is of no use from now on, durably; whether there was one. Comes before `cont` and before a boot."""
    there = has_memory(folder)
    if there:
        folder.memory_hardware.unlink()
        fs.fsync_dir(folder.folder)
    clear(folder)
    return there


def clear(folder: MachineDir) -> None:
    """Remove the bytes of a memory that no longer counts, or never did."""
    if not has_memory(folder):
        folder.memory.unlink(missing_ok=True)


def unplugged(folder: MachineDir) -> Path:
    """The mark of a running machine that lacks its folder devices: it is gone with its QEMU."""
    return folder.runtime / "unplugged"


def incomplete(folder: MachineDir) -> bool:
    """Whether somebody must see to it before the machine is whole: it is suspended, or lacks its folders."""
    return has_memory(folder) or unplugged(folder).exists()
