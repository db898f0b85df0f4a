"""The stage's public function, `provision`: steps in, the guest as they say and a `Report` out.

One channel reads everything, the host decides, and one more channel carries out what differs; no difference, no
second channel.
"""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from devbox import ui
from devbox.config.model import MachineSpec, StepSpec
from devbox.errors import DevboxError, ExitCode
from devbox.provision import facts, plan, report, script, wire
from devbox.provision.bind import bind
from devbox.provision.facts import Facts
from devbox.provision.journal import Places
from devbox.provision.plan import Decision, Options, Status
from devbox.provision.progress import Progress, Seen
from devbox.provision.report import Outcome, Report
from devbox.provision.step import Step

if TYPE_CHECKING:
    from devbox.guest.connection import Guest

__all__ = ["Context", "Options", "Outcome", "Report", "Status", "provision"]

_ROUNDS = 5  # how often somebody else's run may come first


@dataclass(frozen=True, slots=True)
class Context:
    """What the host knows of the machine. `run_user` is the login account, `ports` are the forwarded ones by name."""

    project_root: Path
    project_name: str
    machine: MachineSpec
    run_user: str
    ports: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    proxies: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))  # settings.proxy_environment
    slowdown: float = 1.0
    places: Places = Places()

    @property
    def names(self) -> dict[str, Any]:
        """What templates see, beside `arch`, `os` and `vars`."""
        account = self.machine.user
        return {
            "name": self.project_name,
            "hostname": self.machine.hostname,
            "user": {"name": account.name, "uid": account.uid, "gid": account.gid, "home": account.home},
            "ports": dict(self.ports),
            "env": dict(self.machine.env),
        }

    def run(self) -> script.Run:
        return script.Run(secrets.token_hex(16), self.places, {**self.proxies, **self.machine.env})


def provision(guest: "Guest", steps: tuple[StepSpec, ...], context: Context, options: Options) -> Report:
    """Brings the guest into the state that the steps ask for, or with `options.check` says what that would do.

    Raises `step.invalid`, `provision.no-step`, `provision.probe`, `provision.no-root`, `provision.run`,
    `provision.connection-lost`, `provision.killed`, and `provision.failed` after a step that failed.
    """
    bound = bind(steps, context.project_root, context.run_user)
    chosen = {index: bound[index] for index in plan.select(bound, options)}
    for _ in range(_ROUNDS):
        answer = _look(guest, chosen, context, options)
        known = facts.from_lines(answer.stable, context.names)
        decisions = _decide(chosen, answer, known, options)
        if options.check:
            return _preview(decisions, options)
        if not any(decision.status in plan.ACTS for decision in decisions):
            return _told(Report(tuple(map(report.of_decision, decisions))))
        finished = _apply(guest, decisions, known, context, options)
        if finished is not None:
            return finished
    raise DevboxError(
        "provision.busy",
        "Another devbox provisions this machine again and again.",
        hint="Wait for it to end, or end it, and try again.",
    )


def _look(guest: "Guest", chosen: Mapping[int, Step[Any]], context: Context, options: Options) -> wire.Answer:
    """What the guest says of itself, once no other run goes on in it."""
    for _ in range(_ROUNDS):
        own = context.run()
        text = script.probe(own, chosen, diff=options.diff)
        answer = wire.probe(guest, text, own.id, user=context.run_user, slowdown=context.slowdown)
        if not answer.running:
            return answer
        if options.check:
            ui.warn("Another provisioning run goes on in this machine, so this preview may be out of date.")
            return answer
        ui.note("A provisioning run goes on in this machine: following it.")
        other = replace(own, id=answer.running)
        progress = Progress(other.id)
        with _followed(progress):
            wire.attach(guest, other, user=context.run_user, on_data=progress.feed)
    return answer


def _decide(
    chosen: Mapping[int, Step[Any]], answer: wire.Answer, known: Facts, options: Options
) -> tuple[Decision, ...]:
    problems = []
    for step in chosen.values():
        try:
            step.desired(known)
        except DevboxError as mistake:
            problems.append(f"{step.spec.position}: {step.name}: {mistake.message}")
    if problems:
        raise DevboxError("step.invalid", "\n".join(problems), exit_code=ExitCode.USAGE)
    return plan.decide(chosen, answer, known, options)


def _todo(decisions: Sequence[Decision], options: Options) -> tuple[script.Planned, ...]:
    """The first step that acts and all after it: what it does may change what was seen of those."""
    first = next((at for at, decision in enumerate(decisions) if decision.status in plan.ACTS), len(decisions))
    return tuple(
        script.Planned(decision.index, decision.step, decision.step.name in options.force)
        for decision in decisions[first:]
        if not (decision.final and decision.status is Status.SKIPPED)
    )


def _preview(decisions: Sequence[Decision], options: Options) -> Report:
    made = Report(tuple(map(report.of_decision, decisions)), preview=True)
    for line in report.preview_lines(made, diff=options.diff):
        ui.emit(ui.clean(line))
    return made


def _told(made: Report) -> Report:
    for outcome in made.outcomes:
        if outcome.status is Status.SKIPPED:
            ui.note(f"- {outcome.name}: skipped, {outcome.reason}")
    (ui.done if made.ok else ui.failed)(f"Steps: {made.summary}")
    return made


@contextmanager
def _followed(progress: Progress) -> Iterator[None]:
    """Ends a progress display however its channel ends, and says what a lost connection means."""
    try:
        yield
    except BaseException as error:
        name = progress.steps[progress.current].name if progress.current is not None else ""
        progress.close(error)
        if isinstance(error, KeyboardInterrupt) and name:
            ui.note(f"`{name}` goes on in the machine; `devbox provision` follows it.")
        if isinstance(error, DevboxError) and error.id == "guest.connection-lost":
            raise DevboxError(
                "provision.connection-lost",
                f"The connection was lost{f' in the step `{name}`' if name else ''}; the run goes on in the machine.",
                hint="Follow it to its end with `devbox provision`.",
                details=error.details,
            ) from error
        raise
    progress.finish()
    progress.close(None if progress.done or progress.busy else DevboxError("provision.killed", ""))


def _apply(
    guest: "Guest", decisions: Sequence[Decision], known: Facts, context: Context, options: Options
) -> Report | None:
    """Carries out the steps that are to do; None when another run came first."""
    own, todo = context.run(), _todo(decisions, options)
    by_index = {decision.index: decision for decision in decisions}
    keys = {decision.step.name: decision.step.key for decision in decisions}

    def finished(index: int, seen: Seen) -> None:
        decision = by_index[index]
        outcome = report.of_run(decision, seen, decision.step.desired(known))
        if outcome.status is Status.CHANGED:
            for line in report.detail_lines(outcome, diff=options.diff):
                ui.note(f"  {line}")

    progress = Progress(own.id, finished)
    with _followed(progress):
        wire.apply(guest, own, script.payload(own, todo, known, keys), user=context.run_user, on_data=progress.feed)
    if progress.busy:
        return None
    made = _told(Report(_outcomes(decisions, progress, known, {one.index for one in todo})))
    _raise_for(made, progress, by_index)
    return made


def _outcomes(decisions: Sequence[Decision], progress: Progress, known: Facts, sent: set[int]) -> tuple[Outcome, ...]:
    made: list[Outcome] = []
    failed: set[str] = set()
    for decision in decisions:
        seen = progress.steps.get(decision.index)
        if seen is not None and seen.outcome:
            outcome = report.of_run(decision, seen, decision.step.desired(known))
        elif decision.index not in sent:
            outcome = report.of_decision(decision)
        elif failed.intersection(decision.step.spec.needs):
            outcome = report.of_decision(decision, Status.BLOCKED)
        else:
            outcome = report.of_decision(decision, Status.NOT_REACHED)
        if outcome.status in (Status.FAILED, Status.BLOCKED):
            failed.add(outcome.name)
        made.append(outcome)
    return tuple(made)


def _raise_for(made: Report, progress: Progress, by_index: Mapping[int, Decision]) -> None:
    for index, seen in progress.steps.items():
        if seen.outcome != "failed":
            continue
        spec = by_index[index].step.spec
        reason = next(outcome.reason for outcome in made.outcomes if outcome.name == spec.name)
        output = "its output is withheld, since it is sensitive" if spec.sensitive else ui.clean("".join(seen.tail))
        raise DevboxError(
            "provision.failed",
            f"The step `{spec.name}` ({spec.position}) failed: {reason}.",
            hint=f"Read its whole output with `devbox logs '{spec.name}'`; `devbox provision` resumes at it.",
            details=output.rstrip(),
        )
    if not progress.done:
        raise DevboxError(
            "provision.killed",
            "The provisioning run was killed in the machine before its end.",
            hint="`devbox provision` resumes where it stood.",
            details=progress.lost,
        )
