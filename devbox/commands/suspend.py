"""`devbox suspend`: the machine's memory goes into a file beside its disk, and its QEMU ends; nothing in it does."""

from typing import Annotated

import typer

from devbox import ui
from devbox.commands import beside, sleeping, target
from devbox.commands.beside import MachineOption
from devbox.disk import record as records
from devbox.disk.record import Record
from devbox.errors import DevboxError
from devbox.machine import dormant, lifecycle, process
from devbox.machine import suspend as suspending
from devbox.machine.lifecycle import Observation, State


def suspend(
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Take synced folders away from programs that use them.")
    ] = False,
    machine: MachineOption = records.MAIN,
) -> None:
    """Save the machine's memory and end it; it goes on later."""
    record = target.existing(machine)
    with records.locked(record):
        suspending.end_half_woken(record)
        seen = lifecycle.observe(record)
        if seen.state is State.SUSPENDED:
            ui.done("The machine is suspended already.")
            return
        with ui.step("Suspend the machine") as step:
            if seen.state is State.PAUSED and dormant.has_memory(record.dir):
                suspending.finish(record)  # an earlier `suspend` was killed after its last but one act
            else:
                save(record, seen, force=force)
            step.title += f", {ui.size(record.dir.memory.stat().st_blocks * 512)}"
    ui.note(f"It goes on with `devbox resume{beside.option(machine)}`, where it stood.")


def save(record: Record, seen: Observation, *, force: bool) -> None:
    """Suspend the running machine, which goes on after any error. Raises what `require_running` raises."""
    require_running(record, seen)
    vm = sleeping.as_it_runs(record, seen)
    sleeping.detach(record, force=force)
    try:
        suspending.suspend(record, vm)
    except BaseException:
        if lifecycle.observe(record).state is State.RUNNING:
            sleeping.attach(record)
        raise


def require_running(record: Record, seen: Observation) -> None:
    """Raises `machine.not-running`, and `machine.no-suspend` where QEMU could not read back what it saves."""
    if seen.state is not State.RUNNING or seen.pid is None:
        reason = f" ({seen.reason})" if seen.reason else ""
        raise DevboxError(
            "machine.not-running",
            f"The machine is {seen.state}{reason}.",
            hint=f"Go on with `{target.next_command(seen, record)}`.",
        )
    if "hvf" in process.arguments(seen.pid):
        raise DevboxError(
            "machine.no-suspend",
            "The memory of a machine that runs by hvf cannot be saved: devbox has not been tried with it.",
            hint="`devbox halt` shuts it down; `devbox up` starts it again.",
        )
