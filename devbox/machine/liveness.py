"""Is the machine alive? Asked of QEMU's status socket, then of the locks that QEMU holds: never of a stored word.

Everything here is read-only, bounded in time, and must stay light to import: `status` runs it (no asyncio).
All these signs vanish the moment QEMU is killed, so nothing can go stale.
"""

import fcntl
import json
import os
import re
import socket
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devbox.share.ports import Forward

_PLATFORM: str = sys.platform  # mypy would take the other systems' lines for unreachable
_GUEST_SSH_PORT = 22
_LONGEST_ANSWER = 1 << 20


@dataclass(frozen=True, slots=True)
class Peek:
    uuid: str
    status: str  # QEMU's run state: "running", "paused", "io-error", "internal-error", …
    pid: int | None
    kvm: bool
    forwards: tuple[Forward, ...]  # all of them, the one to SSH included
    disk_full: bool = False  # with status "io-error": this computer's disk has no space left

    @property
    def running(self) -> bool:
        return self.status == "running"

    @property
    def ssh_port(self) -> int | None:
        """The host's port that leads to the guest's SSH: it is the first forward on QEMU's command line."""
        return next((f.host for f in self.forwards if is_ssh(f)), None)

    @property
    def declared(self) -> tuple[Forward, ...]:
        """The forwards that the Devboxfile asks for: all but the one to SSH."""
        ssh = next((f for f in self.forwards if is_ssh(f)), None)
        return tuple(f for f in self.forwards if f is not ssh)


def peek(path: Path, timeout: float = 1.0) -> Peek | None:
    """What QEMU says about itself, or None where nobody answers on this socket within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    try:
        with _connected(path, deadline) as line:
            pid = peer_pid(line)
            answers = _converse(line, deadline)
            uuid = next(answers)["UUID"]
            status = next(answers)["status"]
            kvm = next(answers)["enabled"]
            forwards = parse_usernet(next(answers))
            full = any(device.get("io-status") == "nospace" for device in next(answers))
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        return None  # No socket, nobody behind it, too slow, or not QEMU.
    return Peek(uuid, status, pid, kvm, forwards, disk_full=status == "io-error" and full)


def socket_pid(path: Path) -> int | None:
    """The process that listens on a socket: certain even when it hangs, as the kernel answers for it."""
    try:
        with _connected(path, time.monotonic() + 1.0) as line:
            return peer_pid(line)
    except OSError:
        return None


def lock_pid(path: Path) -> int | None:
    """The process that holds a lock on this file (QEMU on its pidfile), or None. Does not take the lock."""
    lock = _lock_of(path, 0, 0)
    return lock.pid if lock and lock.pid > 0 else None


def image_locked(path: Path) -> bool:
    """Whether any process has this disk image open: QEMU locks bytes 100 to 299 of each image it uses."""
    return _lock_of(path, 100, 200) is not None


def parse_usernet(text: str) -> tuple[Forward, ...]:
    """The host's forwards in the answer to `info usernet`; connections of the guest are in the same table."""
    rows = re.finditer(r"^\s*(TCP|UDP)\[HOST_FORWARD\]\s+\d+\s+(\S+)\s+(\d+)\s+\S+\s+(\d+)", text, re.MULTILINE)
    return tuple(
        Forward(protocol=row[1].lower(), bind="0.0.0.0" if row[2] == "*" else row[2], host=int(row[3]),
                guest=int(row[4]), name="")
        for row in rows
    )  # fmt: skip


def peer_pid(line: socket.socket) -> int | None:
    """Who listens at the other end; None where the kernel does not tell (another pid namespace)."""
    if _PLATFORM == "linux":
        credentials = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid = int(struct.unpack("3i", credentials)[0])
    else:
        pid = line.getsockopt(0, 2)  # SOL_LOCAL, LOCAL_PEERPID in sys/un.h of macOS
    return pid or None


def is_ssh(forward: Forward) -> bool:
    """Whether it looks like devbox's own forward to SSH, which is told from others by the order of QEMU's start."""
    return (forward.protocol, forward.bind, forward.guest) == ("tcp", "127.0.0.1", _GUEST_SSH_PORT)


@contextmanager
def _connected(path: Path, deadline: float) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.settimeout(max(0.01, deadline - time.monotonic()))
        line.connect(os.fspath(path))
        yield line


_QUESTIONS: Sequence[tuple[str, dict[str, str]]] = (
    ("query-uuid", {}),
    ("query-status", {}),
    ("query-kvm", {}),
    ("human-monitor-command", {"command-line": "info usernet"}),
    ("query-block", {}),
)


def _converse(line: socket.socket, deadline: float) -> Iterator[Any]:
    """The answers to the questions, in order. Events between them are passed over."""
    received = b""

    def message() -> dict[str, Any]:
        nonlocal received
        while b"\n" not in received:
            line.settimeout(max(0.01, deadline - time.monotonic()))
            chunk = line.recv(65536)
            if not chunk or len(received) > _LONGEST_ANSWER or time.monotonic() > deadline:
                raise OSError("no whole answer")
            received += chunk
        text, received = received.split(b"\n", 1)
        parsed: dict[str, Any] = json.loads(text)
        return parsed

    message()["QMP"]  # the greeting
    for command, arguments in (("qmp_capabilities", {}), *_QUESTIONS):
        line.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while "event" in (answer := message()):
            pass
        if command != "qmp_capabilities":
            yield answer["return"]


@dataclass(frozen=True, slots=True)
class _Lock:
    pid: int  # -1: the lock belongs to an open file, not to a process


def _lock_of(path: Path, start: int, length: int) -> _Lock | None:
    """A lock of somebody else's on a part of the file that would keep us from writing there (length 0: to its end)."""
    darwin = _PLATFORM == "darwin"
    layout = "qqihh" if darwin else "hhqqi4x"  # struct flock
    values = (start, length, 0, fcntl.F_WRLCK, os.SEEK_SET)
    question = struct.pack(layout, *values) if darwin else struct.pack(layout, *values[3:], *values[:3])
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        answer = struct.unpack(layout, fcntl.fcntl(fd, fcntl.F_GETLK, question))
    except OSError:
        return None  # A file system without locks.
    finally:
        os.close(fd)
    kind, pid = (answer[3], answer[2]) if darwin else (answer[0], answer[4])
    return None if kind == fcntl.F_UNLCK else _Lock(pid)
