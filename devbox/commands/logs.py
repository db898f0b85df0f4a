"""`devbox logs`: what devbox did with this machine, what a step printed, or what the console shows."""

import contextlib
import difflib
import json
import re
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from devbox import proc, ui
from devbox.commands import session, target
from devbox.commands.beside import MachineOption
from devbox.disk import record as records
from devbox.disk.record import Record
from devbox.errors import DevboxError

FOLLOW_INTERVAL = 0.2  # seconds; a file tells nobody that it grew
_NONE, _NONE_SAID = 99, "devbox: none of these"
_SLUG = re.compile(r"[a-z0-9-]+")  # the name of a log, without `.log`


def logs(
    step: Annotated[str, typer.Argument(metavar="[STEP]", help="Show the last output of this step.")] = "",
    serial: Annotated[bool, typer.Option("--serial", help="Show the machine's console.")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on showing what is added (--serial).")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", help="How many lines from the end; 0 for all.")] = 0,
    machine: MachineOption = records.MAIN,
) -> None:
    """Show what devbox, a step or the console said."""
    record = target.existing(machine)
    if step:
        _step_log(record, step, lines)
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


def _step_log(record: Record, step: str, lines: int) -> None:
    from devbox.provision import journal, shell

    path = journal.log_path(step)
    folder = path.rpartition("/")[0]
    known = [path, *([f"{folder}/{step}.log"] if _SLUG.fullmatch(step) else [])]
    command = shell.as_root(_script(known, folder, lines), user=record.user)
    result = proc.run(session.current().argv(command, terminal=False), timeout=60)
    # Its own word for it: sudo, SSH and the shell end with whatever status they like.
    if result.status == _NONE and result.text.startswith(_NONE_SAID):
        there = [name for name in result.text.split("\n")[1:] if _SLUG.fullmatch(name)]
        message, hint = _no_log(record, step, there)
        raise DevboxError("logs.no-step", message, hint=hint)
    if result.status != 0:
        asked = "sudo" in result.error_text or "password" in result.error_text
        raise DevboxError(
            "logs.unreadable",
            "The step's log could not be read.",
            hint=f"Only root may read it: let `sudo -n true` succeed for {record.user} in the machine."
            if asked
            else "",
            details=result.error_text,
        )
    ui.emit(ui.clean(result.text).rstrip())


def _script(known: Sequence[str], folder: str, lines: int) -> str:
    """Prints the first of these files that there is; else the names of all that are there."""
    show = f"exec tail -n {lines} --" if lines else "exec cat --"
    tries = "".join(f"[ ! -e {shlex.quote(path)} ] || {show} {shlex.quote(path)}\n" for path in known)
    names = f'for log in {shlex.quote(folder)}/*.log; do log=${{log##*/}}; printf "%s\\n" "${{log%.log}}"; done'
    return f"{tries}echo {_NONE_SAID}\n{names}\nexit {_NONE}\n"


def _no_log(record: Record, step: str, there: Sequence[str]) -> tuple[str, str]:
    """What is the matter, and which name may have been meant."""
    from devbox.commands import steps
    from devbox.config import build
    from devbox.machine import started

    names: Sequence[str] = there
    with contextlib.suppress(DevboxError):  # whatever is wrong with the Devboxfile, the logs lie in the machine
        had = started.load(record)
        names = [one.name for one in steps.all_steps(build.load(record.project), had.mounts, had.disks)]
    if step in names:
        return f"The step `{step}` has left no log in this machine yet.", "Carry it out with `devbox provision`."
    close = difflib.get_close_matches(step, names, 3, 0.5)
    listed = f"There are: {', '.join(names)}." if names else "No step has left one."
    meant = f"Did you mean {' or '.join(f'`{name}`' for name in close)}?"
    return f"There is no log of a step named `{step}`.", meant if close else listed
