"""`devbox halt`: the stop ladder, from the power button down to the plug."""

import functools
from typing import Annotated

import typer

from devbox import ui
from devbox.commands import beside, session, sleeping, target
from devbox.commands.beside import MachineOption
from devbox.disk import record as records
from devbox.machine import dormant, lifecycle
from devbox.machine.lifecycle import State


def halt(
    force: Annotated[bool, typer.Option("--force", "-f", help="Pull the plug: unsaved data in it is lost.")] = False,
    machine: MachineOption = records.MAIN,
) -> None:
    """Shut the machine down; its disk stays."""
    record = target.existing(machine)
    with records.locked(record):
        sleeping.shut_down_first(record, force=force)
        if lifecycle.observe(record).state is State.STOPPED:
            ui.done("The machine is stopped already.")
            return
        with ui.step("Shut the machine down"):
            lifecycle.halt(record, force=force, guest_poweroff=functools.partial(session.power_off, record))
            dormant.forget(record.dir)  # of a machine that was about to be suspended
    ui.note(f"Start it again with `devbox up{beside.option(machine)}`.")
