"""A stopped machine's memory and devices, into a file and out of it again, over a descriptor that QEMU is handed.

A migration with no network in it. QEMU keeps the disks as they are, so memory and disk belong together only until
one of them moves on; whoever calls this sees to that.
"""

import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from devbox import fs
from devbox.errors import DevboxError
from devbox.machine.qmp import Qmp

WITHOUT_RAM = "x-ignore-shared"  # a capability: the devices alone; what the guest has in memory is in a shared file
_NAME = "memory"  # of the descriptor, between `getfd` and its use
_STALL = 120.0  # seconds without any progress after which nothing more is expected
_LOOK = 1.0  # at most so long until progress is looked at, when no event comes
_UNLIMITED = 1 << 40  # bytes a second: QEMU's default is 128 MiB/s
_OVER = frozenset({"completed", "failed", "cancelled"})


def save(qmp: Qmp, target: Path | int, *, capabilities: Sequence[str] = (), stall: float = _STALL) -> None:
    """Write the memory of a VM that was stopped by `stop` to a file, complete and durable when this returns.

    A path appears only then, and an open descriptor is written from its position on. The VM is `postmigrate`
    afterwards: `quit` or `cont`. Raises `machine.memory-save`; the VM is stopped then, and goes on by `cont`.
    """
    if isinstance(target, int):
        _save(qmp, target, capabilities, stall)
        os.fsync(target)
        return
    with _aside(target) as (aside, fd):
        _save(qmp, fd, capabilities, stall)
        fs.publish(aside, target)


def load(qmp: Qmp, source: Path | int, *, capabilities: Sequence[str] = (), stall: float = _STALL) -> None:
    """Read the memory into a QEMU that was started with `VmSpec.incoming`. The VM is stopped afterwards: `cont`.

    Raises `machine.memory-load`; QEMU has ended then, or is of no use, and the disk is as it was.
    """
    fd = source if isinstance(source, int) else os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _prepare(qmp, capabilities)
        qmp.pass_descriptor(_NAME, fd)
        qmp.execute("migrate-incoming", uri=f"fd:{_NAME}")
        last, since = 0, time.monotonic()
        while qmp.execute("query-status")["status"] == "inmigrate":
            state = qmp.execute("query-migrate")
            if state.get("status") == "failed":
                raise _load_failed(str(state.get("error-desc", "")))
            if (now := os.lseek(fd, 0, os.SEEK_CUR)) != last:  # the position is shared with QEMU's descriptor
                last, since = now, time.monotonic()
            if time.monotonic() - since > stall:
                raise _load_failed(f"no progress for {stall:.0f} s")
            qmp.wait_event({"MIGRATION"}, _LOOK)
    except DevboxError as trouble:
        if trouble.id == "machine.memory-load":
            raise
        # QEMU before 9.1 ends when it cannot read what it is given, and says why in its log.
        raise _load_failed(trouble.details or trouble.message) from trouble
    finally:
        if not isinstance(source, int):
            os.close(fd)


def cancel(qmp: Qmp) -> None:
    """End a save that is under way, as far as QEMU answers: it would stop the machine again that is to go on."""
    with suppress(DevboxError):
        if qmp.execute("query-migrate").get("status", "none") in {"none", *_OVER}:
            return
        qmp.execute("migrate_cancel")
        _until_over(qmp, 5.0)


@contextmanager
def _aside(target: Path) -> Iterator[tuple[Path, int]]:
    for left in target.parent.glob(f".{target.name}.*"):
        left.unlink(missing_ok=True)
    aside = target.parent / f".{target.name}.{secrets.token_hex(4)}"
    fd = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        yield aside, fd
    finally:
        os.close(fd)
        aside.unlink(missing_ok=True)


def _save(qmp: Qmp, fd: int, capabilities: Sequence[str], stall: float) -> None:
    try:
        _prepare(qmp, capabilities)
        qmp.execute("migrate-set-parameters", max_bandwidth=_UNLIMITED)
        qmp.pass_descriptor(_NAME, fd)
        qmp.execute("migrate", uri=f"fd:{_NAME}")
        state = _until_over(qmp, stall)
    except BaseException as trouble:
        cancel(qmp)
        if isinstance(trouble, DevboxError):
            raise _save_failed(trouble.details or trouble.message) from trouble
        raise
    if state["status"] != "completed":
        raise _save_failed(str(state.get("error-desc", state["status"])))


def _prepare(qmp: Qmp, capabilities: Sequence[str]) -> None:
    # Each that anybody here sets is set: one stays on when a kill comes before it is taken back.
    wanted = [{"capability": name, "state": True} for name in ("events", *capabilities)]
    wanted += [{"capability": name, "state": False} for name in (WITHOUT_RAM,) if name not in capabilities]
    qmp.execute("migrate-set-capabilities", capabilities=wanted)


def _until_over(qmp: Qmp, stall: float) -> dict[str, Any]:
    last, since = -1, time.monotonic()
    while True:
        state: dict[str, Any] = qmp.execute("query-migrate")
        # The run state follows a moment later, and `cont` is refused until then.
        if state.get("status") in _OVER and qmp.execute("query-status")["status"] != "finish-migrate":
            return state
        if (now := state.get("ram", {}).get("transferred", 0)) != last:
            last, since = now, time.monotonic()
        if time.monotonic() - since > stall:
            raise _save_failed(f"no progress for {stall:.0f} s")
        over = state.get("status") in _OVER
        qmp.wait_event({"MIGRATION"}, 0.02 if over else _LOOK)


def _save_failed(why: str) -> DevboxError:
    full = "No space left" in why
    return DevboxError(
        "machine.memory-save",
        f"The machine's memory could not be saved{': the disk of this computer is full' if full else ''}.",
        hint="Make room, for example with `devbox gc`, and try again." if full else "",
        details=why,
    )


def _load_failed(why: str) -> DevboxError:
    return DevboxError("machine.memory-load", "QEMU could not take the saved memory.", details=why)
