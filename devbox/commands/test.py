"""`devbox test`: the checks of the Devboxfile, in the machine that runs, over one connection."""

import time
from pathlib import Path
from typing import Annotated

import typer

from devbox import paths, ui
from devbox.commands import beside, junit, rebuild, session, steps, target
from devbox.commands.beside import MachineOption
from devbox.config import build
from devbox.disk import record as records
from devbox.errors import DevboxError
from devbox.guest import openssh
from devbox.provision import checks

CONNECT_TIMEOUT = 60.0  # seconds


def test(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]…", help="Only these checks.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    report: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE", help="Write a JUnit report, for CI.")
    ] = None,
    machine: MachineOption = records.MAIN,
) -> None:
    """Run the checks of the Devboxfile in the machine."""
    declared = beside.of(build.load(paths.find_project(Path.cwd())), machine)
    project = rebuild.as_made(declared)
    asked = checks.select(project.machine.checks, names or ())
    record, seen = target.running(machine)
    junit.prepare(report)
    endpoint = session.endpoint(record, seen)
    door = openssh.knock(endpoint)
    from devbox.guest import connection

    started = time.monotonic()
    with connection.connect(endpoint, CONNECT_TIMEOUT, via=door) as guest:
        found = checks.run(guest, asked, steps.context_of(project, record, seen, slowdown=1.0))
    seconds = time.monotonic() - started
    cases = tuple(map(junit.of_check, found))
    junit.write(report, project.name, cases, seconds)
    if json:
        ui.emit_json(junit.as_json(cases, seconds))
    failed = [case for case in cases if case.failure]
    if failed:
        first = failed[0].name.replace("'", "'\\''")
        raise DevboxError(
            "test.failed",
            f"Checks: {junit.summary(cases)} ({ui.duration(seconds)}).",
            hint=f"Look around with `devbox ssh{beside.option(machine)}`, "
            f"then try again with `devbox test{beside.option(machine)} '{first}'`.",
            details=junit.failures_text(cases),
        )
    ui.done(f"Checks: {junit.summary(cases)} ({ui.duration(seconds)})")
