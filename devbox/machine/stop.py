"""The stop ladder: power button, the guest's own command, `quit`, and at last the plug.

Each rung waits for the end of the process itself, never for a fixed time. A process is only ever signalled through a
handle that was opened before it was proved to be this machine's QEMU.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from devbox import fs, ui
from devbox.disk.record import Record
from devbox.errors import DevboxError
from devbox.machine import liveness, process, virtiofsd
from devbox.machine.process import Process
from devbox.machine.qmp import Qmp

_PRESS_INTERVAL = 10.0  # a guest that is still booting misses the button, so it is pressed again
_RUNG = 40.0  # seconds for a guest to shut down; three times that where it is emulated
_QUIT = 10.0
_KILL = 30.0  # a process in an uninterruptible wait (a dead network disk) does not end by SIGKILL either


def stop(record: Record, *, force: bool = False, guest_poweroff: Callable[[], bool] | None = None) -> bool:
    """Stop the machine; whether it ran at all. Raises `machine.disk-locked` when somebody else has its disk.

    The caller holds the machine's lock. `force` leaves out the polite rungs.
    """
    with _qemu(record) as qemu:
        if qemu is None:
            if liveness.image_locked(record.dir.disk):
                raise DevboxError(
                    "machine.disk-locked",
                    "The machine is stopped, but another process has its disk open.",
                    hint=f"Find it with `fuser -v {record.dir.disk}`.",
                )
            _clear(record)
            return False
        fs.append_event(record.dir.log, event="stop", pid=qemu.pid, force=force)
        rung = _descend(record, qemu, force=force, guest_poweroff=guest_poweroff)
        fs.append_event(record.dir.log, event="stopped", pid=qemu.pid, by=rung)
        if not force and rung in {"quit", "kill"}:
            ui.warn("The guest did not shut down by itself and was switched off: what it had not written is lost.")
    _clear(record)
    return True


def _descend(record: Record, qemu: Process, *, force: bool, guest_poweroff: Callable[[], bool] | None) -> str:
    """The rung that ended it."""
    if not force:
        seen = liveness.peek(record.dir.status)
        patience = _RUNG if seen and seen.kvm else 3 * _RUNG
        # A paused guest cannot hear the button, and running it again is for the user to decide.
        if seen and seen.status == "running" and _press_button(record, qemu, patience):
            return "power button"
        if guest_poweroff and _heard(guest_poweroff):
            ui.note("The guest did not hear the power button; it is shutting down by a command now.")
            if qemu.wait(patience):
                return "guest command"
    try:
        with Qmp(record.dir.qmp, timeout=2.0) as qmp:
            qmp.execute("quit")
    except DevboxError:
        pass  # It does not answer, so the plug it is.
    else:
        if qemu.wait(_QUIT):
            return "quit"
    qemu.kill()
    if not qemu.wait(_KILL):
        raise DevboxError(
            "machine.unkillable",
            f"QEMU (process {qemu.pid}) does not end, not even by SIGKILL: it waits for a disk that does not answer.",
            hint="Look at the disk or network mount that holds the machine; the process ends when it answers.",
        )
    return "kill"


def _heard(guest_poweroff: Callable[[], bool]) -> bool:
    try:
        return guest_poweroff()
    except DevboxError:
        return False  # A guest that does not answer is not worth the wait.


def _press_button(record: Record, qemu: Process, patience: float) -> bool:
    left = patience
    while left > 0:
        try:
            with Qmp(record.dir.qmp) as qmp:
                qmp.execute("system_powerdown")
        except DevboxError:
            return qemu.wait(1.0)  # It is just ending, or it hangs.
        if qemu.wait(min(_PRESS_INTERVAL, left)):
            return True
        left -= _PRESS_INTERVAL
    return False


@contextmanager
def _qemu(record: Record) -> Iterator[Process | None]:
    """The QEMU of this machine, proved by its `-uuid` after the handle was opened; None if there is none."""
    candidates: tuple[Callable[[], int | None], ...] = (
        lambda: liveness.socket_pid(record.dir.status),
        lambda: liveness.lock_pid(record.dir.pidfile),
        # The runtime folder may have been swept away under a running machine; its disk is still locked then.
        lambda: process.find_qemu(record.uuid) if liveness.image_locked(record.dir.disk) else None,
    )
    for candidate in candidates:
        if (pid := candidate()) is not None:
            with Process(pid) as handle:
                if handle.is_qemu_of(record.uuid):
                    yield handle
                    return
    yield None


def _clear(record: Record) -> None:
    """Remove sockets and pid file. QEMU removes its own when it may; after a kill they are left."""
    virtiofsd.end_leftovers(record.dir.runtime)
    shutil.rmtree(record.dir.runtime, ignore_errors=True)
