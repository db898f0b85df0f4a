"""Snapshots of a machine: its disks as internal qcow2 snapshots, and beside them a file with the memory if it ran.

`snapshots/<name>.json` appears last and goes first; what no such file names is left over, and swept. Putting one back
makes the machine a stopped or a suspended one, which then goes on as any other.
"""

import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from devbox import fs, proc
from devbox.disk import record as records
from devbox.disk.record import Record
from devbox.errors import DevboxError, ExitCode
from devbox.machine import dormant, hardware, memory, saved
from devbox.machine.argv import VmSpec
from devbox.machine.qmp import Qmp
from devbox.machine.saved import Saved

_SCHEMA = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TAG = re.compile(r"devbox-[0-9a-f]{16}")
_HINT = "Install it (Debian, Ubuntu: `apt install qemu-utils`; macOS: `brew install qemu`)."


@dataclass(frozen=True, slots=True)
class Snapshot:
    name: str
    tag: str  # by which the disks know it
    at: str
    disks: tuple[Path, ...]
    disk_size: int
    told: Mapping[str, str]  # file name → text: what `status` tells of provisioning and of the last start
    memory: Saved | None  # of a machine that ran


def check_name(name: str) -> None:
    """Raises `snapshot.name`."""
    if not _NAME.fullmatch(name):
        raise DevboxError(
            "snapshot.name",
            f"`{name}` cannot be the name of a snapshot.",
            hint="Letters, digits, `.`, `_` and `-`, up to 64, beginning with a letter or a digit.",
            exit_code=ExitCode.USAGE,
        )


def entries(record: Record) -> tuple[Snapshot, ...]:
    """All of the machine, the oldest first. One that cannot be read is not there."""
    found = []
    for path in record.dir.snapshots.glob("*.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            found.append(_parse(path.stem, json.loads(path.read_bytes()), record))
    return tuple(sorted(found, key=lambda one: (one.at, one.name)))


def memory_file(record: Record, snapshot: Snapshot) -> Path:
    return record.dir.snapshots / f"{snapshot.tag}.state"


def take_live(record: Record, name: str, vm: VmSpec) -> Snapshot:
    """Of the running machine, whose folder devices are out; it stands still meanwhile, and goes on in any case.

    Raises `snapshot.failed` and `machine.memory-save`, and leaves nothing then.
    """
    with Qmp(record.dir.qmp, timeout=60.0) as qmp:
        sweep(record, qmp)
        made = _new(record, name, saved.describe(qmp, vm))
        nodes = _nodes(qmp, record)
        qmp.execute("stop")
        try:
            for node in nodes:
                qmp.execute("blockdev-snapshot-internal-sync", device=node, name=made.tag)
            memory.save(qmp, memory_file(record, made))
        except BaseException:
            memory.cancel(qmp)
            with suppress(DevboxError):
                qmp.execute("cont")
                sweep(record, qmp)
            raise
        qmp.execute("cont")
        _publish(record, made)
        sweep(record, qmp)
    return made


def take_still(record: Record, name: str) -> Snapshot:
    """Of a stopped or suspended machine. Raises `snapshot.failed`, and leaves nothing then."""
    sweep(record)
    suspended = saved.read(record.dir.memory_hardware, record) if dormant.has_memory(record.dir) else None
    made = _new(record, name, suspended)
    try:
        with _unstamped(record):
            for disk in made.disks:
                _qemu_img("snapshot", "-c", made.tag, disk)
        if suspended:
            _link(record.dir.memory, memory_file(record, made))
        _publish(record, made)
    except BaseException:
        with suppress(DevboxError, OSError):
            sweep(record)
        raise
    sweep(record)
    return made


def require_whole(snapshot: Snapshot) -> None:
    """Raises `snapshot.torn`. Looks only, so the machine may run."""
    for disk in snapshot.disks:
        if not disk.exists() or snapshot.tag not in _tags(disk):
            raise DevboxError(
                "snapshot.torn",
                f"The snapshot `{snapshot.name}` is not in {disk} any more, so it cannot be restored.",
                hint=f"Remove what is left of it with `devbox snapshot delete {snapshot.name}`.",
            )


def put_back(record: Record, snapshot: Snapshot) -> Record:
    """Make the machine, whose QEMU has ended, what it was: stopped, or suspended. Raises `snapshot.torn` before."""
    require_whole(snapshot)
    dormant.forget(record.dir)
    for disk in snapshot.disks:
        _qemu_img("snapshot", "-a", snapshot.tag, disk)
    for name in _told_files(record):
        path = record.dir.folder / name
        if name in snapshot.told:
            fs.write_atomic(path, snapshot.told[name].encode())
        else:
            path.unlink(missing_ok=True)
    restored = records.resized(record, snapshot.disk_size)
    if snapshot.memory and memory_file(record, snapshot).exists():
        _link(memory_file(record, snapshot), record.dir.memory)
        saved.write(
            record.dir.memory_hardware,
            replace(snapshot.memory, stamp=saved.stamp(record.dir.disk, snapshot.memory.vm.disks)),
        )
    fs.append_event(record.dir.log, event="restore", snapshot=snapshot.name)
    return restored


def delete(record: Record, snapshot: Snapshot) -> None:
    """The snapshot is not there any more; its space is freed by `sweep`."""
    (record.dir.snapshots / f"{snapshot.name}.json").unlink(missing_ok=True)
    fs.fsync_dir(record.dir.snapshots)
    fs.append_event(record.dir.log, event="snapshot-delete", snapshot=snapshot.name)


def sweep(record: Record, qmp: Qmp | None = None) -> None:
    """Free what no snapshot names: leftovers of kills, and what was replaced or deleted. `qmp` is of what runs."""
    fs.make_private_dir(record.dir.snapshots)
    known = {one.tag for one in entries(record)}
    for path in record.dir.snapshots.glob("devbox-*.state"):
        if path.stem not in known:
            path.unlink()
    if qmp:
        for node, tags in _nodes(qmp, record).items():
            for tag in tags - known:
                qmp.execute("blockdev-snapshot-delete-internal-sync", device=node, name=tag)
        return
    left = [(disk, tag) for disk in hardware.disks(record).values() if disk.exists() for tag in _tags(disk) - known]
    if left:
        with _unstamped(record):
            for disk, tag in left:
                _qemu_img("snapshot", "-d", tag, disk)


def _new(record: Record, name: str, of: Saved | None) -> Snapshot:
    told = {path: (record.dir.folder / path).read_text() for path in _told_files(record) if _is_there(record, path)}
    return Snapshot(
        name=name,
        tag=f"devbox-{secrets.token_hex(8)}",
        at=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        disks=tuple(disk for disk in hardware.disks(record).values() if disk.exists()),
        disk_size=record.disk_size,
        told=told,
        memory=of,
    )


def _told_files(record: Record) -> tuple[str, ...]:
    files = record.dir
    return (files.outcome.name, files.last_run.name, files.started.name, files.hardware.name)


def _is_there(record: Record, name: str) -> bool:
    return (record.dir.folder / name).exists()


def _publish(record: Record, made: Snapshot) -> None:
    kept = {
        "schema": _SCHEMA,
        "tag": made.tag,
        "at": made.at,
        "disks": [os.fspath(disk) for disk in made.disks],
        "disk_size": made.disk_size,
        "told": dict(made.told),
        "memory": saved.to_json(made.memory) if made.memory else None,
    }
    fs.write_atomic(record.dir.snapshots / f"{made.name}.json", json.dumps(kept, indent=2).encode())
    fs.append_event(record.dir.log, event="snapshot", snapshot=made.name)


def _parse(name: str, raw: Mapping[str, Any], record: Record) -> Snapshot:
    if raw["schema"] != _SCHEMA or not _TAG.fullmatch(raw["tag"]) or not _NAME.fullmatch(name):
        raise ValueError(name)
    return Snapshot(
        name=name,
        tag=raw["tag"],
        at=str(raw["at"]),
        disks=tuple(Path(disk) for disk in raw["disks"]),
        disk_size=int(raw["disk_size"]),
        told={str(path): str(text) for path, text in raw["told"].items() if path in _told_files(record)},
        memory=saved.from_json(raw["memory"], record) if raw["memory"] else None,
    )


def _nodes(qmp: Qmp, record: Record) -> dict[str, set[str]]:
    """The block nodes that the running machine writes its disks to, as they are now, with our snapshots in each."""
    devices = hardware.disks(record)
    found = {}
    for block in qmp.execute("query-block"):
        if any(f"/{device}/" in block.get("qdev", "") for device in devices) and "inserted" in block:
            inside = block["inserted"]["image"].get("snapshots", ())
            found[str(block["inserted"]["node-name"])] = {one["name"] for one in inside if _TAG.fullmatch(one["name"])}
    return found


def _tags(disk: Path) -> set[str]:
    """Our snapshots in a disk, as its file has them."""
    told = json.loads(_qemu_img("info", "-U", "--output=json", "-f", "qcow2", disk))
    return {one["name"] for one in told.get("snapshots", ()) if _TAG.fullmatch(one["name"])}


def _qemu_img(*words: str | Path) -> str:
    done = proc.run([proc.find_tool("qemu-img", hint=_HINT), *words], timeout=600)
    if done.status != 0:
        full = "No space left" in done.error_text
        raise DevboxError(
            "snapshot.failed",
            "The disk of this computer is full." if full else "qemu-img could not do it.",
            hint="Make room, for example with `devbox gc`." if full else "",
            details=done.error_text,
        )
    return done.text


@contextmanager
def _unstamped(record: Record) -> Iterator[None]:
    """Our own work on the disk of a suspended machine changes nothing that the guest sees: its memory stays good."""
    if not dormant.has_memory(record.dir):
        yield
        return
    needs = saved.read(record.dir.memory_hardware, record)
    if needs.stamp and needs.stamp != saved.stamp(record.dir.disk, needs.vm.disks):
        yield  # somebody else changed it, and that must still show
        return
    saved.write(record.dir.memory_hardware, replace(needs, stamp=()))
    yield
    saved.write(record.dir.memory_hardware, replace(needs, stamp=saved.stamp(record.dir.disk, needs.vm.disks)))


def _link(source: Path, target: Path) -> None:
    """The same bytes by another name. A saved memory is never written to again, so they may share them."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        aside = target.with_name(f".{target.name}.copy")
        shutil.copyfile(source, aside)
        aside.chmod(0o600)
        fs.publish(aside, target)
    fs.fsync_dir(target.parent)
