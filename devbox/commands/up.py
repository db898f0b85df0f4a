"""`devbox up`: the conductor. Read `bring_up` to know how devbox works, then open the folder of the line you care for.

    Devboxfile ─ config → Project ─ box → Image ─ disk → Record, Overlay, Seed ─ share → forwards, mounts
               ─ machine → Running ─ guest → Guest ─ provision → Report

Each line's result is an argument of a later one, and each function is an idempotent *ensure*: on a running, converged
machine the same lines do nothing, and after a kill anywhere they go on from what is there. `verify` walks them too.
"""

import time
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
    from devbox.disk.record import Record
    from devbox.guest.connection import FabricGuest
    from devbox.machine.host import HostFacts
    from devbox.machine.lifecycle import Observation, Running
    from devbox.share.folders import Mount


@dataclass(frozen=True, slots=True)
class Reached:
    """A machine that runs and answers: the connection, what QEMU tells of it, and the folders it was started with."""

    guest: "FabricGuest"
    seen: "Observation"
    mounts: "tuple[Mount, ...]"


@dataclass(frozen=True, slots=True)
class Answers:
    """What the person has said beforehand: to a restart, to a new machine, and to what the lock lacks."""

    yes: bool = False
    recreate: bool = False
    locked: bool | None = None


def up(
    provision: Annotated[bool, typer.Option(help="Run the provisioning steps.")] = True,
    approve: Annotated[
        str, typer.Option(metavar="HASH|all", help="Approve what the Devboxfile asks of this computer.")
    ] = "",
    accel: Annotated[str, typer.Option(help="auto, kvm, hvf or tcg (emulation).")] = "auto",
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Restart the machine where that is needed, unasked.")
    ] = False,
    recreate: Annotated[
        bool, typer.Option(help="Make the machine anew where only that helps; data disks are kept.")
    ] = False,
    discard_memory: Annotated[
        bool, typer.Option("--discard-memory", help="Give up the memory of a suspended machine: boot its disk.")
    ] = False,
    locked: Annotated[
        bool | None, typer.Option("--locked/--no-locked", help="Refuse what Devboxfile.lock lacks; set where CI is.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Use what is on this computer, no network.")] = False,
    machine: MachineOption = records.MAIN,
) -> None:
    """Create, start and provision the machine."""
    from devbox.box import online

    ui.note(f"Project: {paths.find_project(Path.cwd())}")
    if discard_memory:
        _discard_memory(machine)
    answers = Answers(yes=yes, recreate=recreate, locked=locked)
    with online.forbidden(when=offline):
        bring_up(Path.cwd(), provision=provision, approve=approve, accel=accel, answers=answers, machine=machine)


def bring_up(
    folder: Path,
    *,
    provision: bool = True,
    approve: str = "",
    accel: str = "auto",
    answers: Answers = Answers(),  # noqa: B008 - frozen
    machine: str = records.MAIN,
) -> None:
    """The machine of the project around `folder`: there, running, reachable, and as its Devboxfile says."""
    from devbox.commands import approval, converge, locking, rebuild, steps, target
    from devbox.config import build
    from devbox.machine import host

    declared, locked = build.load(paths.find_project(folder)), answers.locked
    made = records.find(declared.root) if machine == records.MAIN else target.existing(machine)
    as_it_is = rebuild.as_made(declared, made, quiet=True)
    approval.require(declared, approve)
    locking.require(as_it_is, made, locked=locked, provision=provision)
    steps.check(declared)
    facts = host.probe(as_it_is.machine.arch, accel=accel)
    beside.say_ports(declared, machine)
    converging = converge.Converging(beside.of(declared, machine), facts, yes=answers.yes, recreate=answers.recreate)

    def ready() -> None:
        host.probe(declared.machine.arch, accel=accel)
        locking.require(declared, None, locked=locked, provision=provision)
        locking.find_image(declared, None, locked=locked)

    project = converging.settle(ready, steps=provision)
    if project.machine.arch is not facts.guest_arch:
        facts = host.probe(project.machine.arch, accel=accel)
    again = records.find(project.root, machine)
    image = locking.find_image(rebuild.as_made(declared, again, quiet=True), again, locked=locked)
    record = records.ensure(project, image, firmware(project.machine, image))
    with records.locked(record), reach(project, record, image, facts) as reached:
        if provision:
            told, seen, mounts = converging.foreseen, reached.seen, reached.mounts
            steps.carry_out(reached.guest, project, record, seen, mounts, slowdown=facts.slowdown, foreseen=told)
    if provision:
        locking.settle(project, None, locked=locked)  # the sizes of what the steps have fetched
        steps.farewell(project, reached.seen)
    else:
        ui.note(f"The machine runs; its steps were left out: `devbox provision{beside.option(machine)}`.")


@contextmanager
def reach(
    project: Project, record: "Record", image: "Image", facts: "HostFacts", *, renew: bool = True
) -> Iterator[Reached]:
    """The machine of the record, from its disk to an answer and its folders. The caller holds its lock.

    Without `renew` it keeps the provisional identity that it may have, for layers to be made of it.
    """
    from devbox.commands import renewal, steps
    from devbox.disk import overlay, seed
    from devbox.machine import started

    overlay.ensure(record, image)
    seed.ensure(record, project.machine)
    begun = time.monotonic()
    running = _start(record, project.machine, facts)
    mounts = started.load(record).mounts  # those of the running QEMU, which a restart may have to catch up with
    machine, seen, guest = project.machine, running.observation, _connect(running, facts)
    if running.fresh:
        started.corrected(record, seconds=time.monotonic() - begun)
    if renew:
        guest = renewal.ensure_own_identity(guest, record, machine, seen, slowdown=facts.slowdown)
    with guest:
        steps.bring_folders(project, record, seen, mounts)
        yield Reached(guest, seen, mounts)


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


def _start(record: "Record", machine: MachineSpec, facts: "HostFacts") -> "Running":
    """The running machine, started as the Devboxfile says, or adopted and given what can be had live."""
    from devbox.commands import converge, survey
    from devbox.disk import data, overlay
    from devbox.machine import argv, dormant, lifecycle, started

    if dormant.incomplete(record.dir):
        from devbox.commands import sleeping

        sleeping.go_on(record)
    seen = lifecycle.observe(record)
    forwards, mounts = survey.shares(machine, record, facts, seen, bound=True)
    if seen.state is not lifecycle.State.STOPPED:
        vm = argv.spec(record, machine, forwards=forwards, mounts=mounts)
        return converge.apply_live(lifecycle.ensure_running(record, vm, facts), vm)
    if facts.accelerator_reason:
        ui.warn(f"The machine is emulated, which is several times slower: {facts.accelerator_reason}")
    disks = data.ensure(record, machine.disks)
    record = converge.refit(overlay.grow(record, machine.disk), machine.firmware)
    vm = argv.spec(record, machine, forwards=forwards, mounts=mounts, disks=disks)
    started.save(record, vm)
    version = ".".join(str(number) for number in facts.qemu_version[:2])
    with ui.step(f"Start QEMU {version} ({facts.accelerator}, {vm.cpus} CPUs, {ui.size(vm.memory)})"):
        return lifecycle.ensure_running(record, vm, facts)


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
