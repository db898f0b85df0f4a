"""Shows a run to a person: each step with its time, a live line of its output, what it changed."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from devbox import ui
from devbox.errors import DevboxError
from devbox.provision import report
from devbox.provision.plan import Status
from devbox.provision.report import Outcome
from devbox.provision.seen import Seen

_SILENCE = 300.0  # seconds without output after which a step is said to be silent


class Display:
    """A progress listener. `judge` makes of what was seen what is told; without it a step's end is all."""

    def __init__(self, judge: Callable[[int, Seen], Outcome] | None = None, *, diff: bool = False) -> None:
        self._judge, self._diff = judge, diff
        self._shown: tuple[AbstractContextManager[ui.Step], ui.Step] | None = None
        self._heard, self._warned = 0.0, False

    def begin(self, index: int, seen: Seen) -> None:  # noqa: ARG002
        manager = ui.step(seen.name)
        self._shown = (manager, manager.__enter__())
        self._heard, self._warned = time.monotonic(), False

    def output(self, index: int, seen: Seen, text: str) -> None:  # noqa: ARG002
        self._heard = time.monotonic()
        if self._shown:
            self._shown[1].update(seen.last_line)

    def tick(self, index: int, seen: Seen) -> None:  # noqa: ARG002
        """A sign that the connection lives, whether or not the step says anything."""
        if not self._shown:
            return
        self._shown[1].update(seen.last_line or "no output yet")
        if not self._warned and time.monotonic() - self._heard > _SILENCE:
            self._warned = True
            ui.warn(f"`{seen.name}` has said nothing for {ui.duration(_SILENCE)}; it goes on running.")

    def end(self, index: int, seen: Seen) -> None:
        outcome = self._judge(index, seen) if self._judge else None
        if self._shown:
            # What the guest measured: short steps come here in bunches.
            self._shown[1].started = time.monotonic() - seen.seconds
        elif outcome:
            self.settled(outcome)
        if seen.outcome == "failed":
            self._close(DevboxError("provision.failed", seen.name))
        else:
            self._close(None)
        if seen.reason and seen.outcome in {"same", "changed"}:
            ui.note(f"  {seen.reason}")
        if outcome and outcome.status is Status.CHANGED:
            for line in report.detail_lines(outcome, diff=self._diff):
                ui.note(f"  {line}")

    def settled(self, outcome: Outcome) -> None:
        """A step that needed nothing: only one that is left out is worth a line."""
        if outcome.status is Status.SKIPPED:
            ui.note(f"- {outcome.name}: skipped, {outcome.reason}")

    def broken_off(self, error: BaseException) -> None:
        self._close(error)

    def _close(self, error: BaseException | None) -> None:
        shown, self._shown = self._shown, None
        if shown is None:
            return
        if error is None:
            shown[0].__exit__(None, None, None)
        else:
            shown[0].__exit__(type(error), error, error.__traceback__)
