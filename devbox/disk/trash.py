"""Where destroyed machines go: out of the way in one rename, deleted for good only days later."""

import shutil
import time
from pathlib import Path

from devbox import fs, paths
from devbox.disk import hint
from devbox.disk.record import Record

KEPT_DAYS = 7


def discard(record: Record) -> Path:
    """Take the machine's folder out of the way in one rename; where it lies now, until `collect`."""
    trash = fs.make_private_dir(paths.trash_dir())
    target = trash / f"{int(time.time())}-{record.id}"
    record.dir.folder.rename(target)
    fs.fsync_dir(record.dir.folder.parent)
    fs.fsync_dir(trash)
    hint.forget(record.project, record.id)
    return target


def delete(entry: Path) -> None:
    """Delete for good what `discard` put away. What cannot be deleted now, `collect` takes later."""
    shutil.rmtree(entry, ignore_errors=True)


def collect(days: float = KEPT_DAYS) -> None:
    """Delete what has been in the trash for longer than `days`."""
    try:
        entries = tuple(paths.trash_dir().iterdir())
    except FileNotFoundError:
        return
    for entry in entries:
        since, _, id = entry.name.partition("-")
        if since.isdigit() and hint.is_id(id) and time.time() - int(since) > days * 86400:
            shutil.rmtree(entry, ignore_errors=True)
