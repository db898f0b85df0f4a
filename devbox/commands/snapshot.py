"""`devbox snapshot …`: the machine as it is, under a name, and back to it: disk, memory, journal and all."""

from typing import Annotated

import typer

from devbox import ui
from devbox.commands import asking, beside, sleeping, target
from devbox.commands.beside import MachineOption
from devbox.disk import record as records
from devbox.disk.record import Record
from devbox.errors import DevboxError, ExitCode
from devbox.machine import dormant, lifecycle, snapshots, stop
from devbox.machine import suspend as suspending
from devbox.machine.lifecycle import State
from devbox.machine.qmp import Qmp
from devbox.machine.snapshots import Snapshot

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Name = Annotated[str, typer.Argument(metavar="NAME", help="What the snapshot is called.")]


@app.command()
def save(
    name: Name,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Replace one of this name, and take folders from their users.")
    ] = False,
    machine: MachineOption = records.MAIN,
) -> None:
    """Keep the machine as it is now: running or stopped."""
    snapshots.check_name(name)
    record = target.existing(machine)
    with records.locked(record):
        target.require_finished(record)
        if not force and any(one.name == name for one in snapshots.entries(record)):
            raise DevboxError(
                "snapshot.exists",
                f"There is a snapshot `{name}` already.",
                hint=f"Choose another name, or replace it: `devbox snapshot save --force {name}`.",
                exit_code=ExitCode.USAGE,
            )
        suspending.end_half_woken(record)
        with ui.step(f"Save the snapshot `{name}`"):
            if lifecycle.observe(record).state in {State.STOPPED, State.SUSPENDED}:
                snapshots.take_still(record, name)
            else:
                _live(record, name, force=force)
    ui.note(f"Go back to it with `devbox snapshot restore {name}{beside.option(machine)}`.")


@app.command("list")
def list_snapshots(
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False, machine: MachineOption = records.MAIN
) -> None:
    """List the snapshots of the machine, the oldest first."""
    record = target.existing(machine)
    rows = [_row(record, one) for one in snapshots.entries(record)]
    if json:
        ui.emit_json(rows)
    elif rows:
        cells = [[str(row["name"]), str(row["at"]), str(row["state"]), ui.size(int(row["memory"]))] for row in rows]
        ui.table(cells, ("NAME", "SAVED", "STATE", "MEMORY"))
    else:
        ui.note("The machine has no snapshots. `devbox snapshot save NAME` makes one.")


@app.command()
def restore(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    machine: MachineOption = records.MAIN,
) -> None:
    """Bring the machine back to a snapshot; what it is now is lost."""
    record = target.existing(machine)
    snapshots.require_whole(_find(record, name))
    if not yes:
        _confirm(record, name)
    with records.locked(record):
        found = _find(record, name)
        snapshots.require_whole(found)
        with ui.step(f"Go back to the snapshot `{name}`"):
            stop.stop(record, force=True)
            record = snapshots.put_back(record, found)
        if lifecycle.observe(record).state is State.SUSPENDED:
            _wake(record)
        elif found.memory:
            ui.warn("Its memory is gone, so only the disk came back: `devbox up` boots it.")
        else:
            ui.note(f"The machine is stopped, as it was then: `devbox up{beside.option(machine)}`.")


@app.command()
def delete(name: Name, machine: MachineOption = records.MAIN) -> None:
    """Delete a snapshot and free its space."""
    record = target.existing(machine)
    with records.locked(record):
        found = _find(record, name)
        seen = lifecycle.observe(record)
        if seen.state in {State.NOT_ANSWERING, State.DAMAGED}:
            raise DevboxError(
                "machine.not-answering",
                f"The machine is {seen.state}: {seen.reason}.",
                hint=f"Go on with `{target.next_command(seen, record)}`.",
            )
        snapshots.delete(record, found)
        if seen.pid is None:
            snapshots.sweep(record)
        else:
            with Qmp(record.dir.qmp, timeout=60.0) as qmp:
                snapshots.sweep(record, qmp)
    ui.done(f"The snapshot `{name}` is deleted.")


def _live(record: Record, name: str, *, force: bool) -> None:
    from devbox.commands import suspend

    seen = lifecycle.observe(record)
    suspend.require_running(record, seen)
    vm = sleeping.as_it_runs(record, seen)
    sleeping.detach(record, force=force)
    try:
        suspending.pull_folders(record)
        snapshots.take_live(record, name, vm)
    finally:
        if lifecycle.observe(record).state is State.RUNNING:
            sleeping.attach(record)


def _wake(record: Record) -> None:
    try:
        sleeping.wake(record)
    except DevboxError as trouble:
        if not dormant.forget(record.dir):
            raise
        ui.warn(f"Only the disk came back. {trouble.message} `devbox up` boots it.")


def _find(record: Record, name: str) -> Snapshot:
    for one in snapshots.entries(record):
        if one.name == name:
            return one
    raise DevboxError(
        "snapshot.missing", f"The machine has no snapshot `{name}`.", hint="See which it has: `devbox snapshot list`."
    )


def _confirm(record: Record, name: str) -> None:
    asking.require_yes(
        f"Go back to `{name}`, and give up what the machine and its disk are now?",
        unasked=DevboxError(
            "snapshot.unconfirmed",
            f"This would give up what the machine of {record.project} is now, and there is no terminal to ask on.",
            hint=f"Say it with `devbox snapshot restore --yes {name}`, or keep it: `devbox snapshot save now`.",
            exit_code=ExitCode.USAGE,
        ),
    )


def _row(record: Record, one: Snapshot) -> dict[str, str | int]:
    state = snapshots.memory_file(record, one)
    size = state.stat().st_blocks * 512 if state.exists() else 0
    return {"name": one.name, "at": one.at, "state": "running" if one.memory else "stopped", "memory": size}
