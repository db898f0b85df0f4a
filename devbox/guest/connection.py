"""The way into the guest: run a command, put and get a file. A result is a value; only lost contact is an error.

Fabric makes and holds the connection, from an empty configuration and with one pinned host key; commands go over raw
channels of its transport, each counted. provisioning.md lists the traps that this steps around.
"""

import base64
import contextlib
import logging
import select
import shlex
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import fabric
import paramiko

from devbox.errors import DevboxError
from devbox.guest.openssh import Endpoint

_SLICE = 256 << 10
_OPEN_TIMEOUT = 10.0
_KEEPALIVE = 15
_KILLED = 255  # what OpenSSH's client says of a remote shell that a signal ended

Input = bytes | Iterable[bytes]  # pieces are taken one by one, so that a large file is never in memory as a whole

# Paramiko prints to stderr what it also raises.
logging.getLogger("paramiko").setLevel(logging.CRITICAL)


@dataclass(frozen=True, slots=True)
class Result:
    status: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        return self.stdout.decode(errors="replace")

    @property
    def error_text(self) -> str:
        return self.stderr.decode(errors="replace")


class Guest(Protocol):
    """What the later stages know of the guest. `channels` counts the channels opened so far.

    `run` hands `command` to the login shell; `stdin` None means an empty one; `timeout` is in seconds, and ends our
    waiting, not the remote process; `on_output` hears stdout while it comes, and then none is in the result. Raises
    `guest.timeout`, `guest.connection-lost`, and `put`/`get` also `guest.put-failed`/`guest.get-failed`.
    """

    channels: int

    def run(
        self,
        command: str,
        *,
        stdin: Input | None = None,
        timeout: float | None = None,
        on_output: Callable[[bytes], None] | None = None,
    ) -> Result: ...

    def put(self, data: bytes, path: str, mode: int) -> None: ...

    def get(self, path: str) -> bytes: ...

    def close(self) -> None: ...


class FabricGuest:
    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.channels = 0
        self._transport: Any = connection.transport

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(
        self,
        command: str,
        *,
        stdin: Input | None = None,
        timeout: float | None = None,
        on_output: Callable[[bytes], None] | None = None,
    ) -> Result:
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            channel = self._transport.open_session(timeout=_OPEN_TIMEOUT)
        except (EOFError, OSError, paramiko.SSHException) as lost:
            raise _lost(lost) from lost
        self.channels += 1
        try:
            channel.exec_command(command)
            exchange = _Exchange(channel, stdin or b"", on_output)
            exchange.run(deadline)
            return Result(self._status(channel), bytes(exchange.stdout), bytes(exchange.stderr))
        except TimeoutError as late:
            raise DevboxError("guest.timeout", f"A command in the guest did not end within {timeout:.0f} s.") from late
        except (EOFError, OSError, paramiko.SSHException) as lost:
            raise _lost(lost) from lost
        finally:
            with contextlib.suppress(EOFError, OSError):
                channel.close()

    def put(self, data: bytes, path: str, mode: int) -> None:
        """Replace the file, atomically. The size is checked, since a lost connection looks like an end of file."""
        name, aside = shlex.quote(path), shlex.quote(f"{path}.XXXXXX")
        write = f'cat >"$t" && [ "$(wc -c <"$t")" -eq {len(data)} ] && chmod {mode:o} "$t" && mv -f "$t" {name}'
        done = self.run(f't=$(mktemp {aside}) || exit; {write} || {{ rm -f "$t"; exit 1; }}', stdin=data)
        if done.status != 0:
            raise DevboxError("guest.put-failed", f"The guest could not write {path}.", details=done.error_text)

    def get(self, path: str) -> bytes:
        done = self.run(f"cat <{shlex.quote(path)}")
        if done.status != 0:
            raise DevboxError("guest.get-failed", f"The guest could not read {path}.", details=done.error_text)
        return done.stdout

    def close(self) -> None:
        self.connection.close()

    def _status(self, channel: Any) -> int:
        status = int(channel.recv_exit_status())
        if status >= 0:
            return status
        # No status: a signal ended the remote shell, or the connection broke, which the transport's thread may
        # be about to find out.
        self._transport.join(0.5)
        if channel.eof_received and self._transport.is_active():
            return _KILLED
        raise EOFError("the connection ended before the command did")


def connect(endpoint: Endpoint, timeout: float, *, via: socket.socket | None = None) -> FabricGuest:
    """Connect and log in within about `timeout` seconds a phase (banner, keys, login). `via` is a socket to use.

    Raises `guest.unreachable`, `guest.host-key` (it is not our guest that answers) and `guest.login`.
    """
    sock = None
    try:
        sock = via or socket.create_connection((endpoint.host, endpoint.port), timeout)
        # Paramiko leaves Nagle's algorithm on, which costs 40 ms a command.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = _connection(endpoint, timeout, sock)
        connection.open()
        connection.transport.set_keepalive(_KEEPALIVE)
    except BaseException as trouble:
        if sock is not None:
            sock.close()
        if isinstance(trouble, EOFError | OSError | paramiko.SSHException):
            raise _refused(endpoint, trouble) from trouble
        raise
    return FabricGuest(connection)


def _connection(endpoint: Endpoint, timeout: float, sock: socket.socket) -> Any:
    # `lazy` and an own SSHConfig: no file of the system's or the user's is read.
    config = fabric.Config(lazy=True, ssh_config=paramiko.SSHConfig())
    connection = fabric.Connection(
        endpoint.host,
        user=endpoint.user,
        port=endpoint.port,
        config=config,
        forward_agent=False,
        connect_timeout=timeout,
        connect_kwargs={
            "sock": sock,
            "pkey": paramiko.Ed25519Key.from_private_key_file(str(endpoint.key)),
            "key_filename": [str(endpoint.born.key)] if endpoint.born else [],  # tried next, in the same connection
            "allow_agent": False,
            "look_for_keys": False,
            "banner_timeout": timeout,
            "auth_timeout": timeout,
        },
    )
    # Fabric's own policy accepts anybody.
    pairs = (endpoint, endpoint.born) if endpoint.born else (endpoint,)
    connection.client.set_missing_host_key_policy(_OneOf([_pinned(one.known_hosts) for one in pairs]))
    return connection


class _OneOf:
    """Accepts these host keys and no other: a policy for paramiko, whose own list has one key of a kind for a host."""

    def __init__(self, keys: Iterable[Any]) -> None:
        self._keys = tuple(keys)

    def missing_host_key(self, client: Any, hostname: str, key: Any) -> None:  # noqa: ARG002 - paramiko's signature
        if key not in self._keys:
            raise paramiko.SSHException(f"the host key {key.fingerprint} is not in known_hosts")


def _pinned(known_hosts: Path) -> Any:
    """The key of the one line of our known_hosts: `* ssh-ed25519 AAAA…`."""
    return paramiko.Ed25519Key(data=base64.b64decode(known_hosts.read_text().split()[2]))


def _refused(endpoint: Endpoint, trouble: Exception) -> DevboxError:
    details = f"{type(trouble).__name__}: {trouble}"
    where = f"{endpoint.host}:{endpoint.port}"
    if isinstance(trouble, paramiko.BadHostKeyException) or "known_hosts" in str(trouble):
        return DevboxError(
            "guest.host-key",
            f"What answers at {where} does not have this machine's host key, so devbox does not talk to it.",
            hint="See what it says for itself with `devbox logs --serial`.",
            details=details,
        )
    if isinstance(trouble, paramiko.AuthenticationException):
        return DevboxError(
            "guest.login",
            f"The guest does not let `{endpoint.user}` in with this machine's key.",
            hint="See whether it set the account up with `devbox logs --serial`.",
            details=details,
        )
    return DevboxError("guest.unreachable", f"No SSH server answers at {where}.", details=details)


def _lost(trouble: Exception) -> DevboxError:
    return DevboxError(
        "guest.connection-lost",
        "The connection to the guest was lost.",
        hint="See whether it still runs with `devbox status`.",
        details=f"{type(trouble).__name__}: {trouble}",
    )


class _Exchange:
    """One command's input and output, in one thread: it reads while it sends, so neither side can block the other."""

    def __init__(self, channel: Any, stdin: Input, on_output: Callable[[bytes], None] | None) -> None:
        self.stdout, self.stderr = bytearray(), bytearray()
        self._channel, self._on_output = channel, on_output
        self._pieces: Iterator[bytes] = iter((stdin,) if isinstance(stdin, bytes) else stdin)
        self._pending = memoryview(b"")
        self._sent_all = False
        self._poll = select.poll()
        self._poll.register(channel.fileno(), select.POLLIN)

    def run(self, deadline: float | None) -> None:
        """Until the command has ended and all it said is read. Raises TimeoutError."""
        channel = self._channel
        while True:
            busy = self._receive()
            busy = self._send() or busy
            if busy:
                continue
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError
            # Nothing wakes us when the other side can take more input, so that is looked at every 10 ms.
            step = min(1.0 if self._sent_all else 0.01, left if left is not None else 1.0)
            if channel.eof_received or channel.closed:
                # The pipe below stays readable from now on; what is missing is the status.
                if channel.status_event.wait(step) and not (channel.recv_ready() or channel.recv_stderr_ready()):
                    return
            else:
                self._poll.poll(step * 1000)

    def _receive(self) -> bool:
        busy = False
        if self._channel.recv_ready():
            data = self._channel.recv(_SLICE)
            busy = bool(data)
            if not self._on_output:
                self.stdout += data
            elif data:
                self._on_output(data)
        if self._channel.recv_stderr_ready():
            data = self._channel.recv_stderr(_SLICE)
            self.stderr += data
            busy = busy or bool(data)
        return busy

    def _send(self) -> bool:
        """Send a slice, packet by packet: one call for all of it would copy the rest for each packet."""
        if self._sent_all:
            return False
        sent = 0
        self._next_piece()
        try:
            while self._pending and sent < _SLICE and self._channel.send_ready():
                count = self._channel.send(bytes(self._pending[: 32 << 10]))
                self._pending = self._pending[count:]
                sent += count
                self._next_piece()
            if not self._pending:
                self._channel.shutdown_write()
                self._sent_all = True
        except OSError:
            self._sent_all = True  # The command ended, or closed its input, without reading all: not our trouble.
        return sent > 0

    def _next_piece(self) -> None:
        while not self._pending:
            piece = next(self._pieces, None)
            if piece is None:
                return
            self._pending = memoryview(piece)
