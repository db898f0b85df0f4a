"""Before `up` touches a machine: what the Devboxfile asks is read, approved and locked, and the person has been asked.

Afterwards the machine is what it can be without a restart or a new disk, or it has been stopped or removed for them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from devbox import paths
from devbox.config.model import Project
from devbox.disk import record as records

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

    def ready() -> None:
        host.probe(declared.machine.arch, accel=asked.accel)
        locking.require(declared, None, locked=locked, provision=asked.provision)
        locking.find_image(declared, None, locked=locked)

    project = converging.settle(ready, steps=asked.provision)
    if project.machine.arch is not facts.guest_arch:
        facts = host.probe(project.machine.arch, accel=asked.accel)
    again = records.find(project.root, machine)
    image = locking.find_image(rebuild.as_made(declared, again, quiet=True), again, locked=locked)
    return Agreed(project, image, facts, converging.foreseen)
