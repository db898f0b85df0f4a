"""Which ports of this computer lead into the guest: declared ports → forwards. Planning only; QEMU binds them.

Call it for a machine that is about to start: one that runs holds its own ports, and QEMU tells them.
"""

import errno
import socket
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from devbox.errors import DevboxError

if TYPE_CHECKING:
    from devbox.config.model import Port

# Where a host port is picked that the Devboxfile leaves open: below those that the kernel hands out by itself (32768
# and up on Linux), or a connection of another program could have it between our look and QEMU's.
FIRST, LAST = 20000, 32767
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Forward:
    protocol: str  # "tcp" or "udp"
    bind: str
    host: int
    guest: int
    name: str = ""


def plan(
    ports: Sequence["Port"],
    machine_id: str,
    is_free: Callable[[str, int, str], bool],
    holder: Callable[[int, str], str] | None = None,
    *,
    kept: Sequence[Forward] = (),
) -> tuple[Forward, ...]:
    """One forward a port, in order. An open host port is the same at every start, unless somebody took it.

    `is_free(bind, port, protocol)` tells whether a port can be bound, `holder(port, protocol)` who has it; `kept` are
    the forwards that there are, whose numbers an open host port keeps.
    Raises `port.taken`, naming all that are, and `port.none-free`.
    """
    fixed = {(port.protocol, port.host) for port in ports if port.host is not None}
    taken = [port for port in ports if port.host is not None and not is_free(port.bind, port.host, port.protocol)]
    if taken:
        raise _taken(taken, holder or who_holds)
    used, forwards = set(fixed), []
    for port in ports:
        host = port.host
        if host is None:
            same = [one.host for one in kept if _likewise(one, port)]
            candidates = (n for n in chain(same, _candidates(machine_id, port)) if (port.protocol, n) not in used)
            host = next((n for n in candidates if is_free(port.bind, n, port.protocol)), None)
            if host is None:
                raise DevboxError("port.none-free", f"No port from {FIRST} to {LAST} is free for {port.guest}.")
            used.add((port.protocol, host))
        forwards.append(Forward(port.protocol, port.bind, host, port.guest, port.name))
    return tuple(forwards)


def free(bind: str, port: int, protocol: str) -> bool:
    """Whether QEMU could bind this port now. Raises `port.not-allowed` and `port.no-address`: waiting cures neither."""
    kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET6 if ":" in bind else socket.AF_INET, kind) as probe:
        if protocol == "tcp":  # As QEMU does: a connection that has just ended is no obstacle.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((bind, port))
            if protocol == "tcp":
                probe.listen(1)
        except PermissionError as refused:
            raise DevboxError(
                "port.not-allowed",
                f"Port {port} on this computer is only for root.",
                hint="Forward a port from 1024 on, for example `8080:80`.",
            ) from refused
        except OSError as refused:
            if refused.errno == errno.EADDRNOTAVAIL:
                raise DevboxError("port.no-address", f"This computer has no address {bind}.") from refused
            return False
    return True


def who_holds(port: int, protocol: str) -> str:
    """The processes that have the port, "nginx (pid 12)", as far as /proc shows them to us; else "".

    A machine of devbox is called by its project, since it is not its process that a person should end.
    """
    inodes = {f"socket:[{inode}]" for inode in _bound(port, protocol)}
    holders = [_name(process) for process in _processes() if inodes and _open_files(process) & inodes]
    return ", ".join(holders)


def _likewise(one: Forward, port: "Port") -> bool:
    return (one.protocol, one.bind, one.guest) == (port.protocol, port.bind, port.guest)


def _candidates(machine_id: str, port: "Port") -> Iterator[int]:
    start, count = zlib.crc32(f"{machine_id}:{port.protocol}:{port.guest}".encode()), LAST - FIRST + 1
    return (FIRST + (start + step) % count for step in range(count))


def _taken(ports: Sequence["Port"], holder: Callable[[int, str], str]) -> DevboxError:
    lines = []
    for port in ports:
        assert port.host is not None
        who = holder(port.host, port.protocol) or "another program"
        lines.append(f"{port.bind}:{port.host}/{port.protocol} is taken by {who}")
    first = ports[0]
    return DevboxError(
        "port.taken",
        f"The port {lines[0]}." if len(lines) == 1 else f"{len(lines)} ports are taken: {'; '.join(lines)}.",
        hint=f"End it (see `devbox list`), or forward another port: `{first.guest}` alone lets devbox choose one.",
    )


def _bound(port: int, protocol: str) -> Iterator[str]:
    """The inodes of the sockets bound to the port, listening ones only for TCP."""
    for table in (protocol, f"{protocol}6"):
        try:
            lines = (_PROC / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            columns = line.split()
            local, state = columns[1], columns[3]
            if int(local.rpartition(":")[2], 16) == port and state in {"0A", "07"}:  # listening, or unconnected UDP
                yield columns[9]


def _processes() -> Iterator[Path]:
    if _PROC.is_dir():
        yield from (entry for entry in _PROC.iterdir() if entry.name.isdigit())


def _open_files(process: Path) -> set[str]:
    """Other users' processes do not show theirs, and a process may end while it is read."""
    found = set()
    try:
        for entry in (process / "fd").iterdir():
            with suppress(OSError):
                found.add(str(entry.readlink()))
    except OSError:
        return set()
    return found


def _name(process: Path) -> str:
    try:
        words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
        guests = [word for flag, word in pairwise(words) if flag == "-name" and word.startswith("guest=")]
        if guests:
            return f"the machine `{guests[0].removeprefix('guest=')}` (pid {process.name})"
        return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
    except OSError:
        return f"pid {process.name}"
