"""Gives a running guest the identity of its own machine, in one exchange: keys, machine-id, hostname, cloud-init's
instance id, random seed, clock, leases. The script (renew.sh) can be killed anywhere and run again.

Both keys of a pair are let in until its last act, so whichever host key answers, its login key opens.
"""

import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from shlex import quote

from devbox.disk import identity, keys
from devbox.disk.record import Record
from devbox.errors import DevboxError
from devbox.guest.connection import Guest

TIMEOUT = 120.0  # seconds on a fast computer; most of it is writing out what the guest has in memory
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Renewal:
    """What the guest is to be. `login_key` and `host_line` are public key lines, `host_key` a private key's text."""

    user: str
    hostname: str  # "": as it is
    login_key: str
    host_key: str
    host_line: str
    machine_id: str
    instance: str
    random: bytes
    retired: tuple[str, ...] = ()  # public key lines that must not log in any more


def renew(guest: Guest, record: Record, *, hostname: str, slowdown: float = 1.0) -> None:
    """Make the guest this machine's and nobody else's; its provisional login key is let in no longer.

    The caller holds the machine's lock. Raises `guest.not-renewed`, and what `Guest.run` raises.
    """
    text = script(plan(record, hostname=hostname), int(time.time())).encode()
    command = "exec sh" if record.user == "root" else "exec sudo -n sh"
    done = guest.run(command, stdin=text, timeout=TIMEOUT * max(slowdown, 1.0))
    if done.status != 0:
        raise DevboxError(
            "guest.not-renewed",
            "The machine could not be given an identity of its own.",
            hint=f"`devbox up` tries again. It needs `sudo -n true` to succeed for {record.user} in the machine.",
            details=done.text + done.error_text,
        )


def plan(record: Record, *, hostname: str) -> Renewal:
    own, born = identity.own(record), identity.provisional(record)
    login_key = keys.make(own.login_key)
    return Renewal(
        user=record.user,
        hostname=hostname,
        login_key=login_key,
        host_key=own.host_key.read_text(),
        host_line=own.host_line,
        machine_id=identity.machine_id(record),
        instance=identity.own_instance(record, login_key),
        random=identity.random_bytes(),
        retired=(keys.make(born.login_key),) if born else (),
    )


def script(renewal: Renewal, now: int, *, root: str = "", path: str = _PATH, set_time: str = "date -s") -> str:
    """The whole script, its secrets in it: it goes over stdin, never on a command line. Pure.

    `now` is this computer's time, in seconds. `root`, `path` and `set_time` keep tests off their own computer.
    """
    own = _blob(renewal.login_key)
    words = {
        "root": root,
        "PATH": path,
        "user": renewal.user,
        "hostname": renewal.hostname,
        "login_key": renewal.login_key,
        "host_key": renewal.host_key.rstrip("\n"),
        "host_line": renewal.host_line,
        "machine_id": renewal.machine_id,
        "instance": renewal.instance,
        "random": "".join(f"\\{byte:03o}" for byte in renewal.random),
        "retired": " ".join(blob for blob in map(_blob, renewal.retired) if blob != own),
        "now": str(now),
        "set_time": set_time,
    }
    lines = "".join(f"{name}={quote(value)}\n" for name, value in words.items())
    # All of it is read before any of it runs: what was sent in part does nothing.
    return f"set -eu\numask 077\nLC_ALL=C\nexport PATH LC_ALL\n{lines}{_body()}main </dev/null\n"


@cache
def _body() -> str:
    return (Path(__file__).parent / "renew.sh").read_text()


def _blob(line: str) -> str:
    """The key itself in a public key line: sshd goes by nothing else."""
    return line.split()[1]
