"""The tar of an apply run as a stream of pieces: small files from memory, large ones read while they are sent.

Names are absolute paths of the guest, which unpacks it at its root. Nothing of it is ever written to this computer's
disk, since the files in memory may hold secrets.
"""

import os
import stat
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from devbox.errors import DevboxError

_PIECE = 256 << 10
# GNU tar warns of time stamps that are implausibly old, or in the guest's future.
_MTIME = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Payload:
    """`files` hold what lies in the guest's memory while the run goes on, `incoming` what lies on its disk."""

    files: Mapping[str, bytes]
    incoming: Mapping[str, Path]

    def __iter__(self) -> Iterator[bytes]:
        """The tar. Raises `provision.input` when a file cannot be read, or becomes shorter meanwhile."""
        folders = (_header(folder, 0, 0o700, tarfile.DIRTYPE) for folder in _folders(self.files))
        files = (_header(name, len(data), _mode(name)) + _full(data) for name, data in self.files.items())
        yield b"".join((*folders, *files))
        for name, path in self.incoming.items():
            yield from _stream(name, path)
        yield bytes(2 * tarfile.BLOCKSIZE)


def _folders(names: Mapping[str, bytes]) -> list[str]:
    """The steps' own folders: those of a run's folder, which is there already."""
    base = os.path.commonpath([os.path.dirname(name) for name in names]) if names else ""  # noqa: PTH120 - the guest's
    below = (name[len(base) + 1 :].split("/") for name in names)
    return sorted({f"{base}/{parts[0]}" for parts in below if len(parts) > 1})


def _mode(name: str) -> int:
    # The prelude holds no secret, and scripts of other accounts read it.
    return 0o644 if name.endswith("/prelude") else 0o600


def _header(name: str, size: int, mode: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name.lstrip("/"))
    info.size, info.mode, info.mtime, info.type = size, mode, _MTIME, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def _full(data: bytes) -> bytes:
    return data + bytes(-len(data) % tarfile.BLOCKSIZE)


def _stream(name: str, path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb", buffering=0) as file:
            info = os.fstat(file.fileno())
            size = left = info.st_size
            # Whether a file is a program is kept, all else is the step's to say.
            yield _header(name, size, 0o700 if info.st_mode & stat.S_IXUSR else 0o600)
            while left:
                piece = file.read(min(left, _PIECE))
                if not piece:
                    raise _unreadable(path, "it became shorter while it was sent")
                left -= len(piece)
                yield piece
    except OSError as error:
        raise _unreadable(path, str(error.strerror)) from error
    yield bytes(-size % tarfile.BLOCKSIZE)


def _unreadable(path: Path, why: str) -> DevboxError:
    return DevboxError("provision.input", f"{path} cannot be sent to the machine: {why}.", hint="Try again.")
