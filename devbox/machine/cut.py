"""Freeze the disk of a running machine: its file becomes one that nobody writes to any more, and QEMU goes on in a new
overlay above it. No copy, and no stop that a person would notice.

The names on the disk change first, QEMU last: a kill between leaves an empty overlay above the file that QEMU goes on
writing to, so nothing is lost. The caller holds the machine's lock, and has let the guest write out what it had.
"""

import os
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from devbox import fs
from devbox.disk import chain, overlay
from devbox.disk.record import Record
from devbox.errors import DevboxError
from devbox.machine import argv
from devbox.machine.qmp import Qmp

_DEVICE = "vda"  # the system disk, in the argument list


def active_node(qmp: Qmp) -> str:
    """The block node that the guest's disk writes to: "disk" from the start on, another one after each cut."""
    return str(_inserted(qmp)["node-name"])


def freeze(record: Record, qmp: Qmp, *, while_stopped: Callable[[], None] | None = None) -> Path:
    """The file that held the disk until now, frozen, beside the overlay in its place; `settle` names it for good.

    With `while_stopped` the machine stands still from before the cut until that has returned: what it saves then (the
    memory) belongs to the frozen disk. Raises `machine.not-cut`, which leaves the machine as it was.
    """
    active = _inserted(qmp)
    _require_same_chain(record, int(active["backing_file_depth"]))
    leftovers(record)
    token = secrets.token_hex(8)
    frozen, node = record.dir.folder / f"frozen-{token}.qcow2", f"disk-{token}"
    try:
        os.link(record.dir.disk, frozen)
    except OSError as unable:
        raise DevboxError(
            "machine.not-cut", f"The disk cannot be frozen: this file system has no hard links ({unable.strerror})."
        ) from unable
    overlay.put_above(record.dir.disk, frozen.name, int(active["image"]["virtual-size"]))
    system = "linux" if sys.platform == "linux" else "darwin"
    try:
        qmp.execute("blockdev-add", **argv.disk_node(record.dir.disk, node, system=system), backing=None)
        _snapshot(qmp, str(active["node-name"]), node, while_stopped)
    except DevboxError:
        if active_node(qmp) == active["node-name"]:
            frozen.rename(record.dir.disk)  # Nothing was written to the overlay.
            fs.fsync_dir(record.dir.folder)
        raise
    fs.append_event(record.dir.log, event="cut", frozen=frozen.name)
    return frozen


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
    """Name the frozen file by its digest, on the disk, in the overlay's header and in the running QEMU."""
    parent = record.dir.parent(sha256)
    fs.fsync_file(frozen)
    overlay.hold(frozen, parent)
    node = active_node(qmp)
    qmp.execute("change-backing-file", device=node, image_node_name=node, backing_file=sha256)
    fs.fsync_file(record.dir.disk)
    leftovers(record)
    return parent


def leftovers(record: Record) -> None:
    """Drop the frozen files that the disk does not stand on: they have got their digest's name, or are not needed."""
    used = {path.name for path in chain.parents(record.dir)}
    for path in record.dir.folder.glob("frozen-*.qcow2"):
        if path.name not in used:
            path.unlink(missing_ok=True)
    fs.fsync_dir(record.dir.folder)


def _inserted(qmp: Qmp) -> dict[str, Any]:
    for device in qmp.execute("query-block"):
        if f"/{_DEVICE}/" in device.get("qdev", "") and "inserted" in device:
            inserted: dict[str, Any] = device["inserted"]
            return inserted
    raise DevboxError("machine.not-cut", "The running QEMU does not tell which disk it writes to.")


def _require_same_chain(record: Record, depth: int) -> None:
    """After a cut that was killed before QEMU heard of it, disk.qcow2 is not the file that QEMU writes to."""
    if len(chain.parents(record.dir)) != depth:
        raise DevboxError(
            "machine.not-cut",
            "The machine's disk cannot be frozen: an earlier cut was broken off, and ends when the machine restarts.",
            hint="Restart it with `devbox reload`.",
        )
