"""What is to be done about each step: pure decisions over what the probe run told. The guest decides again for itself
whatever comes after the first step that acts, since that step may have changed what was seen.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from devbox import ui
from devbox.config.model import When
from devbox.errors import DevboxError, ExitCode
from devbox.provision.facts import Facts
from devbox.provision.journal import Journal
from devbox.provision.journal import key as journal_key
from devbox.provision.step import Change, Step, difference
from devbox.provision.wire import Answer, Probed


class Status(StrEnum):
    SAME = "same"
    CHANGED = "changed"
    FAILED = "failed"
    SKIPPED = "skipped"
    BLOCKED = "blocked"  # something that it needs failed
    NOT_REACHED = "not reached"
    WOULD_CHANGE = "would change"
    UNKNOWN = "unknown"


ACTS = frozenset({Status.WOULD_CHANGE, Status.UNKNOWN})


@dataclass(frozen=True, slots=True)
class Options:
    """`only` and `start_from` choose steps by name; `force` carries out those that are as they should be, too."""

    check: bool = False
    diff: bool = False
    only: tuple[str, ...] = ()
    start_from: str = ""
    force: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    index: int
    step: Step[Any]
    status: Status
    changes: tuple[Change, ...] = ()
    reason: str = ""
    diff: str = ""
    final: bool = False  # nothing that happens in the run can alter it


def select(steps: Sequence[Step[Any]], options: Options) -> list[int]:
    """The places of the steps that are asked for. Raises `provision.no-step` for a name that is none of theirs."""
    names = [step.name for step in steps]
    for name in (*options.only, *([options.start_from] if options.start_from else []), *options.force):
        if name not in names:
            close = difflib.get_close_matches(name, names, 1, 0.5)
            raise DevboxError(
                "provision.no-step",
                f"There is no step named `{name}`.",
                hint=f"Did you mean `{close[0]}`?" if close else f"The steps are: {', '.join(names)}",
                exit_code=ExitCode.USAGE,
            )
    if options.only:
        return [index for index, name in enumerate(names) if name in options.only]
    return list(range(names.index(options.start_from) if options.start_from else 0, len(names)))


def decide(steps: Mapping[int, Step[Any]], answer: Answer, facts: Facts, options: Options) -> tuple[Decision, ...]:
    """One decision for each selected step, in order."""
    made: dict[str, Decision] = {}
    acting = False
    for index, step in steps.items():
        seen = answer.steps.get(index, Probed())
        decision = _decide(index, step, seen, _Known(facts, answer.journal, options, made))
        # A guard that does not hold may hold once an earlier step has run.
        if acting and decision.status is Status.SKIPPED and not decision.final:
            decision = Decision(index, step, Status.UNKNOWN, reason="an earlier step may change its condition")
        acting = acting or decision.status in ACTS
        made[step.name] = decision
    return tuple(made.values())


@dataclass(frozen=True, slots=True)
class _Known:
    facts: Facts
    journal: Journal
    options: Options
    earlier: Mapping[str, Decision]


def _decide(index: int, step: Step[Any], seen: Probed, known: _Known) -> Decision:
    spec, receipt = step.spec, known.journal.receipts.get(step.key)
    forced = step.name in known.options.force
    if reason := _guard(step, known):
        return Decision(index, step, Status.SKIPPED, reason=reason, final=True)
    if not seen.met:
        return Decision(index, step, Status.SKIPPED, reason=f"`{spec.condition['test']}` does not succeed")
    if seen.reason:
        return Decision(index, step, Status.SKIPPED, reason=seen.reason)
    if spec.when is When.ONCE and receipt and not forced:
        return Decision(index, step, Status.SAME, final=True)
    desired = step.desired(known.facts)
    if seen.state is None:
        return Decision(index, step, Status.UNKNOWN, reason="it depends on what an earlier step makes")
    changes = difference(seen.state, desired)
    if changes:
        return Decision(index, step, Status.WOULD_CHANGE, changes, _why(step, known.journal), _diff(step, seen, known))
    for reason, holds in (
        ("it is forced", forced),
        ("`when: always`", spec.when is When.ALWAYS),
        ("an earlier run was cut off in it", known.journal.is_pending(step.key)),
    ):
        if holds:
            return Decision(index, step, Status.WOULD_CHANGE, reason=reason)
    return _triggered(index, step, known)


def _guard(step: Step[Any], known: _Known) -> str:
    """Why the step is left out on any account, by what can be known without looking; "" when it is not."""
    spec, facts = step.spec, known.facts
    if spec.when is When.MANUAL and step.name not in known.options.only:
        return "it is manual; ask for it by --only"
    for name, actual in (("arch", facts.arch), ("os", facts.os)):
        asked = spec.condition.get(name)
        allowed = [asked] if isinstance(asked, str) else asked
        if allowed and actual not in allowed:
            return f"it is for {' and '.join(allowed)}, and this guest is {actual or 'unknown'}"
    return ""


def _triggered(index: int, step: Step[Any], known: _Known) -> Decision:
    if not step.kind.restarts:
        return Decision(index, step, Status.SAME)
    needed = [known.earlier[name] for name in step.spec.needs if name in known.earlier]
    for status in (Status.WOULD_CHANGE, Status.UNKNOWN):
        for other in needed:
            if other.status is status:
                return Decision(index, step, status, reason=f"it needs {other.step.name}")
    for name in step.spec.needs:
        if known.journal.is_triggered(step.key, (journal_key(name),)):
            return Decision(index, step, Status.WOULD_CHANGE, reason=f"{name} has changed since")
    return Decision(index, step, Status.SAME)


def _why(step: Step[Any], journal: Journal) -> str:
    if not step.kind.action:
        return ""
    receipt = journal.receipts.get(step.key)
    if journal.is_pending(step.key):
        return "it did not finish the last time"
    if receipt is None:
        return "it has not run yet"
    return "it is not what ran the last time" if receipt.digest != step.digest(Facts()) else "its guard asks for it"


def _diff(step: Step[Any], seen: Probed, known: _Known) -> str:
    """A unified diff of text; of secret content nothing, its digests are among the changes."""
    if step.kind.content is None or not known.options.diff or step.spec.sensitive:
        return ""
    path, content = step.kind.content(step.options, known.facts)
    try:
        old, new = (seen.content or b"").decode(), content.decode()
    except UnicodeDecodeError:
        return ""
    if seen.content is None and "sha256" in dict(seen.state or ()):
        return ""  # there is an old text, but it is too large to show
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), f"{path} (in the guest)", path, lineterm="")
    return "\n".join(ui.clean(line) for line in lines)
