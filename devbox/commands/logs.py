"""`devbox logs`: what devbox did with this machine, what a step printed, or what the console shows."""

import json
import shlex
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from devbox import proc, ui
from devbox.commands import session, target
from devbox.errors import DevboxError

FOLLOW_INTERVAL = 0.2  # seconds; a file tells nobody that it grew


def logs(
    step: Annotated[str, typer.Argument(metavar="[STEP]", help="Show the last output of this step.")] = "",
    serial: Annotated[bool, typer.Option("--serial", help="Show the machine's console.")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on showing what is added (--serial).")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", help="How many lines from the end; 0 for all.")] = 0,
) -> None:
    """Show what devbox, a step or the console said."""
    record = target.existing()
    if step:
        _step_log(step, lines)
    elif serial:
        _console(record.dir.serial_log, lines, follow=follow)
    else:
        for line in _tail(record.dir.log.read_text() if record.dir.log.exists() else "", lines):
            ui.emit(_event_line(line))


def _tail(text: str, lines: int) -> list[str]:
    return text.splitlines()[-lines:] if lines else text.splitlines()


def _console(path: Path, lines: int, *, follow: bool) -> None:
    if not path.exists():
        raise DevboxError("logs.none", "The machine has not printed anything yet.", hint="Start it with `devbox up`.")
    with path.open("rb") as console:
        for line in _tail(ui.clean(console.read().decode(errors="replace")), lines):
            ui.emit(line)
        while follow:
            if path.stat().st_size < console.tell():
                console.seek(0)  # a new start of the machine begins the file anew
            sys.stdout.write(ui.clean(console.read().decode(errors="replace")))
            sys.stdout.flush()
            time.sleep(FOLLOW_INTERVAL)


def _event_line(line: str) -> str:
    try:
        event = json.loads(line)
        at, what = event.pop("at"), event.pop("event")
    except (ValueError, KeyError, AttributeError):
        return ui.clean(line)
    rest = " ".join(f"{key}={value}" for key, value in event.items())
    return ui.clean(f"{at}  {what}  {rest}".rstrip())


def _step_log(step: str, lines: int) -> None:
    from devbox.provision import journal

    path = journal.log_path(step)
    show = f"tail -n {lines}" if lines else "cat"
    command = f"sudo -n test -e {shlex.quote(path)} || exit 99; sudo -n {show} {shlex.quote(path)}"
    result = proc.run(session.current().argv(command, terminal=False), timeout=60)
    if result.status == 99:
        raise DevboxError(
            "logs.no-step",
            f"There is no log of a step named {step!r}.",
            hint="`devbox provision --check` lists the steps by name.",
        )
    if result.status != 0:
        raise DevboxError("logs.unreadable", "The step's log could not be read.", details=result.error_text)
    ui.emit(ui.clean(result.text).rstrip())
