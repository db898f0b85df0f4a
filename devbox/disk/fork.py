"""A machine made of another one's disk: both go on above the same frozen file, each in an overlay of its own.

The fork has its own record, keys and UUID; its guest is the parent's until it has been renewed, so the parent's
identity is its provisional one. It appears in one rename. The caller holds the parent's lock.
"""

import shutil
from pathlib import Path

from devbox import fs
from devbox.disk import chain, first_boot, identity, keys, overlay
from devbox.disk import record as records
from devbox.disk.record import Record
from devbox.paths import MachineDir


def freeze(record: Record) -> Path:
    """The file that a stopped machine wrote to until now, with a new overlay above it for the machine itself.

    A kill leaves the machine as it was, or an overlay above its disk that nothing is in.
    """
    files = record.dir
    old = chain.active(files)
    if old == files.disk:  # A machine from before layers: its disk gets a name that it can keep.
        old = chain.new_name(files)
        old.hardlink_to(files.disk)
        fs.fsync_dir(files.folder)
        chain.activate(files, old)
    new = chain.new_name(files)
    overlay.put_above(old, new, record.disk_size)
    chain.activate(files, new)
    chain.sweep(files)
    return old


def make(parent: Record, name: str, frozen: Path) -> Record:
    """The machine `name` beside its parent, above the `frozen` file of the parent. Raises `clone.exists`."""
    below = (frozen, *_under(parent, frozen))

    def fill(files: MachineDir) -> None:
        for path in below:
            overlay.hold(path, files.folder / path.name)
        disk = chain.new_name(files)
        overlay.put_above(files.folder / frozen.name, disk, parent.disk_size)
        chain.activate(files, disk)
        if parent.dir.firmware_vars.exists():
            shutil.copyfile(parent.dir.firmware_vars, files.firmware_vars)
            files.firmware_vars.chmod(0o600)
            fs.fsync_file(files.firmware_vars)
        if first_boot.is_adopted(parent):
            first_boot.mark(files)
        login_line = keys.make(parent.dir.login_key)
        identity.place(files.folder, parent.dir.folder, instance=identity.own_instance(parent, login_line))

    return records.fork(parent, name, fill)


def _under(parent: Record, frozen: Path) -> tuple[Path, ...]:
    parents = chain.parents(parent.dir)
    return parents[parents.index(frozen) + 1 :]
