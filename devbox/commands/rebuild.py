"""Edits that only a new machine could carry out: an existing one stays what it was made as, and that is said."""

from dataclasses import replace

from devbox import ui
from devbox.box import catalogue, image
from devbox.commands import locking
from devbox.config import lock
from devbox.config.model import Project
from devbox.disk import record as records
from devbox.disk.record import Record
from devbox.errors import DevboxError
from devbox.machine import changes
from devbox.machine.changes import Box, Change, Wanted


def as_made(project: Project, record: Record | None = None, *, quiet: bool = False) -> Project:
    """The project with what its machine was made as, if it has one: architecture, account, and the disk that it has."""
    record = record or records.find(project.root, project.machine.name)
    if record is None or not record.dir.disk.exists():
        return project
    asked = of(project, record)
    if asked and not quiet:
        ui.warn(
            f"The Devboxfile now asks for {' and '.join(map(words, asked))}; only a new machine can have that. "
            "`devbox up --recreate` makes one (data disks are kept), this one goes on as it is."
        )
    return kept(project, record)


def of(project: Project, record: Record) -> tuple[Change, ...]:
    """The differences that only a new machine could carry out."""
    return tuple(changes.rebuilds(Wanted(project.machine, asked_box(project)), record))


def kept(project: Project, record: Record) -> Project:
    """The project with all of it replaced that the machine cannot change any more."""
    machine = project.machine
    shell, groups = (record.shell, record.groups) if record.shell else (machine.user.shell, machine.user.groups)
    user = replace(machine.user, name=record.user, uid=record.uid, gid=record.gid, shell=shell, groups=groups)
    boxes = {**machine.boxes, record.arch: machine.boxes.get(record.arch, machine.box)}
    stays = any(change.key == "firmware" for change in of(project, record))
    made = replace(
        machine,
        arch=record.arch,
        boxes=boxes,
        user=user,
        firmware=record.firmware if stays else machine.firmware,
        disk=max(machine.disk, record.disk_size),
    )
    return replace(project, machine=made)


def asked_box(project: Project) -> Box:
    """The image that file and lock ask for now. One that nothing pins has no name to compare."""
    machine = replace(project.machine, name=records.MAIN)  # the lock knows nothing of clones
    try:
        source, pin = locking.locked_source(replace(project, machine=machine), lock.read(project.root))
    except DevboxError as trouble:
        if trouble.id != "box.unpinned":
            raise
        source, pin = catalogue.locate(machine.box, machine.arch), None
    name = f"recipe:{pin.inputs}" if pin and pin.inputs else image.identity(source)
    return Box(source.traits.label, name, source.traits.firmware)


def words(change: Change) -> str:
    """The change as a part of a sentence."""
    what = {
        "box": f"the box {change.new} (it was made from {change.old})",
        "firmware": f"the firmware {change.new} (it boots by {change.old})",
        "arch": f"the architecture {change.new} (it is {change.old})",
        "user": f"the account {change.new} (it has {change.old})",
        "disk": f"a disk of {change.new} (it has {change.old}, and a disk cannot shrink)",
        "user.shell": f"the login shell {change.new} (it has {change.old})",
        "user.groups": f"the account in the groups {change.new} (it is in {change.old})",
    }
    return what[change.key]
