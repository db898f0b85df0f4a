"""The project's side of the binding: `.devbox/id`, which names the machine, and how old a project folder is.

Hostile ground: a repository may hold anything at `.devbox`, so nothing here follows a link out of the project, and
what is read is a hint, never a proof.
"""

import os
import re
import stat
from datetime import datetime
from pathlib import Path

from devbox import fs, paths, proc
from devbox.errors import DevboxError

_ID = re.compile(r"[0-9a-f]{12}")


def is_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def read(root: Path) -> str:
    """The machine id that the project names, "" where it names none."""
    try:
        fd = os.open(root / paths.PROJECT_DIR / "id", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return ""
    try:
        text = os.read(fd, 64).decode("ascii", errors="replace").strip()
    except OSError:
        return ""
    finally:
        os.close(fd)
    return text if is_id(text) else ""


def write(root: Path, id: str) -> None:
    """Name the machine in the project. A hint only: where it cannot be written, the machine is found without it."""
    folder = root / paths.PROJECT_DIR
    try:
        folder.mkdir(exist_ok=True)
        if not stat.S_ISDIR(folder.lstat().st_mode):
            return  # A link into another place: nothing of ours goes there.
        if not os.path.lexists(folder / ".gitignore"):
            fs.write_atomic(folder / ".gitignore", b"*\n", mode=0o644)
        if read(root) != id:
            fs.write_atomic(folder / "id", f"{id}\n".encode(), mode=0o644)
    except OSError:
        return


def forget(root: Path, id: str) -> None:
    if read(root) == id:
        try:
            (root / paths.PROJECT_DIR / "id").unlink()
        except OSError:
            return


def older(folder: Path, created: str) -> bool:
    """Whether the folder was there when the record was made: a deleted folder's inode is soon handed out again."""
    born = _born(folder)
    # Records count whole seconds, rounded down. An unknown birth is taken for an early one.
    return born is None or born < datetime.fromisoformat(created).timestamp() + 1


def _born(folder: Path) -> float | None:
    known = getattr(folder.stat(), "st_birthtime", None)
    if isinstance(known, float):
        return known
    try:
        # Python reads no birth time on Linux; statx does, and so does coreutils' stat.
        asked = proc.run([proc.find_tool("stat"), "-c", "%W", "--", folder], timeout=10)
        return float(asked.text) or None
    except (DevboxError, ValueError):
        return None
