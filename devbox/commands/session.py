"""A session of OpenSSH in the running machine: which folder it lands in, and the remote command line. Mostly pure."""

import shlex
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from devbox import proc
from devbox.commands import target
from devbox.disk import identity
from devbox.disk import record as records
from devbox.disk.record import Record
from devbox.errors import DevboxError
from devbox.guest import openssh
from devbox.guest.openssh import Endpoint, Keys
from devbox.machine import lifecycle, started
from devbox.machine.lifecycle import Observation, State
from devbox.share import folders

if TYPE_CHECKING:
    from devbox.guest.connection import FabricGuest

_AT_ONCE = 5.0  # seconds in which a guest that is up answers
ENVIRONMENT = "/etc/profile.d/devbox.sh"  # the Devboxfile's `env`, written by provisioning


@dataclass(frozen=True, slots=True)
class Session:
    ssh_config: Path
    host: str
    folder: str | None  # the guest's folder that matches the working folder, if any

    def argv(self, remote: str, *, terminal: bool) -> list[str]:
        return openssh.ssh_argv(self.ssh_config, self.host, remote, terminal=terminal)


def endpoint(record: Record, seen: Observation) -> Endpoint:
    """Where the machine's SSH is answered, and by which keys both sides are known."""
    assert seen.ssh_port is not None
    own, born = identity.own(record), identity.provisional(record)
    return Endpoint(
        port=seen.ssh_port,
        user=record.user,
        key=own.login_key,
        known_hosts=own.known_hosts,
        born=Keys(born.login_key, born.known_hosts) if born else None,
    )


def current(machine: str = records.MAIN) -> Session:
    """The session that `ssh` and `run` open, with its ssh_config written for the port of this very run of QEMU."""
    record, seen = target.running(machine)
    config, where = record.dir.ssh_config, endpoint(record, seen)
    # As `up` decided it. The Devboxfile is not read here: a mistake in it must not keep anyone out.
    agent = config.exists() and "ForwardAgent yes" in config.read_text()
    host = openssh.write_ssh_config(config, where, record.name, record.dir.runtime, forward_agent=agent)
    openssh.warm_control(config, host, record.dir.runtime)
    folder = folders.guest_folder(started.load(record).mounts, Path.cwd())
    return Session(record.dir.ssh_config, host, str(folder) if folder else None)


def ended(record: Record) -> str | None:
    """Why nobody will answer any more, None while the guest may. A QEMU that is too busy to answer has not ended."""
    seen = lifecycle.observe(record)
    if seen.state in {State.RUNNING, State.NOT_ANSWERING}:
        return None
    return f"{seen.state} {seen.reason}".strip()


def reach(record: Record, where: Endpoint, *, slowdown: float, fresh: bool = False) -> "FabricGuest":
    """The connection to the guest, once it answers with its pinned key: at once, unless it has been started just now
    (`fresh`) or is starting again.
    """
    door = None if fresh else openssh.knock(where)
    # Fabric is imported only now: the guest boots or answers meanwhile, so its 0.2 s cost nothing.
    from devbox.guest import connection, ready

    if not fresh:
        with suppress(DevboxError):  # It may still be booting, if an earlier `up` was interrupted.
            return connection.connect(where, _AT_ONCE, via=door)
    return ready.wait(where, slowdown=slowdown, serial_log=record.dir.serial_log, alive=lambda: ended(record))


def power_off(record: Record) -> bool:
    """Ask the guest to shut down, which is the second rung of the stop ladder; whether it heard."""
    if not record.dir.ssh_config.exists():
        return False
    words = "echo heard; sudo -n systemctl poweroff || sudo -n poweroff"
    argv = openssh.ssh_argv(record.dir.ssh_config, openssh.host_alias(record.name), words)
    # No control socket: OpenSSH gives up when it cannot make one, and the runtime folder may be what is lost.
    argv[1:1] = ["-o", "ControlPath=none"]
    # The connection often ends before the command does, so its status tells nothing.
    return b"heard" in proc.run(argv, timeout=30).stdout


def has_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def login_shell(folder: str | PurePosixPath | None) -> str:
    """A login shell of the user's own, in `folder` where that exists."""
    go = f"cd {shlex.quote(str(folder))} 2>/dev/null; " if folder else ""
    return f'{go}exec "$SHELL" -l'


def remote_script(words: Sequence[str], folder: str | PurePosixPath | None, *, ticket: str = "") -> str:
    """The command line that sshd's shell gets: the Devboxfile's environment, the folder, the command as typed.

    With a `ticket` the process group is written down under that name, so that `signal_script` finds it. The shell
    outlives the command's signals in order to tell its status (128 + n), which OpenSSH cannot carry.
    """
    enter = f"cd {shlex.quote(str(folder))} || exit 126; " if folder else ""
    note = f'echo $$ > "/tmp/{ticket}"; trap "rm -f /tmp/{ticket}" EXIT; ' if ticket else ""
    stay = f"trap : {' '.join(_shell_signals())}; " if ticket else ""
    body = f'{note}{stay}[ ! -r {ENVIRONMENT} ] || . {ENVIRONMENT}; {enter}"$@"'
    return f"exec /bin/sh -c {shlex.quote(body)} devbox {shlex.join(words)}"


def signal_script(ticket: str, number: signal.Signals) -> str:
    name = number.name.removeprefix("SIG")
    return f'pid=$(cat "/tmp/{ticket}") && {{ kill -s {name} -- "-$pid" 2>/dev/null || kill -s {name} "$pid"; }}'


def _shell_signals() -> tuple[str, ...]:
    return ("INT", "TERM", "HUP", "QUIT", "USR1", "USR2")
