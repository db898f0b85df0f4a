"""A handle on a process that is not our child: wait for its end, or kill it, without ever meaning another one.

On Linux a pidfd, which stays with the process even when its number is given to another; elsewhere the number, checked
again before each use.
"""

import os
import select
import signal
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from devbox import proc

_PLATFORM: str = sys.platform  # mypy would take the other systems' lines for unreachable


class Process:
    """Opened before its identity is checked, so that what was checked is what is signalled."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._fd = -1
        self._ended = False
        if _PLATFORM == "linux":
            try:
                self._fd = os.pidfd_open(pid)
            except ProcessLookupError:
                self._ended = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def wait(self, timeout: float) -> bool:
        """Whether it has ended, after waiting for that up to `timeout` seconds."""
        if self._fd >= 0:
            if not self._ended:
                poll = select.poll()
                poll.register(self._fd, select.POLLIN)
                self._ended = bool(poll.poll(max(0.0, timeout) * 1000))
            return self._ended
        deadline = time.monotonic() + timeout
        while not self._ended:
            self._ended = not _exists(self.pid)
            if time.monotonic() >= deadline:
                break
            time.sleep(0.02)  # macOS has kqueue for this, but not for a process that may have ended before
        return self._ended

    def kill(self) -> None:
        """SIGKILL to this very process; nothing when it has ended."""
        try:
            if self._fd >= 0:
                signal.pidfd_send_signal(self._fd, signal.SIGKILL)
            elif not self._ended:
                os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            self._ended = True

    def is_qemu_of(self, uuid: str) -> bool:
        """Whether it is the QEMU that was started with this `-uuid`. A zombie has no arguments any more: no."""
        words = arguments(self.pid)
        return not self.wait(0) and any(pair == ("-uuid", uuid) for pair in zip(words, words[1:], strict=False))


def arguments(pid: int) -> list[str]:
    """The command line of a process; empty if it has none, has ended, or is another user's."""
    if _PLATFORM == "linux":
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            return []
    return proc.run(["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)], timeout=10).text.split()


def find_qemu(uuid: str) -> int | None:
    """The QEMU of this machine among all processes: for when its runtime folder was deleted under it (Linux only)."""
    for entry in Path("/proc").glob("[0-9]*"):
        with Process(int(entry.name)) as candidate:
            if candidate.is_qemu_of(uuid):
                return candidate.pid
    return None


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
