"""`devbox up`: the conductor. Read `bring_up` to know how devbox works, then open the folder of the line you care for.

    Devboxfile ─ config → Project ─ box → Image ─ disk → Record, Overlay, Seed ─ share → forwards, mounts
               ─ machine → Running ─ guest → Guest ─ provision → Report

Each line's result is an argument of a later one, and each function is an idempotent *ensure*: on a running, converged
machine the same lines do nothing, and after a kill anywhere they go on from what is there. `verify` walks them too.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from devbox import paths, ui
from devbox.commands import beside
from devbox.commands.beside import MachineOption
from devbox.config.model import Firmware, MachineSpec, Project
from devbox.disk import record as records
from devbox.errors import DevboxError

if TYPE_CHECKING:
    from devbox.box.store import Image
    from devbox.commands.warm import Birth
    from devbox.disk.record import Record
    from devbox.guest.connection import FabricGuest
    from devbox.machine.argv import VmSpec
    from devbox.machine.host import HostFacts
    from devbox.machine.lifecycle import Observation, Running
    from devbox.share.folders import Mount


@dataclass(frozen=True, slots=True)
class Reached:
    """A machine that runs and answers: the connection, what QEMU tells of it, and the folders it was started with."""

    record: "Record"
    guest: "FabricGuest"
    seen: "Observation"
    mounts: "tuple[Mount, ...]"


def up(
    provision: Annotated[bool, typer.Option(help="Run the provisioning steps.")] = True,
    approve: Annotated[
        str, typer.Option(metavar="HASH|all", help="Approve what the Devboxfile asks of this computer.")
    ] = "",
    accel: Annotated[str, typer.Option(help="auto, kvm, hvf or tcg (emulation).")] = "auto",
    discard_memory: Annotated[
        bool, typer.Option("--discard-memory", help="Give up the memory of a suspended machine: boot its disk.")
    ] = False,
    locked: Annotated[
        bool | None, typer.Option("--locked/--no-locked", help="Refuse what Devboxfile.lock lacks; set where CI is.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Use what is on this computer, no network.")] = False,
    machine: MachineOption = records.MAIN,
    layers: Annotated[bool, typer.Option(help="Begin with what an earlier machine's steps made, and keep it.")] = True,
) -> None:
    """Create, start and provision the machine."""
    from devbox.box import online

    ui.note(f"Project: {paths.find_project(Path.cwd())}")
    if discard_memory:
        _discard_memory(machine)
    with online.forbidden(when=offline):
        bring_up(
            Path.cwd(), provision=provision, approve=approve, accel=accel, locked=locked, machine=machine, layers=layers
        )


def bring_up(
    folder: Path,
    *,
    provision: bool = True,
    approve: str = "",
    accel: str = "auto",
    locked: bool | None = None,
    machine: str = records.MAIN,
    layers: bool = True,
) -> None:
    """The machine of the project around `folder`: there, running, reachable, and as its Devboxfile says."""
    from devbox.commands import approval, locking, rebuild, steps, target
    from devbox.config import build
    from devbox.machine import host

    declared = build.load(paths.find_project(folder))
    made = records.find(declared.root) if machine == records.MAIN else target.existing(machine)
    project = rebuild.as_made(declared, made)
    approval.require(project, approve)
    locking.require(project, made, locked=locked, provision=provision)
    steps.check(project)
    facts = host.probe(project.machine.arch, accel=accel)
    image = locking.find_image(project, made, locked=locked)
    beside.say_ports(project, machine)
    project = beside.of(project, machine)
    record = records.ensure(project, image, firmware(project.machine, image))
    with records.locked(record), reach(project, record, image, facts, layers=layers and provision) as reached:
        if provision:
            record, seen, mounts = reached.record, reached.seen, reached.mounts
            steps.carry_out(reached.guest, project, record, seen, mounts, slowdown=facts.slowdown)
    if provision:
        locking.settle(project, None, locked=locked)  # the sizes of what the steps have fetched
        steps.farewell(project, reached.seen)
    else:
        ui.note(f"The machine runs; its steps were left out: `devbox provision{beside.option(machine)}`.")


@contextmanager
def reach(
    project: Project, record: "Record", image: "Image", facts: "HostFacts", *, renew: bool = True, layers: bool = False
) -> Iterator[Reached]:
    """The machine of the record, from its disk to an answer and its folders. The caller holds its lock.

    Without `renew` it keeps the provisional identity that it may have, for layers to be made of it. With `layers` a
    new machine begins with one where one fits, and its first steps are carried out and kept.
    """
    from devbox.commands import first_boot, layering, renewal, steps, warm
    from devbox.disk import overlay, seed
    from devbox.machine import started

    first_boot.plan(record, project.machine, image, facts)
    start = layering.begin(project, record, image, wanted=layers)
    record = start.record
    overlay.ensure(record, image, start.stack)
    seed.ensure(record, project.machine)
    vm = first_boot.applied(record, _virtual_machine(project.machine, record, facts))
    with warm.birth(start, vm, facts) as birth:
        running = _start(record, project.machine, vm, facts, birth)
        running = first_boot.finish(running, project.machine, birth.vm, facts)
        machine, seen, guest = project.machine, running.observation, _connect(running, facts)
        birth.keep(layering.make(guest, project, seen, start, slowdown=facts.slowdown, at_last=birth.at_last))
    mounts = started.load(record).mounts  # those of the running QEMU, which a restart may have to catch up with
    if renew:
        guest = renewal.ensure_own_identity(guest, record, machine, seen, slowdown=facts.slowdown)
    with guest:
        steps.bring_folders(project, record, seen, mounts)
        yield Reached(record, guest, seen, mounts)


def _discard_memory(machine: str) -> None:
    from devbox.commands import sleeping, target

    record = target.existing(machine)
    with records.locked(record):
        sleeping.shut_down_first(record, force=True)


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


def _virtual_machine(machine: MachineSpec, record: "Record", facts: "HostFacts") -> "VmSpec":
    """The machine as QEMU is to run it: its ports and folders planned for this computer."""
    from devbox.machine import argv, lifecycle
    from devbox.share import folders, ports

    own = {(one.bind, one.host, one.protocol) for one in lifecycle.observe(record).forwards}
    forwards = ports.plan(machine.ports, record.id, lambda *port: port in own or ports.free(*port))
    support = folders.FolderSupport(facts.virtiofsd, facts.virtiofsd_unprivileged, facts.ninep, facts.uid)
    mounts = folders.plan(machine, record.lacks, support)
    return argv.spec(record, machine, forwards=forwards, mounts=mounts)


def _start(record: "Record", machine: MachineSpec, vm: "VmSpec", facts: "HostFacts", birth: "Birth") -> "Running":
    """The running machine; what only a restart could apply to one that runs already is said."""
    from devbox.disk import overlay
    from devbox.machine import dormant, lifecycle, started

    overlay.refuse_to_shrink(record, machine.disk)
    if dormant.incomplete(record.dir):
        from devbox.commands import sleeping

        sleeping.go_on(record)
    if lifecycle.observe(record).state is not lifecycle.State.STOPPED:
        running = lifecycle.ensure_running(record, vm, facts)
        waiting = started.differs(record, vm) + (("disk",) if machine.disk != record.disk_size else ())
        if waiting:
            ui.warn(f"The machine runs with another {', '.join(waiting)} than the Devboxfile says: `devbox reload`.")
        return running
    if facts.accelerator_reason:
        ui.warn(f"The machine is emulated, which is several times slower: {facts.accelerator_reason}")
    overlay.grow(record, machine.disk)
    started.save(record, vm)
    version = ".".join(str(number) for number in facts.qemu_version[:2])
    with ui.step(f"{birth.title} QEMU {version} ({facts.accelerator}, {vm.cpus} CPUs, {ui.size(vm.memory)})"):
        return birth.start()


def _connect(running: "Running", facts: "HostFacts") -> "FabricGuest":
    """The connection to the guest, once it answers with its pinned key."""
    from devbox.commands import session
    from devbox.guest import openssh

    record = running.record
    endpoint = session.endpoint(record, running.observation)
    door = None if running.fresh else openssh.knock(endpoint)
    # Fabric is imported only now: the guest boots or answers meanwhile, so its 0.2 s cost nothing.
    from devbox.guest import connection, ready

    if not running.fresh:
        with suppress(DevboxError):  # It may still be booting, if an earlier `up` was interrupted.
            return connection.connect(endpoint, 5.0, via=door)
    return ready.wait(
        endpoint, slowdown=facts.slowdown, serial_log=record.dir.serial_log, alive=lambda: session.ended(record)
    )
