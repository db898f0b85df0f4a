"""A file that grows from a stream, and the digests of what is in it: hashed as it is written, never in a second pass.

Hashing runs beside reading and writing (hashlib lets go of the interpreter's lock). The threads end with the `with`
block, so that none is there when a program is started. Beside the file lies `<name>.json` with what a later run needs
to go on. Nothing here is trusted until its digest is checked.
"""

import errno
import hashlib
import json
import shutil
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from devbox import fs, ui
from devbox.config.model import Digest
from devbox.errors import DevboxError


class Partial:
    """`size` counts the bytes taken; `resumed` tells whether bytes of an earlier run are among them."""

    def __init__(self, path: Path, algorithms: tuple[str, ...] = ("sha256",)) -> None:
        self.path = path
        self.state: Mapping[str, Any] = _read_state(_state_file(path))
        self.size = 0
        self.resumed = False
        self._waiting: list[bytes] = []
        self._waiting_size = 0
        self._hashers = tuple(_Hasher(name) for name in algorithms)
        # A symbolic or second hard link here is nothing we made: writing through it would change another file.
        if path.is_symlink() or (path.exists() and path.stat().st_nlink > 1):
            path.unlink()
        self._file = path.open("r+b" if path.exists() else "w+b", buffering=0)
        path.chmod(0o600)

    def __enter__(self) -> Self:
        self.keep(None)
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(DevboxError):  # On the way out of an error; after success nothing is waiting any more.
            self._flush()
        self._file.close()
        for hasher in self._hashers:
            hasher.close()

    def keep(self, count: int | None) -> None:
        """Cut the file to its first `count` bytes (None: all there are) and hash those."""
        self._flush()
        if count is not None:
            self._file.truncate(count)
        self._file.seek(0)
        self.size = 0
        for hasher in self._hashers:
            hasher.restart()
        while chunk := self._file.read(fs.CHUNK):
            self._hash([chunk])
            self.size += len(chunk)
        self.resumed = self.size > 0

    def write(self, chunk: bytes) -> None:
        """Raises `store.full`, maybe only with a later chunk or in `digests`."""
        self._waiting.append(chunk)
        self._waiting_size += len(chunk)
        self.size += len(chunk)
        if self._waiting_size >= fs.CHUNK:
            self._flush()

    def remember(self, **state: Any) -> None:
        """Write down what a later run needs to know about the bytes that follow."""
        self.state = state
        with full_disk_told(self.path):
            fs.write_atomic(_state_file(self.path), json.dumps(state).encode())

    def digests(self) -> tuple[Digest, ...]:
        self._flush()
        return tuple(hasher.digest() for hasher in self._hashers)

    def _flush(self) -> None:
        # Many at a time, as handing over costs more than hashing a small one; never joined, as a copy costs as much.
        chunks, self._waiting, self._waiting_size = self._waiting, [], 0
        self._hash(chunks)
        with full_disk_told(self.path):
            for chunk in chunks:
                view = memoryview(chunk)
                while view:
                    view = view[self._file.write(view) :]

    def _hash(self, chunks: Sequence[bytes]) -> None:
        for hasher in self._hashers:
            hasher.update(chunks)


class _Hasher:
    """One algorithm in a thread of its own, at most a few chunks behind."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._behind: deque[Future[None]] = deque()
        self._hash = hashlib.new(name)

    def restart(self) -> None:
        self._wait(0)
        self._hash = hashlib.new(self._name)

    def update(self, chunks: Sequence[bytes]) -> None:
        self._behind.append(self._pool.submit(self._take, self._hash, chunks))
        self._wait(4)

    def digest(self) -> Digest:
        self._wait(0)
        return Digest(self._name, self._hash.hexdigest())

    def close(self) -> None:
        self._pool.shutdown()

    @staticmethod
    def _take(hash: Any, chunks: Sequence[bytes]) -> None:
        for chunk in chunks:
            hash.update(chunk)

    def _wait(self, most: int) -> None:
        while len(self._behind) > most:
            self._behind.popleft().result()


def discard(path: Path) -> None:
    """Remove a partial file and what was written down about it."""
    path.unlink(missing_ok=True)
    _state_file(path).unlink(missing_ok=True)


def is_left(path: Path) -> bool:
    """Something of a partial file is there still."""
    return path.exists() or _state_file(path).exists()


def require_space(folder: Path, needed: int) -> None:
    """Raises `store.full` before hours of work rather than after."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise full(folder, f" It needs {ui.size(needed)}, and {ui.size(free)} are free.")


@contextmanager
def full_disk_told(path: Path) -> Iterator[None]:
    """Turn "no space left" into `store.full`; what is already written stays, so that the next run goes on from it."""
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        raise full(path.parent, " What has arrived is kept, and the next run goes on from there.") from error


def full(folder: Path, more: str = "") -> DevboxError:
    return DevboxError(
        "store.full",
        f"There is not enough space for the image in {folder}.{more}",
        hint="Free what no machine uses: devbox gc. Or set DEVBOX_CACHE_DIR to a folder on a larger disk",
    )


def _state_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _read_state(path: Path) -> Mapping[str, Any]:
    with suppress(OSError, ValueError):
        state = json.loads(path.read_bytes())
        if isinstance(state, dict):
            return state
    return {}
