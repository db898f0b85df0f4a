"""The files under a machine's disk, read from the headers, top down: layers, the image at the end.

They lie beside the disk under the bare names that the headers give. Light, since `status` asks for what is missing.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from devbox.box import qcow2
from devbox.paths import MachineDir

_LONGEST = 64
# By digest; of machines made before layers; and what a cut froze and did not come to name by its digest.
_NAME = re.compile(r"[0-9a-f]{64}|base\.img|frozen-[0-9a-f]{16}\.qcow2")


def parents(files: MachineDir) -> tuple[Path, ...]:
    """What stands under the disk, the nearest first. One that is not there ends the chain, and is its last."""
    return tuple(_walk(files.disk, files.folder))


def image(files: MachineDir, sha256: str) -> Path:
    """Where a machine holds its image: machines made before layers have it by another name."""
    return files.base if files.base.exists() else files.parent(sha256)


def missing(files: MachineDir, sha256: str) -> Path | None:
    """The file under the disk that is gone, if one is; None where there is no disk. `sha256` is the image's."""
    if not files.disk.exists():
        return None
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
