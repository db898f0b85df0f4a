"""The running machine goes on in another QEMU, which knows nothing of the kernel that the first one was given.

QEMU starts a kernel that it was given directly at each reset: a reboot of the guest would pass over the guest's own
boot loader, and with it a kernel that was installed meanwhile, for as long as this QEMU runs. No option or command
takes it back (tried on 7.2: the kernel's place in the boot order is fixed). So memory and devices move into a QEMU
without it, through a file in memory: 0.5 s, of which the guest notices a pause, and its connections are new.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from devbox import fs
from devbox.disk.record import Record
from devbox.errors import DevboxError
from devbox.machine import memory, plug, process, start, stop
from devbox.machine.argv import VmSpec
from devbox.machine.host import HostFacts
from devbox.machine.liveness import Peek
from devbox.machine.process import Process
from devbox.machine.qmp import Qmp

_END = 60.0  # seconds for QEMU to end by `quit`


def is_direct(pid: int | None) -> bool:
    """Whether this QEMU was given a kernel."""
    return pid is not None and "-kernel" in process.arguments(pid)


def by_firmware(record: Record, pid: int, vm: VmSpec, facts: HostFacts) -> Peek:
    """What the new QEMU says of itself; the guest goes on where it stood, on other ports.

    Raises `machine.memory-save` (it runs on as it did), or else what tells that it has stopped; the disk is as after
    a power failure then. The caller holds the machine's lock.
    """
    with _file() as kept, Process(pid) as old:
        if not old.is_qemu_of(record.uuid):
            raise DevboxError("machine.not-running", "The machine does not run.", hint="Start it with `devbox up`.")
        _leave(record, kept, old)
        os.lseek(kept, 0, os.SEEK_SET)
        seen = start.start(replace(vm, direct=None, incoming=True), facts)
        try:
            with Qmp(record.dir.qmp) as qmp:
                memory.load(qmp, kept)
                qmp.execute("cont")
                plug.plug(qmp, vm, facts)
        except BaseException:
            stop.stop(record, force=True)  # it is of no use, and would be taken for the machine
            raise
    fs.append_event(record.dir.log, event="handover", pid=seen.pid)
    return seen


def _leave(record: Record, kept: int, old: Process) -> None:
    with Qmp(record.dir.qmp) as qmp:
        qmp.execute("stop")
        try:
            memory.save(qmp, kept)
        except BaseException:
            qmp.execute("cont")
            raise
        qmp.execute("quit")
    if not old.wait(_END):
        old.kill()
        old.wait(_END)
    with suppress(ChildProcessError):  # an earlier `up` has started it
        os.waitpid(old.pid, os.WNOHANG)


@contextmanager
def _file() -> Iterator[int]:
    """A file without a name, in memory where the system has such; only this process and QEMU can read it."""
    try:
        kept = os.memfd_create("devbox-handover")
    except AttributeError:  # macOS
        with tempfile.TemporaryFile() as file:
            yield file.fileno()
        return
    try:
        yield kept
    finally:
        os.close(kept)
