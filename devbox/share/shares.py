"""What a machine shares with this computer: planned folders and ports, kept beside the disk for the read-only verbs.

The file is derived: every `up` that starts the machine writes it anew, and nothing decides liveness by it.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from devbox import fs
from devbox.config.model import FolderType
from devbox.share.folders import Mount
from devbox.share.ports import Forward


@dataclass(frozen=True, slots=True)
class Shares:
    mounts: tuple[Mount, ...] = ()
    forwards: tuple[Forward, ...] = ()


def save(path: Path, shares: Shares) -> None:
    fs.write_atomic(path, json.dumps(asdict(shares), indent=2, default=str).encode())


def load(path: Path) -> Shares:
    """What the machine was last started with; nothing where it was never started, or the file is not readable."""
    try:
        stored = json.loads(path.read_text())
        return Shares(
            tuple(_mount(entry) for entry in stored["mounts"]),
            tuple(Forward(**entry) for entry in stored["forwards"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return Shares()


def _mount(entry: dict[str, object]) -> Mount:
    return Mount(
        tag=str(entry["tag"]),
        host=Path(str(entry["host"])),
        guest=PurePosixPath(str(entry["guest"])),
        type=FolderType(str(entry["type"])),
        readonly=bool(entry["readonly"]),
        ignore=tuple(entry["ignore"]),  # type: ignore[arg-type]
        reason=str(entry["reason"]),
    )
