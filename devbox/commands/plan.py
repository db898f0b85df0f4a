"""`devbox plan`: what `devbox up` would do, and what it takes: live, a restart, a new machine, or a step."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from devbox import paths, ui
from devbox.commands import beside
from devbox.commands.beside import MachineOption
from devbox.disk import record as records
from devbox.errors import ExitCode

if TYPE_CHECKING:
    from devbox.commands.survey import Plan
    from devbox.machine.changes import Change

_CALLED = {
    "ports": "port",
    "folders": "folder",
    "disks": "data disk",
    "secrets": "secret",
    "ca_certs": "certificates",
}


def plan(
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    accel: Annotated[str, typer.Option(help="auto, kvm, hvf or tcg (emulation).")] = "auto",
    machine: MachineOption = records.MAIN,
) -> None:
    """Show what `devbox up` would change, and what that takes."""
    from devbox.commands import rebuild, steps, survey, target
    from devbox.config import build
    from devbox.machine import host

    project = beside.of(build.load(paths.find_project(Path.cwd())), machine)
    steps.check(project)
    if machine != records.MAIN:
        target.existing(machine)
    if survey.there(project):
        arch = rebuild.as_made(project, quiet=True).machine.arch
        made = survey.look(project, host.probe(arch, accel=accel))
    else:
        made = survey.creation(project)
    if json:
        ui.emit_json({"project": str(project.root), **as_json(made)})
    else:
        for line in lines(made):
            ui.emit(ui.clean(line))
    if made.changes:
        raise typer.Exit(ExitCode.DIFFERENT)


def as_json(made: "Plan") -> dict[str, Any]:
    """As JSON values. `as_of` is null where the steps were asked of the running machine itself."""
    return {
        "state": str(made.state),
        "as_of": made.as_of or None,
        "changes": [
            {
                "key": one.key,
                "class": str(one.effect),
                "old": one.old,
                "new": one.new,
                "reason": one.reason,
                "last_seconds": one.last_seconds,
            }
            for one in made.changes
        ],
        "always": list(made.always),
        "counts": counts(made),
    }


def counts(made: "Plan") -> dict[str, int]:
    """How many changes there are of each class that occurs."""
    found: dict[str, int] = {}
    for one in made.changes:
        found[str(one.effect)] = found.get(str(one.effect), 0) + 1
    return found


def lines(made: "Plan") -> list[str]:
    """The plan for people: a line for each difference, and a summary."""
    told = [line(one) for one in made.changes]
    if made.as_of and any(one.effect == "run step" for one in made.changes):
        told.append(f"The steps are as of the last run, {made.as_of}: the machine is {made.state}.")
    if not made.steps:
        told.append(f"The machine is {made.state} and no run of its steps is known, so nothing is said of them.")
    if made.always:
        told.append(f"At every `devbox up` anyway: {', '.join(made.always)}.")
    return [*told, summary(made)]


def line(one: "Change") -> str:
    """`~ memory 2GiB → 4GiB (restart)`."""
    step = one.effect == "run step"
    if step:
        mark = "+" if one.last_seconds is None and one.old is None else "~"
    else:
        mark = "+" if one.old is None else "-" if one.new is None else "~"
    name = f"step `{one.key}`" if step else _CALLED.get(one.key, one.key)
    last = f", {ui.duration(one.last_seconds)} the last time" if one.last_seconds is not None else ""
    values = _values(one)
    reason = f": {one.reason}" if one.reason else ""
    return f"{mark} {name}{' ' if values else ''}{values} ({one.effect}{last}){reason}"


def _values(one: "Change") -> str:
    if one.old is None or one.new is None:
        return one.old or one.new or ""
    if "→" in one.old + one.new:  # a port or a folder, which has an arrow of its own
        return f"{one.new}, now {one.old}"
    return f"{one.old} → {one.new}"


def summary(made: "Plan") -> str:
    if not made.changes:
        rest = "" if made.state == "running" else f" It is {made.state}; `devbox up` starts it."
        return f"Nothing to do: the machine is as the Devboxfile says.{rest}"
    found = counts(made)
    create, steps, rebuild = found.pop("create", 0), found.pop("run step", 0), found.pop("rebuild", 0)
    parts = ["a new machine"] if create else []
    parts += [f"{found[name]} {name}" for name in ("live", "restart") if name in found]
    parts += [f"{rebuild} rebuild"] if rebuild else []
    parts += [f"{steps} step{'' if steps == 1 else 's'} to run"] if steps else []
    how = "`devbox up` carries it out."
    if rebuild:
        how = "`devbox up --recreate` carries it out with a new machine" + (
            "." if len(made.changes) == rebuild else ", `devbox up` all but the rebuild."
        )
    return f"Plan: {', '.join(parts)}. {how}"
