"""The files that a machine's disk is made of, read from the headers, top down: its own, layers, the image at the end.

They lie beside each other under the bare names that the headers give. `disk.qcow2` is a link to the uppermost one,
since QEMU opens a file again by its name when it is frozen: a name that it knows must never come to mean another file.
Light, since `status` asks for what is missing.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from devbox import fs
from devbox.box import qcow2
from devbox.paths import MachineDir

_LONGEST = 64
# By digest; of machines made before layers; and what a cut froze and did not come to name by its digest.
_NAME = re.compile(r"[0-9a-f]{64}|base\.img|disk-[0-9a-f]{16}\.qcow2")
_OWN = "disk-*.qcow2"


def active(files: MachineDir) -> Path:
    """The file that the machine writes to, by its own name."""
    try:
        return files.folder / os.readlink(files.disk)  # noqa: PTH115 - a bare name
    except OSError:
        return files.disk  # of a machine made before layers, or there is none


def new_name(files: MachineDir) -> Path:
    return files.folder / f"disk-{os.urandom(8).hex()}.qcow2"


def activate(files: MachineDir, disk: Path) -> None:
    """Let `disk.qcow2` lead to `disk`, at once and durably."""
    aside = files.folder / f".{files.disk.name}.{os.urandom(4).hex()}"
    aside.symlink_to(disk.name)
    aside.rename(files.disk)
    fs.fsync_dir(files.folder)


def sweep(files: MachineDir) -> None:
    """Drop the machine's own files that its disk is not made of: named by their digest since, or never needed.

    Nothing goes where the chain cannot be read down to an image: what is not seen then may well be needed.
    """
    below = parents(files)
    if os.path.lexists(files.disk) and not (below and below[-1].exists() and not below[-1].match(_OWN)):
        return
    used = {active(files), *below}
    for path in files.folder.glob(_OWN):
        if path not in used:
            path.unlink(missing_ok=True)
    fs.fsync_dir(files.folder)


def parents(files: MachineDir) -> tuple[Path, ...]:
    """What stands under the disk, the nearest first. One that is not there ends the chain, and is its last."""
    return tuple(_walk(active(files), files.folder))


def image(files: MachineDir, sha256: str) -> Path:
    """Where a machine holds its image: machines made before layers have it by another name."""
    return files.base if files.base.exists() else files.parent(sha256)


def missing(files: MachineDir, sha256: str) -> Path | None:
    """The file under the disk that is gone, if one is; None where there is no disk. `sha256` is the image's."""
    if not os.path.lexists(files.disk):
        return None
    if not files.disk.exists():
        return active(files)
    last = next(reversed(parents(files)), image(files, sha256))  # a disk stands on something
    return None if last.exists() else last


def _walk(path: Path, folder: Path) -> Iterator[Path]:
    for _ in range(_LONGEST):
        name = qcow2.backing(path)
        if not _NAME.fullmatch(name):
            return
        path = folder / name
        yield path
        if not path.exists():
            return
