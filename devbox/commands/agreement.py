"""Before `up` touches a machine: what the Devboxfile asks is read, approved and locked, and the person has been asked.

Afterwards the machine is what it can be without a restart or a new disk, or it has been stopped or removed for them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from devbox import paths
from devbox.config.model import Firmware, MachineSpec, Project
from devbox.disk import record as records
from devbox.errors import DevboxError

if TYPE_CHECKING:
    from devbox.box.store import Image
    from devbox.machine.host import HostFacts
    from devbox.provision.report import Report


@dataclass(frozen=True, slots=True)
class Asked:
    """What the person says beside the Devboxfile. `locked` None: as the surroundings have it (`CI`)."""

    provision: bool = True
    approve: str = ""
    accel: str = "auto"
    locked: bool | None = None
    layers: bool = True
    yes: bool = False
    recreate: bool = False


@dataclass(frozen=True, slots=True)
class Agreed:
    """`foreseen` hears what the steps will do, and tells it where that was not told yet."""

    project: Project
    image: "Image"
    facts: "HostFacts"
    foreseen: "Callable[[Report], None]"


def reach(folder: Path, asked: Asked, machine: str) -> Agreed:
    """The project as its machine can be had now, with the image it is or will be made from."""
    from devbox.commands import approval, beside, converge, locking, rebuild, steps, target
    from devbox.config import build
    from devbox.disk import unmade
    from devbox.machine import host

    declared, locked = build.load(paths.find_project(folder)), asked.locked
    made = records.find(declared.root) if machine == records.MAIN else target.existing(machine)
    as_it_is = rebuild.as_made(declared, made, quiet=True)
    approval.require(declared, asked.approve)
    locking.require(as_it_is, made, locked=locked, provision=asked.provision)
    steps.check(declared)
    facts = host.probe(as_it_is.machine.arch, accel=asked.accel)
    beside.say_ports(declared, machine)
    converging = converge.Converging(beside.of(declared, machine), facts, yes=asked.yes, recreate=asked.recreate)
    project = converging.settle(lambda: _require_possible(declared, asked), steps=asked.provision)
    if project.machine.arch is not facts.guest_arch:
        facts = host.probe(project.machine.arch, accel=asked.accel)
    again = records.find(project.root, machine)
    image = locking.find_image(rebuild.as_made(declared, again, quiet=True), again, locked=locked)
    if again:
        unmade.forget_outdated(again, project.machine, image, firmware(project.machine, image))
    return Agreed(project, image, facts, converging.foreseen)


def _require_possible(declared: Project, asked: Asked) -> None:
    """Have what a new machine needs, and find what it would fail by, before the old one goes for it."""
    from devbox.commands import locking
    from devbox.machine import host

    host.probe(declared.machine.arch, accel=asked.accel)
    locking.require(declared, None, locked=asked.locked, provision=asked.provision)
    image = locking.find_image(declared, None, locked=asked.locked)
    records.check_size(declared.machine.disk, image.virtual_size)
    firmware(declared.machine, image)


def firmware(machine: MachineSpec, image: "Image") -> Firmware:
    """BIOS where the image boots by it, since it is the quickest; what the Devboxfile names goes first."""
    can = image.traits.firmware
    if machine.firmware is Firmware.AUTO:
        return Firmware.BIOS if Firmware.BIOS in can else Firmware.UEFI
    if machine.firmware not in can:
        raise DevboxError(
            "box.firmware",
            f"{image.traits.label} does not boot by {machine.firmware}, only by {', '.join(can)}.",
            hint="Leave `firmware:` out of the Devboxfile.",
        )
    return machine.firmware
