"""A machine's life: what state it is in, start it, stop it, let it go on, end it.

The state is derived each time and never stored. Whoever calls anything but `observe` holds the machine's lock
(`disk.record.locked`). Heavy imports (asyncio) stand in the functions that need them: `status` needs none.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from devbox.disk import chain, trash
from devbox.disk.record import Record
from devbox.errors import DevboxError
from devbox.machine import dormant, liveness
from devbox.machine.liveness import Peek
from devbox.share.ports import Forward

if TYPE_CHECKING:
    from devbox.machine.argv import VmSpec
    from devbox.machine.host import HostFacts


class State(StrEnum):
    MISSING = "not created"
    STOPPED = "stopped"
    RUNNING = "running"
    PAUSED = "paused"
    SUSPENDED = "suspended"
    NOT_ANSWERING = "not answering"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class Observation:
    state: State
    reason: str = ""
    pid: int | None = None
    ssh_port: int | None = None
    forwards: tuple[Forward, ...] = ()  # those the Devboxfile declares


@dataclass(frozen=True, slots=True)
class Running:
    record: Record
    observation: Observation
    ssh_port: int
    fresh: bool  # it was started just now


WAITS_FOR_MEMORY = "it waits for its saved memory"
NO_SOCKETS = "a process has its disk open, but the sockets by which devbox reaches it were deleted"

# QEMU's run states in which the guest stands still, and what to say about them.
_PAUSED = {
    "io-error": "its disk could not be written",
    "internal-error": "the accelerator failed: QEMU internal error",
    "guest-panicked": "the guest's kernel panicked",
    "shutdown": "the guest is shut down",
    "watchdog": "the watchdog stopped it",
    "inmigrate": WAITS_FOR_MEMORY,
    "postmigrate": "its memory was being saved",
}
_RESUMABLE = {"paused", "io-error", "prelaunch", "postmigrate", "suspended", "finish-migrate", "save-vm"}


def observe(record: Record) -> Observation:
    """The truth about this machine, within two seconds, changing nothing and waiting for no lock."""
    folder = record.dir
    if not folder.folder.is_dir():
        return Observation(State.MISSING)
    seen = liveness.peek(folder.status)
    if seen and seen.uuid == record.uuid:
        return _from_peek(seen)
    if pid := liveness.lock_pid(folder.pidfile):
        return Observation(State.NOT_ANSWERING, "QEMU runs, but does not answer", pid)
    if liveness.image_locked(folder.disk):
        return Observation(State.NOT_ANSWERING, NO_SOCKETS)
    if gone := chain.missing(folder, record.image):
        return Observation(State.DAMAGED, f"the image under its disk is gone: {gone}")
    return Observation(State.SUSPENDED if dormant.has_memory(folder) else State.STOPPED)


def _from_peek(seen: Peek) -> Observation:
    paused = not seen.running
    reason = ""
    if paused:
        reason = (
            "host disk full"
            if seen.disk_full
            else _PAUSED.get(seen.status, "" if seen.status == "paused" else seen.status)
        )
    return Observation(State.PAUSED if paused else State.RUNNING, reason, seen.pid, seen.ssh_port, seen.declared)


def ensure_running(record: Record, vm: "VmSpec", facts: "HostFacts") -> Running:
    """The running machine, started if it is not. One that a previous `up` started is adopted as it is."""
    from devbox.machine import start  # noqa: PLC0415

    seen = observe(record)
    if seen.state is State.PAUSED:
        resume(record)
        seen = observe(record)
    if seen.state is State.RUNNING:
        return _adopted(record)
    if seen.state is not State.STOPPED:
        raise _obstacle(seen)
    try:
        first = start.start(vm, facts)
    except DevboxError as failed:
        if failed.id == "machine.starting" and observe(record).state is State.RUNNING:
            return _adopted(record)
        raise
    return _running(record, first, fresh=True)


def _adopted(record: Record) -> Running:
    seen = liveness.peek(record.dir.status)
    if seen is None:
        raise _obstacle(Observation(State.NOT_ANSWERING, "QEMU just ended, or does not answer"))
    return _running(record, seen, fresh=False)


def _running(record: Record, seen: Peek, *, fresh: bool) -> Running:
    if seen.ssh_port is None:
        raise DevboxError(
            "machine.no-ssh-port",
            "The running QEMU does not forward a port to the machine's SSH.",
            hint="Start it anew with `devbox reload`.",
        )
    return Running(record, _from_peek(seen), seen.ssh_port, fresh)


def _obstacle(seen: Observation) -> DevboxError:
    if seen.state is State.SUSPENDED:
        return DevboxError("machine.suspended", "The machine is suspended.", hint="Let it go on with `devbox resume`.")
    if seen.state is State.DAMAGED:
        return DevboxError(
            "machine.damaged",
            f"The machine is damaged: {seen.reason}.",
            hint="Its disk is kept. `devbox destroy` moves it to the trash, then `devbox up` makes a new one.",
        )
    if seen.reason == NO_SOCKETS:
        return DevboxError(
            "machine.not-answering",
            f"The machine is {seen.state}: {seen.reason}.",
            hint="Restart it with `devbox reload`: it is shut down in good order where its SSH still answers.",
        )
    return DevboxError(
        "machine.not-answering",
        f"The machine is {seen.state}: {seen.reason}.",
        hint="Wait a moment and look with `devbox status`, or pull the plug with `devbox halt --force`.",
    )


def halt(record: Record, *, force: bool = False, guest_poweroff: Callable[[], bool] | None = None) -> bool:
    """Shut the machine down by the stop ladder; its disk stays. Whether it ran."""
    from devbox.machine import stop  # noqa: PLC0415

    return stop.stop(record, force=force, guest_poweroff=guest_poweroff)


def destroy(record: Record, *, for_good: bool = False) -> None:
    """Stop the machine at once, leave nothing running, and move its folder to the trash, or `for_good` delete it."""
    halt(record, force=True)
    aside = trash.discard(record)
    if for_good:
        trash.delete(aside)


def resume(record: Record) -> None:
    """Let a paused machine go on. Raises `machine.not-resumable`, or `machine.paused` if it pauses again at once."""
    from devbox.machine import memory  # noqa: PLC0415
    from devbox.machine.qmp import Qmp  # noqa: PLC0415

    seen = liveness.peek(record.dir.status)
    if seen is None or seen.uuid != record.uuid:
        raise DevboxError("machine.not-running", "The machine does not run.", hint="Start it with `devbox up`.")
    if seen.running:
        return
    if seen.status not in _RESUMABLE:
        raise DevboxError(
            "machine.not-resumable",
            f"The machine cannot go on: {_from_peek(seen).reason}.",
            hint="End it with `devbox halt --force`, then start it with `devbox up`.",
        )
    dormant.forget(record.dir)  # It may have been about to be suspended; from now on its disk moves on.
    with Qmp(record.dir.qmp) as qmp:
        memory.cancel(qmp)
        qmp.execute("cont")
        # The guest writes again what it could not write before, so a disk that is still full shows at once.
        again = qmp.wait_event({"BLOCK_IO_ERROR"}, timeout=0.5) if seen.status == "io-error" else None
    if again:
        full = bool(again.data.get("nospace"))
        raise DevboxError(
            "machine.paused",
            f"The machine paused again: {'the disk of this computer is still full' if full else 'its disk fails'}.",
            hint="Free some space, then `devbox resume`." if full else f"QEMU's own log is {record.dir.qemu_log}",
            details=str(again.data.get("reason", "")),
        )
