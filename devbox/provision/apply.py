"""The stage's public function, `provision`: steps in, the guest as they say and a `Report` out.

One channel reads everything, the host decides, and one more channel carries out what differs; no difference, no
second channel. A step that this computer carries out (`reboot`, `ansible`, `python`) parts the run in two.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from devbox import ui
from devbox.config.model import StepSpec
from devbox.errors import DevboxError, ExitCode
from devbox.provision import events, facts, host_step, outcomes, plan, report, script, wire
from devbox.provision.bind import bind
from devbox.provision.context import Context
from devbox.provision.display import Display
from devbox.provision.events import Events
from devbox.provision.facts import Facts
from devbox.provision.plan import Decision, Options, Status
from devbox.provision.progress import Listener, Progress
from devbox.provision.report import Outcome, Report
from devbox.provision.secrets import revealed
from devbox.provision.step import Step

if TYPE_CHECKING:
    from devbox.guest.connection import Guest

__all__ = ["Context", "Options", "Outcome", "Report", "Status", "provision"]

_ROUNDS = 5  # how often somebody else's run may come first


def provision(guest: "Guest", steps: tuple[StepSpec, ...], context: Context, options: Options) -> Report:
    """Brings the guest into the state that the steps ask for, or with `options.check` says what that would do.

    Raises `step.invalid`, `provision.no-step`, `provision.probe`, `provision.no-root`, `provision.run`,
    `provision.connection-lost`, `provision.killed`, and `provision.failed` after a step that failed.
    """
    bound = bind(steps, context.project_root, context.run_user)
    chosen = {index: bound[index] for index in plan.select(bound, options)}
    chosen = revealed(chosen, context.machine, key=context.secret_key, asked=options.only)
    whole = _Provisioning(guest, chosen, context, options)
    try:
        return whole.run()
    finally:
        whole.close()


class _Provisioning:
    """All rounds of one call. A class, since a round begins where the one before it has ended."""

    def __init__(self, guest: "Guest", chosen: Mapping[int, Step[Any]], context: Context, options: Options) -> None:
        self._given = self._guest = guest
        self._steps, self._left = chosen, dict(chosen)
        self._keys = {step.name: step.key for step in chosen.values()}
        self._context, self._options = context, options
        self._settled: dict[int, Outcome] = {}
        self._started = time.monotonic()

    def close(self) -> None:
        if self._guest is not self._given:
            self._guest.close()

    def run(self) -> Report:
        came_first = 0
        while True:
            answer = _look(self._guest, self._left, self._context, self._options)
            known = facts.from_lines(answer.stable, self._context.names)
            decisions = _decide(self._left, answer, known, self._options)
            if self._options.check:
                return self._preview(decisions)
            judge = outcomes.judge(decisions, known)
            listener = self._listener(judge)
            now, later = _until_host_step(decisions)
            if any(decision.status in plan.ACTS for decision in now):
                progress = self._apply(now, known, listener)
                if progress is None:
                    came_first += 1
                    self._give_up_after(came_first)
                    continue
                self._settle(outcomes.of_run(now, progress, judge), listener)
                if outcomes.broke_off(progress):
                    return self._failed(outcomes.not_reached(later, self._settled.values()), progress, listener)
            elif later and later[0].status in plan.ACTS:
                self._settle({one.index: report.of_decision(one) for one in now}, listener)
                progress = self._carry_out_here(later[0], known, listener)
                self._settle(outcomes.of_run(later[:1], progress, judge), listener)
                if outcomes.broke_off(progress):
                    return self._failed(outcomes.not_reached(later[1:], self._settled.values()), progress, listener)
            else:
                self._settle({one.index: report.of_decision(one) for one in decisions}, listener)
            if not self._left:
                return self._told()

    def _listener(self, judge: outcomes.Judge) -> Listener:
        if self._options.events:
            return Events(judge, frozenset(index for index, step in self._left.items() if step.spec.sensitive))
        return Display(judge, diff=self._options.diff)

    def _settle(self, made: Mapping[int, Outcome], listener: Listener) -> None:
        for index, outcome in made.items():
            if outcome.status is Status.UNKNOWN:
                continue  # The guest asks for another round.
            del self._left[index]
            self._settled[index] = outcome
            if not outcome.acted:
                listener.settled(outcome)

    def _apply(self, decisions: Sequence[Decision], known: Facts, listener: Listener) -> Progress | None:
        """One run in the guest; None when another run came first."""
        todo = _todo(decisions, self._options)
        for decision in decisions:
            if decision.step.kind.fetch and decision.status in plan.ACTS:
                decision.step.kind.fetch(decision.step.options)
        own = replace(self._context.run(), secret=any(one.step.secrets for one in todo))
        progress = Progress(own.id, listener)
        with _followed(progress, listener):
            payload = script.payload(own, todo, known, self._keys)
            wire.apply(self._guest, own, payload, user=self._context.run_user, on_data=progress.feed)
        return None if progress.busy else progress

    def _carry_out_here(self, decision: Decision, known: Facts, listener: Listener) -> Progress:
        """A step of this computer's; then a run in the guest that writes its receipt and its log there."""
        self._reconnect()
        here = host_step.carry_out(decision.step, decision.index, self._guest, self._context, known, listener)
        own = self._context.run()
        progress = Progress(own.id, None)
        todo = (script.Planned(decision.index, host_step.receipt(decision.step, here), force=True),)
        try:
            self._reconnect()  # a reboot has ended the connection that there was
            payload = script.payload(own, todo, known, self._keys)
            wire.apply(self._guest, own, payload, user=self._context.run_user, on_data=progress.feed)
        except DevboxError as trouble:
            listener.broken_off(here.error or trouble)
            raise here.error or trouble from trouble
        progress.finish()
        host_step.merge(progress, decision.index, here)
        if seen := progress.steps.get(decision.index):
            listener.end(decision.index, seen)
        return progress

    def _reconnect(self) -> None:
        """A connection with the groups that the account has now."""
        if self._context.connect is None:
            return
        self.close()
        self._guest = self._context.connect()

    def _give_up_after(self, came_first: int) -> None:
        if came_first >= _ROUNDS:
            raise DevboxError(
                "provision.busy",
                "Another devbox provisions this machine again and again.",
                hint="Wait for it to end, or end it, and try again.",
            )

    def _report(self) -> Report:
        made = tuple(self._settled[index] for index in sorted(self._settled))
        return Report(made, seconds=time.monotonic() - self._started)

    def _preview(self, decisions: Sequence[Decision]) -> Report:
        made = Report(tuple(map(report.of_decision, decisions)), preview=True, seconds=time.monotonic() - self._started)
        if self._options.events:
            listener = Events()
            for outcome in made.outcomes:
                listener.settled(outcome)
            events.ended(made)
        else:
            for line in report.preview_lines(made, diff=self._options.diff):
                ui.emit(ui.clean(line))
        return made

    def _told(self) -> Report:
        made = self._report()
        if self._options.events:
            events.ended(made)
            return made
        lines = report.table(made)
        if any(outcome.seconds for outcome in made.outcomes):
            ui.say("\n".join(f"    {line}" for line in lines))
        (ui.done if made.ok else ui.failed)(f"Steps: {made.summary} ({ui.duration(made.seconds)})")
        return made

    def _failed(self, rest: Mapping[int, Outcome], progress: Progress, listener: Listener) -> Report:
        """Raises what went wrong, after the summary."""
        self._settle(rest, listener)
        made = self._told()
        outcomes.raise_for(made, progress, self._steps)
        return made


def _until_host_step(decisions: Sequence[Decision]) -> tuple[tuple[Decision, ...], tuple[Decision, ...]]:
    """The decisions before the first step that this computer may have to carry out, and those from it on.

    Behind a step that acts every such step may have to: what was seen of it may not hold any more.
    """
    acting = False
    for at, one in enumerate(decisions):
        if one.step.kind.host and not one.final and (acting or one.status in plan.ACTS):
            return tuple(decisions[:at]), tuple(decisions[at:])
        acting = acting or one.status in plan.ACTS
    return tuple(decisions), ()


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
        listener = Events() if options.events else Display()
        progress = Progress(other.id, listener)
        with _followed(progress, listener):
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
        script.Planned(
            decision.index,
            decision.step,
            force=decision.step.name in options.force,
            incoming=decision.status in plan.ACTS,
        )
        for decision in decisions[first:]
        if not (decision.final and decision.status is Status.SKIPPED)
    )


@contextmanager
def _followed(progress: Progress, listener: Listener) -> Iterator[None]:
    """Ends what is shown however the channel ends, and says what a lost connection means."""
    try:
        yield
    except BaseException as error:
        name = progress.steps[progress.current].name if progress.current is not None else ""
        listener.broken_off(error)
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
    if not (progress.done or progress.busy):
        listener.broken_off(DevboxError("provision.killed", ""))
