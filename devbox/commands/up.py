"""`devbox up`: the conductor. Read `bring_up` to know how devbox works, then open the folder of the line you care for.

    Devboxfile ─ config → Project ─ box → Image ─ disk → Record, Overlay, Seed ─ share → forwards, mounts
               ─ machine → Running ─ guest → Guest ─ provision → Report

Each line's result is an argument of a later one, and each function is an idempotent *ensure*: on a running, converged
machine the same lines do nothing, and after a kill anywhere they go on from what is there. `verify` walks them too.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated

import typer

from devbox import paths, ui
from devbox.commands import beside
from devbox.commands.agreement import Asked
from devbox.commands.beside import MachineOption
from devbox.config.model import MachineSpec, Project
from devbox.disk import record as records

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
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Restart the machine where that is needed, unasked.")
    ] = False,
    recreate: Annotated[
        bool, typer.Option("--recreate", help="Make the machine anew where only that helps; data disks are kept.")
    ] = False,
    discard_memory: Annotated[
        bool, typer.Option("--discard-memory", help="Give up the memory of a suspended machine: boot its disk.")
    ] = False,
    locked: Annotated[
        bool | None, typer.Option("--locked/--no-locked", help="Refuse what Devboxfile.lock lacks; set where CI is.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Use what is on this computer, no network.")] = False,
    machine: MachineOption = records.MAIN,
    layers: Annotated[
        bool, typer.Option(help="Begin with what an earlier machine's first steps made, and keep it for the next.")
    ] = True,
) -> None:
    """Create, start and provision the machine."""
    from devbox.box import online

    ui.note(f"Project: {paths.find_project(Path.cwd())}")
    if discard_memory:
        _discard_memory(machine)
    asked = Asked(provision, approve, accel, locked=locked, layers=layers, yes=yes, recreate=recreate)
    with online.forbidden(when=offline):
        bring_up(Path.cwd(), asked, machine=machine)


def bring_up(folder: Path, asked: Asked | None = None, *, machine: str = records.MAIN) -> None:
    """The machine of the project around `folder`: there, running, reachable, and as its Devboxfile says."""
    from devbox.commands import agreement, locking, steps

    asked = asked or Asked()
    agreed = agreement.reach(folder, asked, machine)
    project, image, facts = agreed.project, agreed.image, agreed.facts
    record = records.ensure(project, image, agreement.firmware(project.machine, image))
    layers = asked.layers and asked.provision
    with records.locked(record), reach(project, record, image, facts, layers=layers) as reached:
        if asked.provision:
            there = (project, reached.record, reached.seen, reached.mounts)
            steps.carry_out(reached.guest, *there, slowdown=facts.slowdown, foreseen=agreed.foreseen)
    if asked.provision:
        locking.settle(project, None, locked=asked.locked)  # the sizes of what the steps have fetched
        steps.farewell(project, reached.seen)
    else:
        ui.note(f"The machine runs; its steps were left out: `devbox provision{beside.option(machine)}`.")


@contextmanager
def reach(
    project: Project, record: "Record", image: "Image", facts: "HostFacts", *, layers: bool = False
) -> Iterator[Reached]:
    """The machine of the record, from its disk to an answer and its folders. The caller holds its lock.

    With `layers` a new machine begins with one where one fits, and its first steps are carried out and kept.
    """
    from devbox.commands import first_boot, layering, renewal, session, steps, warm
    from devbox.disk import overlay, seed
    from devbox.machine import started

    first_boot.plan(record, project.machine, image, facts)
    start = layering.begin(project, record, image, wanted=layers)
    overlay.ensure(start.record, image, start.stack)
    seed.ensure(start.record, project.machine)
    record, vm = _virtual_machine(start.record, project.machine, facts)
    start = replace(start, record=record)  # its size and firmware may have changed since it was recorded
    with warm.birth(start, vm, facts) as birth:
        begun = monotonic()
        running = _start(record, vm, facts, birth)
        running = first_boot.finish(running, project.machine, birth.vm, facts)
        machine, seen = project.machine, running.observation
        where = session.endpoint(record, seen)
        guest = session.reach(record, where, slowdown=facts.slowdown, fresh=running.fresh)
        if running.fresh:
            started.corrected(record, seconds=monotonic() - begun)
        again, slowdown = birth.remakes, facts.slowdown
        birth.keep(layering.make(guest, project, seen, start, slowdown=slowdown, at_last=birth.at_last, again=again))
    if start.fresh:
        layering.stay_within_limit()
    mounts = started.load(record).mounts  # those of the running QEMU, which a restart may have to catch up with
    with renewal.ensure_own_identity(guest, record, machine, seen, slowdown=facts.slowdown) as guest:
        steps.bring_folders(project, record, seen, mounts)
        yield Reached(record, guest, seen, mounts)


def _discard_memory(machine: str) -> None:
    from devbox.commands import sleeping, target

    record = target.existing(machine)
    with records.locked(record):
        sleeping.shut_down_first(record, force=True)


def _virtual_machine(record: "Record", machine: MachineSpec, facts: "HostFacts") -> "tuple[Record, VmSpec]":
    """The machine as QEMU is to run it, its ports, folders and disks planned here. A suspended one wakes."""
    from devbox.commands import converge, first_boot, survey
    from devbox.disk import data, overlay
    from devbox.machine import argv, dormant, lifecycle

    seen = lifecycle.observe(record)
    if dormant.incomplete(record.dir) or seen.state is lifecycle.State.PAUSED:
        from devbox.commands import sleeping

        sleeping.go_on(record)
        seen = lifecycle.observe(record)
    forwards, mounts = survey.shares(machine, record, facts, seen, bound=True)
    disks: tuple[data.Attached, ...] = ()
    if seen.state is lifecycle.State.STOPPED:
        disks = data.ensure(record, machine.disks)
        record = converge.refit(overlay.grow(record, machine.disk), machine.firmware)
    vm = argv.spec(record, machine, forwards=forwards, mounts=mounts, disks=disks)
    return record, first_boot.applied(record, vm)


def _start(record: "Record", vm: "VmSpec", facts: "HostFacts", birth: "Birth") -> "Running":
    """The running machine, started as planned, or adopted and given what can be had live."""
    from devbox.commands import converge
    from devbox.machine import lifecycle, started

    if lifecycle.observe(record).state is not lifecycle.State.STOPPED:
        return converge.apply_live(lifecycle.ensure_running(record, vm, facts), vm)
    if facts.accelerator_reason:
        ui.warn(f"The machine is emulated, which is several times slower: {facts.accelerator_reason}")
    started.save(record, vm)
    version = ".".join(str(number) for number in facts.qemu_version[:2])
    what = f"QEMU {version} ({facts.accelerator}, {vm.cpus} CPUs, {ui.size(vm.memory)})"
    with ui.step(f"{birth.title} {what}") as step:
        running = birth.start()
        step.title = f"{birth.title} {what}"
    return running
