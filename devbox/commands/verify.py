"""`devbox verify`: does this Devboxfile make what it says, from nothing? A machine beside the project's own one is
provisioned twice, checked, and destroyed; the project's own one is neither used nor touched.
"""

import os
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from devbox import paths, ui
from devbox.commands import agreement, beside, junit, up
from devbox.commands.junit import Case
from devbox.config.model import Project, When
from devbox.disk import data
from devbox.disk import record as records
from devbox.errors import DevboxError
from devbox.guest import openssh
from devbox.machine import lifecycle

if TYPE_CHECKING:
    from devbox.box.store import Image
    from devbox.disk.record import Record
    from devbox.machine.host import HostFacts
    from devbox.provision.apply import Context, Report

MACHINE = beside.VERIFY


def verify(
    report: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE", help="Write a JUnit report, for CI.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the machine, to look into it.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    approve: Annotated[
        str, typer.Option(metavar="HASH|all", help="Approve what the Devboxfile asks of this computer.")
    ] = "",
    accel: Annotated[str, typer.Option(help="auto, kvm, hvf or tcg (emulation).")] = "auto",
    locked: Annotated[
        bool | None, typer.Option("--locked/--no-locked", help="Refuse what Devboxfile.lock lacks; set where CI is.")
    ] = None,
) -> None:
    """Prove the Devboxfile on a fresh machine, for CI."""
    from devbox.commands import approval, locking, steps
    from devbox.config import build
    from devbox.machine import host

    declared = build.load(paths.find_project(Path.cwd()))
    approval.require(declared, approve)
    locking.require(declared, None, locked=locked)
    steps.check(declared)
    junit.prepare(report)
    facts = host.probe(declared.machine.arch, accel=accel)
    image = locking.find_image(declared, None, locked=locked)
    _remove_left_over(declared.root)
    project = fresh(declared)
    started = time.monotonic()
    record = records.ensure(project, image, agreement.firmware(project.machine, image))
    with records.locked(record), _destroyed_afterwards(record, keep=keep):
        cases = _prove(project, record, image, facts)
        seconds = time.monotonic() - started
        junit.write(report, project.name, cases, seconds)
    if json:
        ui.emit_json(junit.as_json(cases, seconds))
    _tell(project, cases, seconds, keep=keep)


def fresh(declared: Project) -> Project:
    """The project as the machine beside its own is made of it: by another name, and with no port that may be taken."""
    beside.say_ports(declared, MACHINE)
    return beside.apart(declared, MACHINE)


def _remove_left_over(root: Path) -> None:
    """What an earlier verify left: it was killed, or asked to `--keep`. Raises `lock.busy` where one is at work."""
    record = records.find(root, MACHINE)
    if record is not None:
        with records.locked(record, wait=0), ui.step("Destroy the machine that an earlier verify left"):
            lifecycle.destroy(record, for_good=True)
    data.discard(root, MACHINE, for_good=True)


@contextmanager
def _destroyed_afterwards(record: "Record", *, keep: bool) -> Iterator[None]:
    try:
        yield
    finally:
        if keep:
            config = shlex.quote(os.fspath(record.dir.ssh_config))
            ui.note(f"The machine is kept. Reach it: ssh -F {config} {openssh.host_alias(record.name)}")
            ui.note(f"`devbox destroy --machine {MACHINE}` deletes it, and so does the next `devbox verify`.")
        else:
            with ui.step("Destroy the machine of this verify"):
                lifecycle.destroy(record, for_good=True)
                data.discard(record.project, MACHINE, for_good=True)


def _prove(project: Project, record: "Record", image: "Image", facts: "HostFacts") -> tuple[Case, ...]:
    """Everything that was to hold. Where a part cannot be judged, since one before it failed, it counts as skipped."""
    from devbox.commands import steps

    begun = time.monotonic()
    try:
        with up.reach(project, record, image, facts) as reached:
            seen, mounts = reached.seen, reached.mounts
            steps.carry_out(reached.guest, project, record, seen, mounts, slowdown=facts.slowdown)
    except DevboxError as trouble:
        rest = (*_unknown_steps(project), *_unknown_checks(project))
        return (_failure("up", "up", trouble, time.monotonic() - begun), *rest)
    came_up = Case("up", "up", time.monotonic() - begun)
    context = steps.context_of(project, record, seen, slowdown=facts.slowdown)
    begun = time.monotonic()
    ui.note("Once more: now nothing may change.")
    try:
        # The connection of before may have ended with a restart that a step asked for.
        assert context.connect is not None
        with closing(context.connect()) as guest:
            again = steps.carry_out(guest, project, record, seen, mounts, slowdown=facts.slowdown)
    except DevboxError as trouble:
        failed = _failure("second run", "idempotent", trouble, time.monotonic() - begun)
        return (came_up, failed, *_unknown_checks(project))
    return (came_up, *unchanged(project, again), *_checked(project, context))


def unchanged(project: Project, again: "Report") -> tuple[Case, ...]:
    """The steps of the second run: one that changed something is a failure, unless it is there to run every time."""
    from devbox.provision import report
    from devbox.provision.plan import Status

    every_time = {step.name for step in project.machine.steps if step.when is When.ALWAYS}
    positions = {step.name: step.position for step in project.machine.steps}
    cases = []
    for outcome in again.outcomes:
        failure = skipped = ""
        if outcome.status is Status.SKIPPED:
            skipped = outcome.reason
        elif outcome.status is Status.CHANGED and outcome.name in every_time:
            skipped = "`when: always`: it is meant to run every time"
        elif outcome.status is not Status.SAME:
            why = "; ".join(report.detail_lines(outcome, diff=False)) or outcome.reason
            failure = f"{outcome.status} in the second run{f': {why}' if why else ''}"
        position = positions.get(outcome.name, "")
        cases.append(Case(outcome.name, "idempotent", outcome.seconds, failure, skipped, position=position))
    return tuple(cases)


def _checked(project: Project, context: "Context") -> tuple[Case, ...]:
    from devbox.provision import checks

    if not project.machine.checks:
        return ()
    begun = time.monotonic()
    try:
        assert context.connect is not None
        with closing(context.connect()) as guest:
            return tuple(map(junit.of_check, checks.run(guest, project.machine.checks, context)))
    except DevboxError as trouble:
        return (_failure("checks", "check", trouble, time.monotonic() - begun), *_unknown_checks(project))


def _failure(name: str, group: str, trouble: DevboxError, seconds: float) -> Case:
    return Case(name, group, seconds, failure=trouble.message, output=ui.clean(trouble.details))


def _unknown_steps(project: Project) -> Iterator[Case]:
    for step in project.machine.steps:
        yield Case(step.name, "idempotent", skipped="the machine did not come up", position=step.position)


def _unknown_checks(project: Project) -> Iterator[Case]:
    for check in project.machine.checks:
        yield Case(
            check.name, "check", skipped="not reached, since what comes before it failed", position=check.position
        )


def _tell(project: Project, cases: Sequence[Case], seconds: float, *, keep: bool) -> None:
    told = f"Verify: {junit.summary(cases)} ({ui.duration(seconds)})"
    if any(case.failure for case in cases):
        raise DevboxError(
            "verify.failed",
            f"{told}.",
            hint="" if keep else "`devbox verify --keep` leaves the machine, to look into it.",
            details=junit.failures_text(cases),
        )
    if not project.machine.checks:
        ui.note("The Devboxfile has no `checks:`, so only its steps were tried.")
    ui.done(told)
