"""`devbox run -- CMD`: a command in the machine as if it were here: status, signals, pipes, terminal.

On a terminal this process becomes OpenSSH and the pseudo-terminal carries the signals. In a pipe OpenSSH would
carry none, so this process stays beside it and delivers them to the command's process group by a second channel.
"""

import contextlib
import secrets
import signal
from collections.abc import Iterator
from typing import Annotated

import typer

from devbox import proc
from devbox.commands import session
from devbox.commands.beside import MachineOption
from devbox.commands.session import Session
from devbox.disk import record as records

SETTINGS = {"ignore_unknown_options": True, "allow_interspersed_args": False}
_PASSED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def run(
    command: Annotated[list[str], typer.Argument(metavar="-- CMD…", help="The command and its arguments.")],
    cwd: Annotated[str, typer.Option("--cwd", help="The guest folder to run it in.", metavar="DIR")] = "",
    machine: MachineOption = records.MAIN,
) -> None:
    """Run a command in the machine, as if it were here."""
    open_session = session.current(machine)
    folder = cwd or open_session.folder
    if session.has_terminal():
        proc.become(open_session.argv(session.remote_script(command, folder), terminal=True))
    ticket = f"devbox-run-{secrets.token_hex(8)}"
    remote = session.remote_script(command, folder, ticket=ticket)
    raise typer.Exit(_piped(open_session, remote, ticket))


def _piped(open_session: Session, remote: str, ticket: str) -> int:
    with proc.attached(open_session.argv(remote, terminal=False)) as child, _signals_to(open_session, child, ticket):
        status = child.wait()
    return 128 - status if status < 0 else status


@contextlib.contextmanager
def _signals_to(open_session: Session, child: proc.Child, ticket: str) -> Iterator[None]:
    def deliver(number: int, _frame: object) -> None:
        sent = proc.run(open_session.argv(session.signal_script(ticket, signal.Signals(number)), terminal=False))
        if sent.status != 0 and child.poll() is None:
            child.send_signal(number)  # The command has not begun, or the machine is gone: then the carrier ends.

    before = {number: signal.signal(number, deliver) for number in _PASSED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
