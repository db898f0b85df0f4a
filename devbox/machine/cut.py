"""Freeze the disk of a running machine: its file becomes one that nobody writes to any more, and QEMU goes on in a new
overlay above it. No copy, and no stop that a person would notice.

The names on the disk change first, QEMU last: a kill between leaves an empty overlay above the file that QEMU goes on
writing to, so nothing is lost. The caller holds the machine's lock, has let the guest write out what it had, and gives
a `Qmp` with a patience of a minute: QEMU writes out what it has, too.
"""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from devbox import fs
from devbox.disk import chain, overlay
from devbox.disk.record import Record
from devbox.errors import DevboxError
from devbox.machine import argv
from devbox.machine.qmp import Qmp

_SYSTEM: str = "linux" if sys.platform == "linux" else "darwin"
_LONG_AGO = 1_000_000_000
_DEVICE = "vda"  # the system disk, in the argument list


def active_node(qmp: Qmp) -> str:
    """The block node that the guest's disk writes to: "disk" from the start on, another one after each cut."""
    return str(_inserted(qmp)["node-name"])


def freeze(record: Record, qmp: Qmp, *, while_stopped: Callable[[], None] | None = None) -> Path:
    """The file that the disk was written to until now, frozen; `settle` names it for good.

    With `while_stopped` the machine stands still from before the cut until that has returned: what it saves then (the
    memory) belongs to the frozen disk. Raises `machine.not-cut`, which leaves the machine as it was. What
    `while_stopped` raises comes through, when the cut is made already.
    """
    files, running = record.dir, _inserted(qmp)
    if any(files.snapshots.glob("*.json")):
        raise DevboxError("machine.not-cut", "The disk is not frozen: the machine's snapshots are in it.")
    old = chain.active(files)
    _require_same_chain(record, old, int(running["backing_file_depth"]))
    chain.sweep(files)
    new = chain.new_name(files)
    overlay.put_above(old, new, int(running["image"]["virtual-size"]))
    chain.activate(files, new)
    node = {**argv.disk_node(new, new.stem, system=_SYSTEM), "backing": None}
    try:
        qmp.execute("blockdev-add", **node)
        _snapshot(qmp, str(running["node-name"]), new.stem, while_stopped)
    except DevboxError:
        if active_node(qmp) == running["node-name"]:
            chain.activate(files, old)  # Nothing was written to the new one.
            with suppress(DevboxError):
                qmp.execute("blockdev-del", node_name=new.stem)
            chain.sweep(files)
        raise
    fs.append_event(files.log, event="cut", frozen=old.name)
    return old


def _snapshot(qmp: Qmp, old: str, new: str, while_stopped: Callable[[], None] | None) -> None:
    if while_stopped is None:
        qmp.execute("blockdev-snapshot", node=old, overlay=new)
        return
    qmp.execute("stop")
    try:
        qmp.execute("blockdev-snapshot", node=old, overlay=new)
        while_stopped()
    finally:
        qmp.execute("cont")


def settle(record: Record, qmp: Qmp, frozen: Path, sha256: str) -> Path:
    """Name the frozen file by its digest: on the disk, and in the header of what stands on it."""
    parent = record.dir.parent(sha256)
    os.utime(frozen, (_LONG_AGO, _LONG_AGO))  # by which a later change of it shows
    fs.fsync_file(frozen)
    overlay.hold(frozen, parent)
    node = active_node(qmp)
    qmp.execute("change-backing-file", device=node, image_node_name=node, backing_file=sha256)
    fs.fsync_file(record.dir.disk)
    chain.sweep(record.dir)
    return parent


def _inserted(qmp: Qmp) -> dict[str, Any]:
    for device in qmp.execute("query-block"):
        if f"/{_DEVICE}/" in device.get("qdev", "") and "inserted" in device:
            inserted: dict[str, Any] = device["inserted"]
            return inserted
    raise DevboxError("machine.not-cut", "The running QEMU does not tell which disk it writes to.")


def _require_same_chain(record: Record, top: Path, depth: int) -> None:
    """After a cut that was killed before QEMU heard of it, disk.qcow2 leads to a file that QEMU does not write to."""
    if top == record.dir.disk:
        raise DevboxError(
            "machine.not-cut",
            "The disk of this machine cannot be frozen while it runs: an earlier devbox made it.",
            hint="Make the machine anew with `devbox destroy`, then `devbox up`, if you need that.",
        )
    if len(chain.parents(record.dir)) != depth:
        raise DevboxError(
            "machine.not-cut",
            "The machine's disk cannot be frozen: an earlier cut was broken off, and ends when the machine restarts.",
            hint="Restart it with `devbox reload`.",
        )
