"""`devbox undo`: takes the last `destroy` back. The machine comes out of the trash with its disk and its identity."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from devbox import paths, ui
from devbox.commands import beside
from devbox.config import preferences
from devbox.disk import data
from devbox.disk import record as records
from devbox.disk import undo as trashed
from devbox.disk.undo import Destroyed
from devbox.errors import DevboxError, ExitCode


def undo(
    which: Annotated[
        str, typer.Argument(metavar="[ID|NAME]", help="A destroyed machine other than the last, by id or name.")
    ] = "",
    listed: Annotated[bool, typer.Option("--list", "-l", help="List what can come back.")] = False,
    name: Annotated[
        str, typer.Option("--as", metavar="NAME", help="Bring it back beside the project's machine, as this one.")
    ] = "",
    json: Annotated[bool, typer.Option("--json", help="With --list: print JSON.")] = False,
) -> None:
    """Bring back the machine that was destroyed last."""
    if listed:
        _list(json=json)
        return
    if name:
        beside.check_name(name)
    root = paths.find_project(Path.cwd())
    one = chosen(root, which)
    machine = name or one.record.machine
    with ui.step(f"Bring back the machine {one.record.id}, destroyed {ui.duration(time.time() - one.at)} ago"):
        back = trashed.restore(one, root, machine)
        disks = data.restore(back)
    if disks:
        ui.note(f"With its data disks: {', '.join(disk.name for disk in disks)}.")
    ui.note(f"Start it with `devbox up{beside.option(machine)}`.")


def chosen(root: Path, which: str) -> Destroyed:
    """Raises `undo.none` and `undo.ambiguous`."""
    everything = trashed.destroyed()
    mine = [one for one in everything if records.belongs(one.record, root)]
    if not which:
        found = mine[:1]
    else:
        # By its id also one whose project's folder is gone: it was copied or moved to another file system.
        orphans = [one for one in everything if one not in mine and not one.record.project.is_dir()]
        named = [one for one in mine if one.record.machine == which][:1]
        found = named or [one for one in (*mine, *orphans) if one.record.id.startswith(which)]
    if not found:
        raise DevboxError(
            "undo.none",
            f"No destroyed machine of {root} is left{f' by the name or id `{which}`' if which else ''}.",
            hint="See what can come back: `devbox undo --list`." if everything else "Make a new one with `devbox up`.",
        )
    if len(found) > 1:
        raise DevboxError(
            "undo.ambiguous",
            f"`{which}` is the beginning of several ids: {', '.join(one.record.id for one in found)}.",
            hint="Write more of it.",
            exit_code=ExitCode.USAGE,
        )
    return found[0]


def _list(*, json: bool) -> None:
    kept = preferences.load().trash_days * 86400
    rows = [_row(one, kept) for one in trashed.destroyed()]
    if json:
        ui.emit_json(rows)
    elif not rows:
        ui.note("The trash is empty: no machine was destroyed lately.")
    else:
        shown = [
            [row["id"], row["machine"], row["destroyed"], row["kept"], ui.size(row["size"]), row["project"]]
            for row in rows
        ]
        ui.table(shown, ["ID", "MACHINE", "DESTROYED", "KEPT UNTIL", "DISK", "PROJECT"])


def _row(one: Destroyed, kept: float) -> dict[str, Any]:
    return {
        "id": one.record.id,
        "machine": one.record.machine,
        "destroyed": _time(one.at),
        "kept": _time(one.at + kept),
        "size": one.size,
        "project": str(one.record.project),
    }


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
