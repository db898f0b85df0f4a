"""Edits that only a new machine could carry out: an existing one stays what it was made as, and that is said."""

from dataclasses import replace

from devbox import ui
from devbox.box import catalogue
from devbox.config.model import Firmware, Project
from devbox.disk import record as records
from devbox.disk.record import Record


def as_made(project: Project, record: Record | None = None) -> Project:
    """The project with the architecture and the account that its machine has, if it has one."""
    record = record or records.find(project.root, project.machine.name)
    if record is None or not record.dir.disk.exists():
        return project
    if asked := _asked(project, record):
        ui.warn(
            f"The Devboxfile now asks for {' and '.join(asked)}; only a new machine can have that. "
            "`devbox destroy` and `devbox up` make one, this one goes on as it is."
        )
    machine = project.machine
    user = replace(machine.user, name=record.user, uid=record.uid, gid=record.gid)
    boxes = {**machine.boxes, record.arch: machine.boxes.get(record.arch, machine.box)}
    return replace(project, machine=replace(machine, arch=record.arch, boxes=boxes, user=user))


def _asked(project: Project, record: Record) -> list[str]:
    machine = project.machine
    label = catalogue.locate(machine.box, machine.arch).traits.label
    user = machine.user
    differences = (
        (label != record.image_label, f"the box {label} (it was made from {record.image_label})"),
        (
            machine.firmware not in {Firmware.AUTO, record.firmware},
            f"the firmware {machine.firmware} (it boots by {record.firmware})",
        ),
        (machine.arch != record.arch, f"the architecture {machine.arch} (it is {record.arch})"),
        (
            (user.name, user.uid, user.gid) != (record.user, record.uid, record.gid),
            f"the account {user.name} {user.uid}:{user.gid} (it has {record.user} {record.uid}:{record.gid})",
        ),
    )
    return [words for differs, words in differences if differs]
