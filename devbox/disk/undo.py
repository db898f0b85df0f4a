"""Destroyed machines that can come back: what lies in the trash, and the one rename that ends a `destroy`."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

from devbox import fs, paths
from devbox.disk import hint, trash
from devbox.disk import record as records
from devbox.disk.record import MAIN, Damaged, Record
from devbox.errors import DevboxError


@dataclass(frozen=True, slots=True)
class Destroyed:
    """`at` is when, in seconds since 1970."""

    folder: Path
    at: int
    record: Record

    @property
    def size(self) -> int:
        """What the trash holds of it alone, in bytes."""
        return fs.allocated(self.folder)


def destroyed() -> tuple[Destroyed, ...]:
    """The machines in the trash, the last destroyed first. One whose record cannot be read is left to `gc`."""
    found = []
    for folder, _ in trash.entries():
        at, _, id = folder.name.partition("-")
        record = records.read(folder, id)
        if record is not None and not isinstance(record, Damaged):
            found.append(Destroyed(folder, int(at), record))
    return tuple(sorted(found, key=lambda one: (one.at, one.folder.stat().st_ctime_ns), reverse=True))


def restore(one: Destroyed, root: Path, machine: str) -> Record:
    """The machine, back as the project's `machine`. Raises `undo.exists`, and `undo.gone` if the trash was emptied."""
    info = root.stat()
    back = replace(one.record, project=root.absolute(), device=info.st_dev, inode=info.st_ino, machine=machine)
    with records.making():
        if records.find(root, machine):
            raise _exists(one, root, machine)
        try:
            records.store(one.folder, back)
            one.folder.rename(back.dir.folder)
        except FileNotFoundError as gone:
            raise DevboxError("undo.gone", "The trash was emptied meanwhile, and that machine with it.") from gone
        fs.fsync_dir(back.dir.folder.parent)
        fs.fsync_dir(paths.trash_dir())
    if machine == MAIN:
        hint.write(root, back.id)
    fs.append_event(
        back.dir.log, event="undone", destroyed=time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(one.at))
    )
    return back


def _exists(one: Destroyed, root: Path, machine: str) -> DevboxError:
    other = "" if machine == MAIN else f" --machine {machine}"
    named = "a machine" if machine == MAIN else f"a machine `{machine}`"
    return DevboxError(
        "undo.exists",
        f"{root} has {named} again, and it can have only one.",
        hint=f"Bring the destroyed one back beside it: `devbox undo {one.record.id} --as NAME`. "
        f"Or give up the present one first: `devbox destroy{other}`, then `devbox undo {one.record.id}`.",
    )
