"""What a saved memory needs: the machine as QEMU ran it, written as JSON beside the memory, and read back.

A memory fits only the hardware that it was saved from, so a machine goes on with that, whatever the Devboxfile says.
"""

import json
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from devbox import fs
from devbox.disk.data import Attached
from devbox.disk.record import Record
from devbox.errors import DevboxError
from devbox.machine import hardware, started
from devbox.machine.accelerator import Accelerator
from devbox.machine.argv import VmSpec
from devbox.machine.host import HostFacts
from devbox.machine.qmp import Qmp

_SCHEMA = 1
_WORDS = ("qemu", "accelerator", "processor", "at")


@dataclass(frozen=True, slots=True)
class Saved:
    vm: VmSpec
    qemu: str  # "7.2.22"
    accelerator: str
    processor: str  # of this computer, where the guest saw it; "" under emulation
    at: str
    stamp: tuple[int, ...] = ()  # of the disks; () where it is being worked on by ourselves


def describe(qmp: Qmp, vm: VmSpec) -> Saved:
    """The running machine `vm`, with what only QEMU knows of it."""
    version = qmp.execute("query-version")["qemu"]
    kind = str(qmp.execute("qom-get", path="/machine", property="type")).removesuffix("-machine")
    kvm = bool(qmp.execute("query-kvm")["enabled"])
    return Saved(
        vm=replace(vm, machine_type=kind, incoming=False, ram=None),  # "q35" is another one in the next QEMU
        qemu=f"{version['major']}.{version['minor']}.{version['micro']}",
        accelerator=str(Accelerator.KVM if kvm else Accelerator.TCG),
        processor=processor() if kvm else "",
        at=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    )


def write(path: Path, saved: Saved) -> None:
    fs.write_atomic(path, json.dumps(to_json(saved), indent=2).encode())


def read(path: Path, record: Record) -> Saved:
    """Raises `machine.memory-unreadable`."""
    try:
        return from_json(json.loads(path.read_bytes()), record)
    except (OSError, ValueError, KeyError, TypeError) as broken:
        raise _unreadable(path, broken) from broken


def to_json(saved: Saved) -> dict[str, Any]:
    words = {name: getattr(saved, name) for name in _WORDS}
    return {"schema": _SCHEMA, **words, "stamp": list(saved.stamp), "machine": started.chosen(saved.vm)}


def from_json(raw: dict[str, Any], record: Record) -> Saved:
    """Raises KeyError, TypeError or ValueError."""
    if raw["schema"] != _SCHEMA:
        raise ValueError(f"its schema is {raw['schema']!r}")
    words = {name: str(raw[name]) for name in _WORDS}
    return Saved(hardware.from_json(raw["machine"], record), **words, stamp=tuple(int(part) for part in raw["stamp"]))


def obstacle(saved: Saved, facts: HostFacts, disk: Path) -> str:
    """Why this memory cannot be used on this computer as it is now; "" where it can."""
    have = ".".join(map(str, facts.qemu_version))
    if saved.qemu.split(".")[:2] != have.split(".")[:2]:
        return f"it was saved by QEMU {saved.qemu}, and this computer has {have}"
    if saved.accelerator != str(facts.accelerator):
        return f"the machine ran by {saved.accelerator}, and would now run by {facts.accelerator}"
    if saved.processor and saved.processor != processor():
        return f"it was saved on another processor ({saved.processor})"
    if saved.stamp and saved.stamp != stamp(disk, saved.vm.disks):
        return "the disk was changed since then"
    return ""


def stamp(disk: Path, data: Sequence[Attached] = ()) -> tuple[int, ...]:
    """By which a change of the disk, or of a data disk, by somebody else shows."""
    found: list[int] = []
    for path in (disk, *(one.path for one in data)):
        try:
            info = path.stat()
        except OSError:
            return (-1,)  # a data disk that is gone; a memory is never saved with that
        found += [info.st_size, info.st_mtime_ns]
    return tuple(found)


def processor() -> str:
    """The model of this computer's processor, as the kernel calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    named = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return named.get("model name") or platform.machine()


def _unreadable(path: Path, why: Exception) -> DevboxError:
    return DevboxError(
        "machine.memory-unreadable",
        f"What the saved memory needs cannot be read: {path}",
        hint="`devbox up --discard-memory` gives the memory up and boots the disk.",
        details=f"{type(why).__name__}: {why}",
    )
