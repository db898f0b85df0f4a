"""`devbox destroy`: the only verb that removes a disk, and it says which before it does."""

from typing import Annotated

import typer

from devbox import ui
from devbox.commands import asking, beside, target
from devbox.commands.beside import MachineOption
from devbox.config import preferences
from devbox.disk import data as data_disks
from devbox.disk import record as records
from devbox.disk import trash
from devbox.errors import DevboxError, ExitCode
from devbox.machine import lifecycle


def destroy(
    yes: Annotated[bool, typer.Option("--yes", "-y", "--force", "-f", help="Do not ask.")] = False,
    machine: MachineOption = records.MAIN,
    data: Annotated[bool, typer.Option("--data", help="Its data disks too, which are kept otherwise.")] = False,
) -> None:
    """Delete the machine and its disk; the box stays."""
    record, days = target.existing(machine), preferences.load().trash_days  # a mistake in them is told before
    named = "machine" if machine == records.MAIN else f"machine `{machine}`"
    disk = record.dir.disk
    size = ui.size(disk.stat().st_blocks * 512) if disk.exists() else "no disk yet"
    disks = data_disks.of(record.project, record.machine)
    if data and disks:
        size = f"{size}, and the data disks {', '.join(one.name for one in disks)}"
    if not yes:
        asking.require_yes(
            f"Delete the {named} of {record.project} and all that is on its disk ({size})?",
            unasked=DevboxError(
                "destroy.unconfirmed",
                f"This would delete the {named} of {record.project} ({size}), and there is no terminal to ask on.",
                hint=f"Say it with `devbox destroy --yes{beside.option(machine)}`.",
                exit_code=ExitCode.USAGE,
            ),
            unchanged="Nothing was deleted.",
        )
    with records.locked(record), ui.step(f"Destroy the {named} of {record.project}"):
        lifecycle.destroy(record)
        gone = data_disks.discard(record.project, record.machine) if data else ()
    trash.collect(days)
    ui.note(f"`devbox undo` brings it back, for {days} days; `devbox gc --trash` frees its disk now.")
    if gone:
        ui.note(f"It brings back the data disks too: {', '.join(disk.name for disk in disks)}.")
    elif disks:
        ui.note(f"Its data disks are kept for the next machine: {', '.join(disk.name for disk in disks)}.")
