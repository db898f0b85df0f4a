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
from devbox.provision.journal import Journal, Receipt
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
    """`only`, `start_from` and `skip` choose steps by name, `tags` by their tags; `force` carries out those that are
    as they should be, too. `events` tells the run as JSON lines on stdout instead of in words.
    """

    check: bool = False
    diff: bool = False
    only: tuple[str, ...] = ()
    start_from: str = ""
    force: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    events: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    index: int
    step: Step[Any]
    status: Status
    changes: tuple[Change, ...] = ()
    reason: str = ""
    diff: str = ""
    final: bool = False  # nothing that happens in the run can alter it
    owed: bool = False  # it is as it should be, and only its receipt is missing

    @property
    def acts(self) -> bool:
        """Whether a run in the guest has something to do for it."""
        return self.owed or self.status in ACTS


def select(steps: Sequence[Step[Any]], options: Options) -> list[int]:
    """The places of the steps that are asked for. Raises `provision.no-step` for a name or a tag that none has."""
    names = [step.name for step in steps]
    chosen = _select(steps, names, options)
    forgotten = [name for name in options.force if names.index(name) not in chosen]
    if forgotten or not chosen:
        raise DevboxError(
            "provision.no-step",
            f"`{forgotten[0]}` is forced, but not among the chosen steps." if forgotten else "No step is left to do.",
            hint="Look at --only, --from, --skip and --tag.",
            exit_code=ExitCode.USAGE,
        )
    return chosen


def _select(steps: Sequence[Step[Any]], names: Sequence[str], options: Options) -> list[int]:
    first = [options.start_from] if options.start_from else []
    for name in (*options.only, *first, *options.force, *options.skip):
        _must_be_one_of(name, names, "step named")
    for tag in options.tags:
        _must_be_one_of(tag, sorted({tag for step in steps for tag in step.spec.tags}), "step with the tag")
    begin = names.index(options.start_from) if options.start_from else 0
    return [
        index
        for index, step in enumerate(steps)
        if index >= begin
        and (not options.only or step.name in options.only)
        and (not options.tags or set(options.tags) & set(step.spec.tags))
        and step.name not in options.skip
    ]


def is_asked_for(step: Step[Any], options: Options) -> bool:
    """Whether somebody has named the step, or one of its tags: a manual one is carried out only then."""
    return step.name in {*options.only, *options.force} or bool(set(step.spec.tags) & set(options.tags))


def _must_be_one_of(word: str, known: Sequence[str], what: str) -> None:
    if word in known:
        return
    close = difflib.get_close_matches(word, known, 1, 0.5)
    listed = f"There {'is' if len(known) == 1 else 'are'}: {', '.join(known)}." if known else "No step has one."
    raise DevboxError(
        "provision.no-step",
        f"There is no {what} `{word}`.",
        hint=f"Did you mean `{close[0]}`?" if close else listed,
        exit_code=ExitCode.USAGE,
    )


def decide(
    steps: Mapping[int, Step[Any]], answer: Answer, facts: Facts, options: Options, keys: Mapping[str, str]
) -> tuple[Decision, ...]:
    """One decision for each selected step, in order. `keys` are those of all steps, by name."""
    made: dict[str, Decision] = {}
    acting = False
    for index, step in steps.items():
        seen = answer.steps.get(index, Probed())
        decision = _decide(index, step, seen, _Known(facts, answer.journal, answer.volatile.boot, options, keys, made))
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
    boot: str  # the guest's boot id
    options: Options
    keys: Mapping[str, str]  # of all steps, by name
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
        ("`when: always`", step.kind.action and spec.when is When.ALWAYS),
        ("it has not run since this boot", _is_due_at_boot(step, receipt, known.boot)),
        ("an earlier run was cut off in it", known.journal.is_pending(step.key)),
    ):
        if holds:
            return Decision(index, step, Status.WOULD_CHANGE, reason=reason)
    return _triggered(index, step, known)


def _is_due_at_boot(step: Step[Any], receipt: Receipt | None, boot: str) -> bool:
    return step.kind.action and step.spec.when is When.BOOT and (receipt is None or receipt.boot != boot)


def _guard(step: Step[Any], known: _Known) -> str:
    """Why the step is left out on any account, by what can be known without looking; "" when it is not."""
    spec, facts = step.spec, known.facts
    if spec.when is When.MANUAL and not is_asked_for(step, known.options):
        return "it is manual; ask for it by --only or --tag"
    for name, actual in (("arch", facts.arch), ("os", facts.os)):
        asked = spec.condition.get(name)
        allowed = [asked] if isinstance(asked, str) else asked
        if allowed and actual not in allowed:
            return f"it is for {' and '.join(allowed)}, and this guest is {actual or 'unknown'}"
    return ""


def _triggered(index: int, step: Step[Any], known: _Known) -> Decision:
    owed = step.spec.when is When.ONCE and step.key not in known.journal.receipts
    if not step.restarts:
        return Decision(index, step, Status.SAME, owed=owed)
    needed = [known.earlier[name] for name in step.spec.needs if name in known.earlier]
    for status in (Status.WOULD_CHANGE, Status.UNKNOWN):
        for other in needed:
            if other.status is status:
                return Decision(index, step, status, reason=f"it needs {other.step.name}")
    for name in step.spec.needs:
        if name in known.keys and known.journal.is_triggered(step.key, (known.keys[name],)):
            return Decision(index, step, Status.WOULD_CHANGE, reason=f"{name} has changed since")
    return Decision(index, step, Status.SAME, owed=owed)


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
    if not known.options.diff or step.spec.sensitive:
        return ""
    if step.kind.content:
        path, content = step.kind.content(step.options, known.facts)
    elif seen.new is not None:
        path, content = step.kind.reads(step.options).files[0], seen.new
    else:
        return ""
    try:
        old, new = (seen.content or b"").decode(), content.decode()
    except UnicodeDecodeError:
        return ""
    if seen.content is None and "sha256" in dict(seen.state or ()):
        return ""  # there is an old text, but it is too large to show
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), f"{path} (in the guest)", path, lineterm="")
    return "\n".join(ui.clean(line) for line in lines)
