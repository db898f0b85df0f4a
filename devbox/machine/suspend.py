"""Suspend a machine into a file and let it go on from there: memory and disk are never out of step.

`memory.json` appears last and goes first. So a kill leaves a machine that runs or stands still, one that is
suspended, or one that boots from its disk. The caller holds the lock, and the guest has unmounted its folders.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from devbox import fs, ui
from devbox.disk.record import Record
from devbox.errors import DevboxError
from devbox.machine import dormant, liveness, memory, plug, saved, start, started, stop
from devbox.machine.argv import VmSpec
from devbox.machine.host import HostFacts
from devbox.machine.qmp import Qmp
from devbox.share import ports
from devbox.share.ports import Forward


def suspend(record: Record, vm: VmSpec) -> None:
    """Save the memory of the running machine `vm`, and end its QEMU. Raises what `memory.save` raises: it goes on."""
    with Qmp(record.dir.qmp) as qmp:
        plug.unplug(qmp, record.dir)
        needs = saved.describe(qmp, vm)
        dormant.clear(record.dir)
        try:
            qmp.execute("stop")
            memory.save(qmp, record.dir.memory)
            saved.write(record.dir.memory_hardware, replace(needs, stamp=saved.stamp(record.dir.disk, vm.disks)))
        except BaseException:
            dormant.forget(record.dir)
            with suppress(DevboxError):
                qmp.execute("cont")
            raise
    finish(record)


def finish(record: Record) -> None:
    """End the QEMU of a machine whose memory is saved."""
    fs.append_event(record.dir.log, event="suspend")
    stop.stop(record, force=True)


def wake(record: Record, facts: HostFacts) -> VmSpec:
    """The suspended machine goes on; as what. Its folders are not mounted, and its clock is behind.

    Raises `machine.memory-mismatch` and `machine.memory-load`: it is suspended as before then.
    """
    needs = saved.read(record.dir.memory_hardware, record)
    if why := saved.obstacle(needs, facts, record.dir.disk):
        raise _refused(why)
    vm = replace(needs.vm, forwards=_free(needs.vm.forwards))
    started.save(record, vm)
    start.start(replace(vm, incoming=True), facts)
    try:
        dormant.unplugged(record.dir).touch()
        with Qmp(record.dir.qmp) as qmp:
            memory.load(qmp, record.dir.memory)
            dormant.forget(record.dir)
            qmp.execute("cont")
    except BaseException as trouble:
        if dormant.has_memory(record.dir):
            stop.stop(record, force=True)
        if isinstance(trouble, DevboxError) and trouble.id == "machine.memory-load":
            raise _refused("QEMU could not take it", trouble.details) from trouble
        raise
    fs.append_event(record.dir.log, event="wake")
    return vm


def plug_folders(record: Record, vm: VmSpec, facts: HostFacts) -> None:
    """Plug in the folder devices that the running machine lacks."""
    with Qmp(record.dir.qmp) as qmp:
        plug.plug(qmp, vm, facts)


def pull_folders(record: Record) -> None:
    """Pull the folder devices out of the running machine. Raises `machine.unplug`."""
    with Qmp(record.dir.qmp) as qmp:
        plug.unplug(qmp, record.dir)


def end_half_woken(record: Record) -> None:
    """End a QEMU that waits for a memory which nobody will give it any more: it is suspended as before, or, where
    that was the memory of its layer, stopped as before. Its guest has not run yet.
    """
    seen = liveness.peek(record.dir.status)
    if seen and seen.uuid == record.uuid and seen.status == "inmigrate":
        stop.stop(record, force=True)


def _free(forwards: Sequence[Forward]) -> tuple[Forward, ...]:
    """The forwards of before; one whose port was taken meanwhile moves to the next free port, which is said."""
    used = {(one.protocol, one.host) for one in forwards}
    found = []
    for one in forwards:
        if ports.free(one.bind, one.host, one.protocol):
            found.append(one)
            continue
        candidates = (number for number in range(one.host + 1, 65536) if (one.protocol, number) not in used)
        number = next((number for number in candidates if ports.free(one.bind, number, one.protocol)), one.host)
        used.add((one.protocol, number))
        ui.warn(f"Port {one.host} was taken meanwhile: {one.name or one.guest} is now at {one.bind}:{number}.")
        found.append(replace(one, host=number))
    return tuple(found)


def _refused(why: str, details: str = "") -> DevboxError:
    return DevboxError(
        "machine.memory-mismatch",
        f"The machine cannot go on from its saved memory: {why}.",
        hint="It stays suspended. `devbox up --discard-memory` gives the memory up and boots the disk.",
        details=details,
    )
