"""From what was decided and what was seen of a run to one outcome for each step; pure but that `raise_for` raises."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from shlex import quote
from typing import Any

from devbox import ui
from devbox.config.steps import default_name
from devbox.errors import DevboxError
from devbox.provision import journal, report
from devbox.provision.facts import Facts
from devbox.provision.plan import Decision, Status
from devbox.provision.progress import Progress
from devbox.provision.report import Outcome, Report
from devbox.provision.seen import Seen
from devbox.provision.step import Step

Judge = Callable[[int, Seen], Outcome]


def judge(decisions: Sequence[Decision], known: Facts) -> Judge:
    """What makes an outcome of what was seen of the step at a place."""
    by_index = {decision.index: decision for decision in decisions}
    return lambda index, seen: report.of_run(by_index[index], seen, by_index[index].step.desired(known))


def broke_off(progress: Progress) -> bool:
    """Whether steps that come later must not be begun."""
    return not progress.done or any(seen.outcome == "failed" for seen in progress.steps.values())


def of_run(decisions: Sequence[Decision], progress: Progress, judge: Judge) -> dict[int, Outcome]:
    """Outcomes by place. After a step for which the guest asks for another round (`unknown`) there are none."""
    made: dict[int, Outcome] = {}
    began = False
    for decision in decisions:
        began = began or decision.acts
        seen = progress.steps.get(decision.index)
        if seen is not None and seen.outcome:
            made[decision.index] = judge(decision.index, seen)
            if made[decision.index].status is Status.UNKNOWN:
                return made
        elif not began or (decision.final and decision.status is Status.SKIPPED):
            made[decision.index] = report.of_decision(decision)
        else:
            made |= not_reached((decision,), made.values())
    return made


def not_reached(decisions: Iterable[Decision], before: Iterable[Outcome]) -> dict[int, Outcome]:
    """Steps that were not begun: blocked where they need one that failed."""
    failed = {outcome.name for outcome in before if outcome.status in (Status.FAILED, Status.BLOCKED)}
    made = {}
    for decision in decisions:
        spec = decision.step.spec
        blocking = next((name for name in spec.needs if name in failed), "")
        status = Status.BLOCKED if blocking else Status.NOT_REACHED
        reason = f"it needs `{blocking}`" if blocking else ""
        made[decision.index] = Outcome(spec.name, spec.kind, status, reason=reason)
        if blocking:
            failed.add(spec.name)
    return made


def raise_for(made: Report, progress: Progress, steps: Mapping[int, Step[Any]]) -> None:
    """Raises `provision.failed` with all that helps to mend the step, or `provision.killed`."""
    for index, seen in progress.steps.items():
        if seen.outcome == "failed":
            raise _failure(steps[index], seen, made)
    cut = steps.get(progress.current) if progress.current is not None else None
    where = f" in the step `{cut.name}`" if cut else ""
    raise DevboxError(
        "provision.killed",
        f"The provisioning run was killed in the machine{where} before its end.",
        hint="`devbox provision` resumes where it stood.",
        details=progress.lost,
    )


def _failure(step: Step[Any], seen: Seen, made: Report) -> DevboxError:
    spec = step.spec
    reason = next(outcome.reason for outcome in made.outcomes if outcome.name == spec.name)
    withheld = "its output is withheld, since it is sensitive"
    said = withheld if spec.sensitive else f"{_command(step)}{ui.clean(''.join(seen.tail))}"
    return DevboxError(
        "provision.failed",
        f"The step `{spec.name}` ({spec.position}) failed: {reason}.",
        hint=f"Its whole output: `devbox logs {quote(spec.name)}` ({journal.log_path(spec.name)} in the machine).\n"
        f"  Look around as it does: `devbox ssh --at {quote(spec.name)}`. `devbox provision` resumes at it.",
        details=said.rstrip(),
    )


def _command(step: Step[Any]) -> str:
    """What a command's step typed, cut to a line; a state has no command that the user wrote."""
    kind, options = step.spec.kind, step.spec.options
    return f"$ {default_name('', options).removeprefix(':')}\n" if kind in {"run", "script"} else ""
