"""Runs a Devboxfile's checks in the guest, over one channel: checks in, one `Result` for each out."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from devbox import ui
from devbox.config.model import Check
from devbox.errors import DevboxError, ExitCode
from devbox.provision import script, shell, wire
from devbox.provision.context import Context
from devbox.provision.display import Display
from devbox.provision.progress import Progress
from devbox.provision.seen import Seen

if TYPE_CHECKING:
    from devbox.guest.connection import Guest

_GRACE = 11.0  # seconds that a try may take to end after its time
_PAUSE = 33.0  # seconds between two tries, at most
_SPARE = 60.0  # for the connection and a busy guest


@dataclass(frozen=True, slots=True)
class Result:
    """`reason` says why it failed, and is empty where it did not; `output` is the end of what its last tries said."""

    check: Check
    seconds: float
    reason: str = ""
    output: str = ""

    @property
    def ok(self) -> bool:
        return not self.reason


def select(checks: Sequence[Check], names: Sequence[str]) -> tuple[Check, ...]:
    """Those with these names, in the file's order; all where none is given. Raises `test.none`, `test.no-check`."""
    if not checks:
        raise DevboxError(
            "test.none",
            "The Devboxfile has no checks, so nothing was tested.",
            hint="Write one under `checks:`, such as `- {name: answers, run: curl -fsS localhost}`.",
            exit_code=ExitCode.USAGE,
        )
    known = [check.name for check in checks]
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1, 0.5)
            raise DevboxError(
                "test.no-check",
                f"There is no check named `{name}`.",
                hint=f"Did you mean `{close[0]}`?" if close else f"The checks are: {', '.join(known)}",
                exit_code=ExitCode.USAGE,
            )
    return tuple(check for check in checks if not names or check.name in names)


def run(guest: "Guest", checks: Sequence[Check], context: Context) -> tuple[Result, ...]:
    """Carries the checks out; what they say of themselves is in the results, and only trouble of ours is raised.

    Raises `test.cut-off`, `guest.timeout`, `guest.connection-lost`, `provision.no-root`.
    """
    own, display = context.run(), Display()
    progress = Progress(own.id, display)
    command = shell.as_root(script.EVAL, user=context.run_user)
    text = script.checks(own, checks, user=context.run_user)
    try:
        ended = guest.run(command, stdin=text.encode(), timeout=_limit(checks), on_output=progress.feed)
    except BaseException as trouble:
        display.broken_off(trouble)
        raise
    progress.finish()
    if not progress.done:
        cut_off = DevboxError(
            "test.cut-off",
            "The checks were cut off in the machine before their end.",
            hint="Try again with `devbox test`.",
            details=ended.error_text.strip(),
        )
        display.broken_off(cut_off)
        if not progress.steps:
            wire.refuse(ended.stderr, context.run_user)
        raise cut_off
    return tuple(_result(check, progress.steps[index]) for index, check in enumerate(checks))


def _limit(checks: Sequence[Check]) -> float:
    """Seconds after which not even the guest's own time limits work any more."""
    return _SPARE + sum((check.timeout + _GRACE) * (1 + check.retries) + _PAUSE * check.retries for check in checks)


def _result(check: Check, seen: Seen) -> Result:
    return Result(check, seen.seconds, _reason(check, seen), ui.clean("".join(seen.tail)).rstrip())


def _reason(check: Check, seen: Seen) -> str:
    if seen.outcome == "passed":
        return ""
    tried = f", after {check.retries + 1} tries" if check.retries else ""
    if seen.result == "timeout":
        return f"it was stopped after its time limit of {ui.duration(check.timeout)}{tried}"
    return f"exit status {seen.result}{tried}"
