"""What came out of a provisioning: values, and the words that people read."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from devbox import ui
from devbox.config.model import StepSpec
from devbox.provision.plan import Decision, Status
from devbox.provision.seen import Seen
from devbox.provision.step import Change, Step, difference

_MARKS = {Status.WOULD_CHANGE: "~", Status.UNKNOWN: "?", Status.SKIPPED: "-", Status.SAME: "="}
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PLAIN = frozenset({"type", "mode", "owner", "group", "sha256", "state", "done"})
_ORDER = (
    (Status.SAME, "same"),
    (Status.CHANGED, "changed"),
    (Status.WOULD_CHANGE, "would change"),
    (Status.UNKNOWN, "unknown"),
    (Status.FAILED, "failed"),
    (Status.SKIPPED, "skipped"),
    (Status.BLOCKED, "blocked"),
    (Status.NOT_REACHED, "not reached"),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    name: str
    kind: str
    status: Status
    seconds: float = 0.0
    changes: tuple[Change, ...] = ()
    reason: str = ""
    diff: str = ""
    acted: bool = False  # it was in a run, so it has been told already
    digest: str = ""  # of what is asked for, secrets apart: to tell later, without the guest, whether that is another
    last: float | None = None  # seconds that it took the last time


@dataclass(frozen=True, slots=True)
class Report:
    outcomes: tuple[Outcome, ...]
    preview: bool = False
    seconds: float = 0.0  # from the first look to the last receipt
    followed: bool = False  # somebody else's run came first, and may have changed anything
    facts: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))  # the stable ones, as the guest told

    def count(self, status: Status) -> int:
        return sum(outcome.status == status for outcome in self.outcomes)

    @property
    def changed(self) -> int:
        return self.count(Status.CHANGED) + self.count(Status.WOULD_CHANGE)

    @property
    def failed(self) -> int:
        return self.count(Status.FAILED)

    @property
    def ok(self) -> bool:
        return not any(self.count(status) for status in (Status.FAILED, Status.BLOCKED, Status.NOT_REACHED))

    @property
    def summary(self) -> str:
        """`12 same, 2 changed, 0 failed, 1 skipped`."""
        always = {Status.SAME} if self.preview else {Status.SAME, Status.CHANGED, Status.FAILED}
        parts = [f"{self.count(s)} {word}" for s, word in _ORDER if s in always or self.count(s)]
        return ", ".join(parts)


def of_decision(decision: Decision, status: Status | None = None) -> Outcome:
    spec = decision.step.spec
    return Outcome(
        spec.name,
        spec.kind,
        status or decision.status,
        changes=_shown_of(spec, decision.changes),
        reason=decision.reason,
        diff=decision.diff,
    )


def of_run(decision: Decision, seen: Seen, desired: tuple[tuple[str, str], ...]) -> Outcome:
    """What the guest made of a step; its changes by the state that it found there just before."""
    spec = decision.step.spec
    known = {"same": Status.SAME, "changed": Status.CHANGED, "failed": Status.FAILED, "stale": Status.UNKNOWN}
    status = known.get(seen.outcome, Status.SKIPPED)
    changes = difference(seen.before, desired) if seen.before is not None else decision.changes
    reason = seen.reason or decision.reason
    if status is Status.FAILED:
        reason = failure(decision.step, seen, desired)
    elif status is Status.SKIPPED:
        test = spec.condition.get("test")
        reason = seen.reason or (f"`{test}` does not succeed" if test else decision.reason)
    changes = _shown_of(spec, changes)
    return Outcome(spec.name, spec.kind, status, seen.seconds, changes, reason, decision.diff, acted=True)


def _shown_of(spec: StepSpec, changes: tuple[Change, ...]) -> tuple[Change, ...]:
    """Of a sensitive step, the digests of what might be the content."""
    if not spec.sensitive:
        return changes

    def hidden(value: str | None) -> str | None:
        return value if value is None else hashlib.sha256(value.encode()).hexdigest()

    return tuple(one if one.field in _PLAIN else Change(one.field, hidden(one.old), hidden(one.new)) for one in changes)


def failure(step: Step[object], seen: Seen, desired: tuple[tuple[str, str], ...]) -> str:
    """Why a step counts as failed, in words."""
    match seen.result:
        case "here":
            return "it failed" if step.spec.sensitive else seen.reason
        case "timeout":
            return f"it was stopped after its time limit of {ui.duration(step.spec.timeout or 0)}"
        case "receipt":
            return "its receipt could not be written; is the guest's disk full?"
        case "differs" if step.kind.action:
            return "it ran, but what it `creates` is not there"
        case "differs":
            left = difference(seen.after, desired) if seen.after is not None else ()
            return "it ran, but the guest still differs: " + (
                "; ".join(map(describe, left)) or "its state is unreadable"
            )
    return f"exit status {seen.result}"


def describe(change: Change) -> str:
    """One field: old and new; content by the beginning of its digest."""
    return f"{called(change.field)}: {shown(change.old)} → {shown(change.new)}"


def called(field: str) -> str:
    """A field of a state as people know it."""
    return "content" if field == "sha256" else field


def shown(value: str | None) -> str:
    """A value of a state for people: a digest by its beginning."""
    if value is None:
        return "absent"
    return f"sha256 {value[:8]}…" if _DIGEST.fullmatch(value) else value


def detail_lines(outcome: Outcome, *, diff: bool) -> list[str]:
    """What changed, or would; of a new thing its being new says enough, and an action is not a state."""
    lines = [] if not outcome.changes or outcome.changes[0].field == "done" else list(map(describe, outcome.changes))
    return [*lines, *(outcome.diff.splitlines() if diff else [])]


def table(report: Report) -> list[str]:
    """A line for each step that something was done for or about: status, time, name."""
    shown = [one for one in report.outcomes if one.status is not Status.SAME or one.seconds >= 1]
    width = max((len(one.status) for one in shown), default=0)
    return [
        f"{one.status:<{width}}  {ui.duration(one.seconds) if one.seconds else '-':>9}  {one.name}" for one in shown
    ]


def preview_lines(report: Report, *, diff: bool) -> list[str]:
    lines = []
    for outcome in report.outcomes:
        if outcome.status is Status.SAME:
            continue
        reason = f" ({outcome.reason})" if outcome.reason else ""
        lines.append(f"{_MARKS.get(outcome.status, ' ')} {outcome.name}: {outcome.status}{reason}")
        lines += [f"    {line}" for line in detail_lines(outcome, diff=diff)]
    return [*lines, f"This is a preview, nothing was changed: {report.summary}."]
