"""From a QEMU that runs to a guest that obeys: wait for the SSH banner, then for a login with the pinned keys.

Every rung has a title, a deadline (scaled by how slow this computer emulates) and, when it fails, the last lines of
the serial log with the likely cause. A forwarded port accepts long before the guest listens: only the banner counts.
"""

import errno
import os
import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from devbox import ui
from devbox.errors import DevboxError
from devbox.guest import causes
from devbox.guest.connection import FabricGuest, connect
from devbox.guest.openssh import Endpoint

BANNER_DEADLINE = 120.0  # seconds on a fast computer, as all below
LOGIN_DEADLINE = 60.0
HOST_KEY_PATIENCE = 10.0  # an sshd that starts before cloud-init shows the image's own key for a moment
SILENCE = 3.0  # after a fatal message: a kernel that reboots on panic goes on talking
STEP = 0.05
_TAIL_BYTES, _TAIL_LINES = 8192, 20
# sshd (since 9.8) shuts out an address for a failed login's 5 s each, once 15 s have come together.
_PAUSES = (0.5, 1.0, 2.0, 4.0)
_LAST_PAUSE = 5.0


def wait(endpoint: Endpoint, *, slowdown: float, serial_log: Path, alive: Callable[[], str | None]) -> FabricGuest:
    """The connection to the guest, as soon as a command succeeds in it.

    `slowdown` stretches every deadline; `alive` tells why QEMU ended, None while it runs.
    Raises `guest.died`, `guest.boot-failed`, `guest.no-ssh`, `guest.no-shell`, and what `connect` raises.
    """
    watch = _Watch(serial_log, alive, slowdown)
    with ui.step("Wait until the guest has booted") as shown:
        sock = _await_banner(endpoint, watch, shown)
    with ui.step("Log in to the guest") as shown:
        return _log_in(endpoint, sock, watch, shown)


def _await_banner(endpoint: Endpoint, watch: "_Watch", shown: ui.Step) -> socket.socket:
    limit = BANNER_DEADLINE * watch.slowdown
    deadline = time.monotonic() + limit
    doors = _Doors(endpoint, slowdown=watch.slowdown)
    try:
        while time.monotonic() < deadline:
            watch.check()
            doors.knock()
            if answered := doors.answered():
                return answered
            shown.update(watch.last_line())
    finally:
        doors.close()
    raise watch.failure(
        "guest.no-ssh",
        f"The guest's SSH server did not answer within {ui.duration(limit)}.",
        hint="See what the guest does with `devbox logs --serial`.",
    )


def _log_in(endpoint: Endpoint, sock: socket.socket, watch: "_Watch", shown: ui.Step) -> FabricGuest:
    begun = time.monotonic()
    via: socket.socket | None = sock
    tries = 0
    while True:
        try:
            return _obeying(endpoint, via, watch.slowdown)
        except DevboxError as refused:
            limit = HOST_KEY_PATIENCE if refused.id == "guest.host-key" else LOGIN_DEADLINE
            if time.monotonic() - begun > limit * watch.slowdown:
                raise watch.failure(
                    refused.id, refused.message, hint=refused.hint, details=refused.details
                ) from refused
            shown.update(refused.message)
        via = None
        resume = time.monotonic() + (_PAUSES[tries] if tries < len(_PAUSES) else _LAST_PAUSE) * min(watch.slowdown, 1)
        tries += 1
        while time.monotonic() < resume:
            watch.check()
            time.sleep(STEP)


def _obeying(endpoint: Endpoint, via: socket.socket | None, slowdown: float) -> FabricGuest:
    timeout = min(max(10 * slowdown, 1.0), 60.0)
    guest = connect(endpoint, timeout, via=via)
    try:
        done = guest.run("true", timeout=timeout)
        if done.status == 0:
            return guest
        raise DevboxError(
            "guest.no-shell",
            f"The guest lets `{endpoint.user}` in, but runs no command (status {done.status}).",
            hint="See whether `user.shell` in the Devboxfile exists in this box.",
            details=done.text + done.error_text,
        )
    except BaseException:
        guest.close()
        raise


class _Watch:
    """What can be seen of a guest from outside: whether QEMU lives, and the end of the serial log."""

    def __init__(self, serial_log: Path, alive: Callable[[], str | None], slowdown: float) -> None:
        self.slowdown = slowdown
        self._log, self._alive = serial_log, alive
        self._size, self._changed, self._text = -1, time.monotonic(), ""

    def check(self) -> None:
        """Raises `guest.died` and `guest.boot-failed` as soon as either is certain."""
        if (words := self._alive()) is not None:
            raise self.failure("guest.died", "The machine stopped while it was booting.", details=words)
        self._read()
        if time.monotonic() - self._changed < SILENCE * self.slowdown:
            return
        if cause := causes.hopeless(self._text):
            raise self.failure("guest.boot-failed", cause.text, hint=cause.hint)

    def last_line(self) -> str:
        return next(
            (line for line in reversed(self._text.splitlines()) if line.strip()), "the guest has not said anything yet"
        )

    def failure(self, id: str, message: str, *, hint: str = "", details: str = "") -> DevboxError:
        """The error, with the likely cause and the last lines of the serial log."""
        self._read()
        lines = [line.rstrip() for line in self._text.splitlines() if line.strip()][-_TAIL_LINES:]
        cause = causes.likely(self._text)
        if cause and cause.text != message:
            message, hint = f"{message} {cause.text}", cause.hint
        seen = (
            ["The last lines of the serial log:", *lines] if lines else ["The guest wrote nothing to its serial port."]
        )
        return DevboxError(id, message, hint=hint, details="\n".join([*filter(None, [details.strip()]), *seen]))

    def _read(self) -> None:
        try:
            with self._log.open("rb") as log:
                size = log.seek(0, os.SEEK_END)
                if size == self._size:
                    return
                log.seek(max(0, size - _TAIL_BYTES))
                text = log.read(_TAIL_BYTES).decode(errors="replace")
        except OSError:
            return
        self._size, self._changed, self._text = size, time.monotonic(), ui.clean(text)


class _Doors:
    """Connections that wait for the banner.

    While the guest has no network, QEMU leaves a connection hanging and asks again only after seconds: so there is a
    fresh one now and then. Once one was refused, the guest has its network, and one that hangs is one that sshd has
    taken: then a single connection is kept, since each costs a busy guest a fork, and sshd refuses whom it sees too
    often. The connection that is answered goes on to log in.
    """

    MOST = 4
    PATIENCE = 30.0
    AGAIN = 0.1

    def __init__(self, endpoint: Endpoint, *, slowdown: float) -> None:
        self._address = (endpoint.host, endpoint.port)
        self._interval = min(slowdown, 3.0)
        self._patience = self.PATIENCE * slowdown
        self._next = 0.0
        self._refused = False
        self._waiting: list[tuple[float, socket.socket]] = []

    def knock(self) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        if self._refused and self._waiting:
            if now - self._waiting[0][0] < self._patience:
                return
            self._refused = False  # It rebooted, perhaps.
        if len(self._waiting) >= self.MOST:
            self._waiting.pop(0)[1].close()
        sock = socket.socket(socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET)
        sock.settimeout(0)
        if sock.connect_ex(self._address) in {0, errno.EINPROGRESS}:
            self._waiting.append((now, sock))
        else:
            sock.close()
        self._next = now + (self.AGAIN if self._refused else self._interval)

    def answered(self) -> socket.socket | None:
        """The connection on which an SSH server speaks, its banner still unread; waits a moment for one."""
        poll = select.poll()
        for _, sock in self._waiting:
            poll.register(sock, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(STEP * 1000)}
        for entry in [one for one in self._waiting if one[1].fileno() in ready]:
            heard = b""
            with suppress(OSError):
                heard = entry[1].recv(4, socket.MSG_PEEK)
            if heard and b"SSH-".startswith(heard):
                if heard == b"SSH-":
                    self._waiting.remove(entry)
                    entry[1].settimeout(None)
                    return entry[1]
                continue
            self.close()
            self._refused, self._next = True, time.monotonic() + self.AGAIN
            break
        return None

    def close(self) -> None:
        for _, sock in self._waiting:
            sock.close()
        self._waiting.clear()
