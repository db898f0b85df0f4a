"""Where destroyed machines go: out of the way in one rename, deleted for good only days later."""

import shutil
import time
from pathlib import Path

from devbox import fs, paths
from devbox.disk import hint
from devbox.disk.record import Record


def discard(record: Record) -> Path:
    """Take the machine's folder out of the way in one rename; where it lies now, until `collect`."""
    target = take(record.dir.folder, record.id)
    hint.forget(record.project, record.id)
    return target


def take(folder: Path, id: str) -> Path:
    """Put a folder into the trash in one rename."""
    trash = fs.make_private_dir(paths.trash_dir())
    target = trash / f"{int(time.time())}-{id}"
    folder.rename(target)
    fs.fsync_dir(folder.parent)
    fs.fsync_dir(trash)
    return target


def delete(entry: Path) -> None:
    """Delete for good what `discard` put away. What cannot be deleted now, `collect` takes later."""
    shutil.rmtree(entry, ignore_errors=True)


def collect(days: float) -> None:
    """Delete what has been in the trash for longer than `days`."""
    for entry, since in entries():
        if since > days * 86400:
            remove(entry)


def entries() -> tuple[tuple[Path, float], ...]:
    """What is in the trash, each with the seconds since it came there."""
    try:
        found = sorted(paths.trash_dir().iterdir())
    except FileNotFoundError:
        return ()
    parted = [(entry, *entry.name.partition("-")) for entry in found]
    return tuple(
        (entry, max(0.0, time.time() - int(since)))
        for entry, since, _, id in parted
        if since.isdigit() and hint.is_id(id)
    )


def remove(entry: Path) -> bool:
    """Delete an entry for good, out of reach in one rename first: it is never taken back by half."""
    going = entry.with_name(f".going-{entry.name}")
    try:
        entry.rename(going)
    except OSError:  # taken back, or another devbox was quicker
        return False
    shutil.rmtree(going, ignore_errors=True)
    return True
