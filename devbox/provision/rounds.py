"""The rounds of one provisioning: look, decide, run in the guest, and again behind a step of this computer's.

Steps come in with their kinds; each leaves once its outcome is known. What cannot be settled in one run (a file that is
needed after all, somebody else's run) is looked at anew.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from shlex import quote
from typing import TYPE_CHECKING, Any

from devbox import ui
from devbox.errors import DevboxError, ExitCode
from devbox.provision import events, facts, host_step, outcomes, plan, report, script, shell, wire
from devbox.provision.context import Context
from devbox.provision.display import Display
from devbox.provision.events import Events
from devbox.provision.facts import Facts
from devbox.provision.host_step import HostRun
from devbox.provision.plan import Decision, Options, Status
from devbox.provision.progress import Listener, Progress
from devbox.provision.report import Outcome, Report
from devbox.provision.shell import Run
from devbox.provision.step import Step

if TYPE_CHECKING:
    from devbox.guest.connection import Guest

_GATE_LIMIT = 60.0  # seconds for one small file to be made
_PATIENCE = 5  # how often somebody else's run may come first


class Rounds:
    """A class, since a round begins where the one before it has ended. `keys` are those of all steps, by name."""

    def __init__(
        self,
        guest: "Guest",
        chosen: Mapping[int, Step[Any]],
        keys: Mapping[str, str],
        context: Context,
        options: Options,
    ) -> None:
        self._given = self._guest = guest
        self._steps, self._left, self._keys = chosen, dict(chosen), keys
        self._context, self._options = context, options
        self._settled: dict[int, Outcome] = {}
        self._started = time.monotonic()
        self._followed = 0  # runs of somebody else's
        self._first: wire.Answer | None = None  # what the guest said before anything was done

    def close(self) -> None:
        if self._guest is not self._given:
            self._guest.close()

    def all(self) -> Report:
        """Until every step has its outcome, or one has failed, which is raised after the summary."""
        while self._left:
            answer = self._look()
            known = facts.from_lines(answer.stable, self._context.names)
            decisions = _decide(self._left, answer, known, self._options, self._keys)
            if self._first is None:
                self._first = answer
                if self._context.foreseen:
                    self._context.foreseen(self._preview(decisions))
            if self._options.check:
                return self._shown_preview(decisions)
            self._round(decisions, known)
        return self._told()

    def _round(self, decisions: Sequence[Decision], known: Facts) -> None:
        """As far as one run goes: the guest's steps up to one of this computer's, or that one."""
        judge = outcomes.judge(decisions, known)
        listener = self._listener(judge)
        now, later = _until_host_step(decisions)
        now, missing = self._fetch(now)
        later = decisions[len(now) :] if missing else later
        if any(decision.acts for decision in now):
            progress = self._apply(now, known, listener)
            if progress is None:
                return
            self._settle(outcomes.of_run(now, progress, judge), listener)
        elif missing or (later and later[0].acts):
            self._settle({one.index: report.of_decision(one) for one in now}, listener)
            now, later = later[:1], later[1:]
            progress = self._here(now[0], known, listener, missing)
            self._settle(outcomes.of_run(now, progress, judge), listener)
        else:
            self._settle({one.index: report.of_decision(one) for one in decisions}, listener)
            return
        if outcomes.broke_off(progress):
            self._settle(outcomes.not_reached(later, self._settled.values()), listener)
            outcomes.raise_for(self._told(), progress, self._steps)

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

    def _fetch(self, decisions: Sequence[Decision]) -> tuple[Sequence[Decision], HostRun | None]:
        """Brings here what acting steps need; the decisions before the first step for which that fails, and why."""
        for at, decision in enumerate(decisions):
            if decision.step.kind.fetch and decision.status in plan.ACTS:
                started = time.monotonic()
                try:
                    decision.step.kind.fetch(decision.step.options)
                except DevboxError as trouble:
                    log = f"{trouble.message}\n{trouble.details}".strip().encode()
                    return decisions[:at], HostRun("", time.monotonic() - started, log, error=trouble)
        return decisions, None

    def _apply(self, decisions: Sequence[Decision], known: Facts, listener: Listener) -> Progress | None:
        """One run in the guest; None when another run came first."""
        last = max(self._steps)
        todo = [
            replace(one, gate=self._context.at_gate is not None and one.index < last)
            for one in _todo(decisions, self._options)
        ]
        own = replace(self._context.run(), secret=any(one.step.secrets for one in todo))
        progress = Progress(own.id, listener, at_gate=lambda index: self._gate(own, index))
        with _shown(progress, listener):
            payload = script.payload(own, todo, known, self._keys, self._context.gates)
            wire.apply(self._guest, own, payload, user=self._context.run_user, on_data=progress.feed)
        return None if progress.busy else progress

    def _gate(self, own: Run, index: int) -> None:
        """Over a channel beside the run's own, which is still open."""
        opened: list[str] = []

        def go_on(which: str = str(index)) -> None:
            if not opened:
                opened.append(which)
                command = f": >{quote(f'{own.folder}/open.{which}')}"
                self._guest.run(shell.as_root(command, user=self._context.run_user), timeout=_GATE_LIMIT)

        if self._context.at_gate:
            try:
                self._context.at_gate(index, self._guest, go_on)
            except BaseException:
                opened.clear()
                go_on("all")  # nobody will be here at the next ones
                raise
            go_on()

    def _here(self, decision: Decision, known: Facts, listener: Listener, done: HostRun | None) -> Progress:
        """A step of this computer's (`done`: it has failed already), and its receipt and its log in the guest."""
        step, index = decision.step, decision.index
        if done is None:
            self._reconnect()
            done = host_step.carry_out(step, index, self._guest, self._context, known, listener)
            with suppress(DevboxError):  # a reboot has ended the connection that there was; the receipt will tell
                self._reconnect()
        try:
            progress = self._receipt(script.Planned(index, host_step.receipt(step, done, known), force=True), known)
        except BaseException as trouble:
            listener.broken_off(trouble)
            if done.error:
                raise done.error from trouble
            raise
        host_step.merge(progress, index, done)
        listener.end(index, progress.steps[index])
        return progress

    def _receipt(self, planned: script.Planned, known: Facts) -> Progress:
        while True:
            own = self._context.run()
            progress = Progress(own.id, None)
            payload = script.payload(own, (planned,), known, self._keys)
            wire.apply(self._guest, own, payload, user=self._context.run_user, on_data=progress.feed)
            progress.finish()
            if not progress.busy:
                return progress
            self._look()  # somebody else's run, which is followed to its end

    def _reconnect(self) -> None:
        """A connection with the groups that the account has now."""
        if self._context.connect is None:
            return
        self.close()
        self._guest = self._given
        self._guest = self._context.connect()

    def _look(self) -> wire.Answer:
        """What the guest says of itself, once no other run goes on in it. Raises `provision.busy`."""
        while True:
            own = self._context.run()
            text = script.probe(own, self._left, diff=self._options.diff)
            user, slowdown = self._context.run_user, self._context.slowdown
            answer = wire.probe(self._guest, text, own.id, user=user, slowdown=slowdown)
            if not answer.running:
                return answer
            if self._options.check:
                ui.warn("Another provisioning run goes on in this machine, so this preview may be out of date.")
                return answer
            self._followed += 1
            if self._followed > _PATIENCE:
                raise DevboxError(
                    "provision.busy",
                    "Another devbox provisions this machine again and again.",
                    hint="Wait for it to end, or end it, and try again.",
                )
            ui.note("A provisioning run goes on in this machine: following it.")
            other = replace(own, id=answer.running)
            listener = Events() if self._options.events else Display()
            progress = Progress(other.id, listener)
            with _shown(progress, listener):
                wire.attach(self._guest, other, user=user, on_data=progress.feed)

    def _preview(self, decisions: Sequence[Decision]) -> Report:
        return self._report({one.index: report.of_decision(one) for one in decisions}, preview=True)

    def _report(self, outcomes: Mapping[int, Outcome], *, preview: bool = False) -> Report:
        """In the order of the steps; for whoever listens, with what each was asked to be and took the last time."""
        stable = self._first.stable if self._first else {}
        listed = {index: outcomes[index] for index in sorted(outcomes)}
        if self._context.foreseen or self._context.ended:
            known = facts.from_lines(stable, self._context.names)
            listed = {index: self._in_full(index, one, known) for index, one in listed.items()}
        spent, followed = time.monotonic() - self._started, bool(self._followed)
        return Report(tuple(listed.values()), preview=preview, seconds=spent, followed=followed, facts=stable)

    def _in_full(self, index: int, outcome: Outcome, known: Facts) -> Outcome:
        step = self._steps[index]
        receipt = self._first.journal.receipts.get(step.key) if self._first else None
        last = outcome.seconds if outcome.status is Status.CHANGED else receipt.ms / 1000 if receipt else None
        return replace(outcome, digest=replace(step, seals={}).digest(known), last=last)

    def _shown_preview(self, decisions: Sequence[Decision]) -> Report:
        made = self._preview(decisions)
        if self._context.foreseen:
            return made
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
        made = self._report(self._settled)
        if self._context.ended:
            self._context.ended(made)
        if self._options.events:
            events.ended(made)
            return made
        lines = report.table(made)
        if lines and any(outcome.acted for outcome in made.outcomes):
            ui.say("\n".join(f"    {line}" for line in lines))
        (ui.done if made.ok else ui.failed)(f"Steps: {made.summary} ({ui.duration(made.seconds)})")
        return made


def _until_host_step(decisions: Sequence[Decision]) -> tuple[Sequence[Decision], Sequence[Decision]]:
    """The decisions before the first step that this computer may have to carry out, and those from it on.

    Behind a step that acts every such step may have to: what was seen of it may not hold any more.
    """
    acting = False
    for at, one in enumerate(decisions):
        if one.step.kind.host and not one.final and (acting or one.acts):
            return decisions[:at], decisions[at:]
        acting = acting or one.acts
    return decisions, ()


def _decide(
    chosen: Mapping[int, Step[Any]], answer: wire.Answer, known: Facts, options: Options, keys: Mapping[str, str]
) -> tuple[Decision, ...]:
    problems = []
    for step in chosen.values():
        try:
            step.desired(known)
        except DevboxError as mistake:
            problems.append(f"{step.spec.position}: {step.name}: {mistake.message}")
    if problems:
        raise DevboxError("step.invalid", "\n".join(problems), exit_code=ExitCode.USAGE)
    return plan.decide(chosen, answer, known, options, keys)


def _todo(decisions: Sequence[Decision], options: Options) -> tuple[script.Planned, ...]:
    """The first step that acts and all after it: what it does may change what was seen of those."""
    first = next((at for at, decision in enumerate(decisions) if decision.acts), len(decisions))
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
def _shown(progress: Progress, listener: Listener) -> Iterator[None]:
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
