"""Durable writes, locks and digests: the door for everything that must survive a crash.

The pattern everywhere: make aside, fsync, rename (or link), fsync the folder.
"""

import fcntl
import json
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from devbox import redact
from devbox.errors import DevboxError

CHUNK = 1 << 20

Place = tuple[int, int]  # device and inode: which file it is, by whatever name


def fsync_dir(folder: Path) -> None:
    """Make the names in a folder durable; raises where it is no folder."""
    _fsync(folder, os.O_DIRECTORY)


def fsync_file(path: Path) -> None:
    """Make the bytes of a file durable that is not open here any more."""
    _fsync(path)


def _fsync(path: Path, flags: int = 0) -> None:
    fd = os.open(path, os.O_RDONLY | flags)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_private_dir(folder: Path) -> Path:
    """The folder, with its missing parents, readable by this user only."""
    for missing in reversed([each for each in (folder, *folder.parents) if not each.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)  # `parents=True` would give the parents the umask's mode
    return folder


def write_atomic(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace `path` by `data` so that a crash leaves either the old bytes or the new ones."""
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as aside:
            aside.write(data)
            aside.flush()
            os.fchmod(aside.fileno(), mode)
            os.fsync(aside.fileno())
        Path(name).rename(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    fsync_dir(path.parent)


def publish(aside: Path, path: Path) -> None:
    """Give the finished file `aside` its final name, durably; an existing `path` is replaced."""
    fsync_file(aside)
    aside.rename(path)
    fsync_dir(path.parent)


def sha256_file(path: Path, on_bytes: Callable[[int], None] | None = None) -> str:
    """The hexadecimal sha256 of the file; `on_bytes` hears of each chunk's length."""
    import hashlib  # noqa: PLC0415

    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            if on_bytes:
                on_bytes(len(chunk))
    return digest.hexdigest()


def walk(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """`path` and everything below it, each with what it is itself: no link is followed. What vanishes is left out."""
    try:
        info = path.lstat()
        yield path, info
        below = sorted(path.iterdir()) if stat.S_ISDIR(info.st_mode) else []
    except OSError:
        return
    for each in below:
        yield from walk(each)


def allocated(path: Path) -> int:
    """The bytes that the disk gets back when `path` and all below it go: those of files with no name elsewhere."""
    names: dict[Place, int] = {}
    sizes: dict[Place, tuple[int, int]] = {}
    for _, info in walk(path):
        place = (info.st_dev, info.st_ino)
        names[place] = names.get(place, 0) + 1
        sizes[place] = (info.st_blocks * 512, 1 if stat.S_ISDIR(info.st_mode) else info.st_nlink)
    return sum(size for place, (size, links) in sizes.items() if names[place] >= links)


def append_event(path: Path, **event: object) -> None:
    """One JSON line for people and bug reports, without secrets. Never read back, and never a reason to fail."""
    line = json.dumps({"at": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **redact.value(event)}) + "\n"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return
    try:
        os.write(fd, line.encode())
    except OSError:
        pass
    finally:
        os.close(fd)


@contextmanager
def lock(path: Path, *, wait: float, on_wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold an exclusive flock on `path` (created, never unlinked) for the duration of the block.

    Waits up to `wait` seconds; `on_wait` is called once with who holds it ("pid 41, `devbox up`, for 12 s").
    Raises `lock.busy`. The kernel frees the lock when the holder dies, so it cannot go stale.
    """
    make_private_dir(path.parent)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _acquire(fd, path, wait, on_wait)
        holder = {"pid": os.getpid(), "command": _command(), "since": time.time()}
        _write_holder(fd, json.dumps(holder).encode())
        yield
    finally:
        os.close(fd)


def _acquire(fd: int, path: Path, wait: float, on_wait: Callable[[str], None] | None) -> None:
    deadline, told = time.monotonic() + wait, False
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            who = _holder(path)
            if time.monotonic() >= deadline:
                raise DevboxError(
                    "lock.busy",
                    f"Another devbox is at work on this: {who}.",
                    hint="Wait for it to end, or end it, and try again.",
                ) from None
            if on_wait and not told:
                on_wait(who)
                told = True
            # flock has no time-out; 50 ms is below what a person notices.
            time.sleep(0.05)


def _write_holder(fd: int, text: bytes) -> None:
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, text, 0)
    except OSError:
        pass  # A full disk must not keep anyone from stopping a machine: the lock holds without its label.


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text())
        return f"process {holder['pid']} (`{holder['command']}`) for {time.time() - holder['since']:.0f} s"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _command() -> str:
    argv = Path("/proc/self/cmdline")
    words = argv.read_bytes().split(b"\0")[:-1] if argv.exists() else []
    names = [Path(word.decode(errors="replace")).name for word in words]
    start = next((i for i, name in enumerate(names) if name in {"devbox", "dbx"}), 0)
    return " ".join(names[start:])[:80] or "devbox"
