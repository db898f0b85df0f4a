"""Tells a run to a program: one JSON object a line on stdout, as things happen. docs/provisioning.md lists them."""

from collections.abc import Callable
from typing import Any

from devbox import ui
from devbox.provision.plan import Status
from devbox.provision.report import Outcome, Report
from devbox.provision.seen import Seen


class Events:
    """A progress listener; see display.Display for `judge`. Output of the steps at `sensitive` places is withheld."""

    def __init__(
        self, judge: Callable[[int, Seen], Outcome] | None = None, sensitive: frozenset[int] = frozenset()
    ) -> None:
        self._judge, self._sensitive = judge, sensitive

    def begin(self, index: int, seen: Seen) -> None:  # noqa: ARG002
        _tell("step-start", step=seen.name)

    def output(self, index: int, seen: Seen, text: str) -> None:
        if index not in self._sensitive:
            _tell("output", step=seen.name, text=ui.clean(text))

    def tick(self, index: int, seen: Seen) -> None:  # noqa: ARG002
        _tell("running", step=seen.name)

    def end(self, index: int, seen: Seen) -> None:
        if self._judge:
            self.settled(self._judge(index, seen))
        else:  # of somebody else's run, whose steps are not known here
            _tell("step-end", step=seen.name, status=seen.outcome, seconds=seen.seconds)

    def broken_off(self, error: BaseException) -> None:
        """Nothing: whoever called us tells the error."""

    def settled(self, outcome: Outcome) -> None:
        _tell(
            "step-end",
            step=outcome.name,
            kind=outcome.kind,
            status=str(outcome.status),
            seconds=outcome.seconds,
            reason=outcome.reason,
            changes=[{"field": one.field, "old": one.old, "new": one.new} for one in outcome.changes],
            diff=outcome.diff,
        )


def ended(report: Report) -> None:
    counts = {str(status): report.count(status) for status in Status if report.count(status)}
    _tell("end", ok=report.ok, preview=report.preview, counts=counts, seconds=round(report.seconds, 3))


def _tell(event: str, **fields: Any) -> None:
    ui.emit_line({"event": event, **fields})
