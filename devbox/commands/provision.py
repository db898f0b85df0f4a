"""`devbox provision`: the steps again, on the machine that runs; says what they would do, or does it."""

from pathlib import Path
from typing import Annotated

import typer

from devbox import paths
from devbox.commands import approval, beside, rebuild, session, steps, target
from devbox.commands.beside import MachineOption
from devbox.config import build
from devbox.disk import record as records
from devbox.guest import openssh
from devbox.machine import started

CONNECT_TIMEOUT = 60.0  # seconds
SLOWEST = 10.0  # time limits for a machine that is emulated: here nothing tells whether it is


def provision(
    check: Annotated[bool, typer.Option("--check", help="Only say what would change.")] = False,
    diff: Annotated[bool, typer.Option("--diff", help="Show changed files line by line.")] = False,
    only: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only this step; repeatable.")] = None,
    start_from: Annotated[str, typer.Option("--from", metavar="NAME", help="Begin at this step.")] = "",
    skip: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Not this step; repeatable.")] = None,
    tag: Annotated[list[str] | None, typer.Option(metavar="TAG", help="Only steps with this tag; repeatable.")] = None,
    force: Annotated[list[str] | None, typer.Option(metavar="NAME", help="This step even if unchanged.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Tell what happens as JSON lines.")] = False,
    approve: Annotated[str, typer.Option(metavar="HASH|all", help="Approve what the Devboxfile asks for.")] = "",
    machine: MachineOption = records.MAIN,
) -> None:
    """Carry out the steps that the machine still needs."""
    from devbox.provision.apply import Options

    declared = beside.of(build.load(paths.find_project(Path.cwd())), machine)
    project = rebuild.as_made(declared, target.existing(machine))
    approval.require(project, approve)
    options = Options(
        check=check,
        diff=diff,
        only=tuple(only or ()),
        start_from=start_from,
        force=tuple(force or ()),
        skip=tuple(skip or ()),
        tags=tuple(tag or ()),
        events=json,
    )
    with records.locked(target.existing(machine)):
        record, seen = target.running(machine)
        if not check:
            target.require_finished(record)  # no step may meet a guest that others have keys of
        mounts = started.load(record).mounts
        endpoint = session.endpoint(record, seen)
        door = openssh.knock(endpoint)
        from devbox.guest import connection

        with connection.connect(endpoint, CONNECT_TIMEOUT, via=door) as guest:
            if not check:
                steps.bring_folders(project, record, seen, mounts)
            steps.carry_out(guest, project, record, seen, mounts, slowdown=SLOWEST, options=options)
