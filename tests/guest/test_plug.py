"""Folder devices out of a running machine and in again; saved memory goes without them."""

from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from devbox.config.model import FolderType
from devbox.machine import hardware, lifecycle, memory, plug, start
from devbox.machine.qmp import Qmp
from devbox.share.folders import Mount
from tests.guest.conftest import Machine

pytestmark = pytest.mark.guest


def test_out_and_in(machine: Machine, tmp_path: Path) -> None:
    shared = tmp_path / 'sha"r, ed'
    shared.mkdir()
    (shared / "file").write_text("hello\n")
    mounts = (
        Mount("one", shared, PurePosixPath("/one"), FolderType.VIRTIOFS),
        Mount("copied", shared, PurePosixPath("/copied"), FolderType.RSYNC),
        Mount("two", shared, PurePosixPath("/two"), FolderType.NINEP, readonly=True),
    )
    machine.vm = replace(machine.vm, mounts=mounts)
    machine.boot()
    show = "sudo modprobe virtiofs && sudo mkdir -p /one && sudo mount -t virtiofs one /one && cat /one/file"
    record = machine.record
    assert machine.ssh(show) == "hello\n"
    machine.ssh("sudo umount /one")
    vm = hardware.last(record)
    with Qmp(record.dir.qmp) as qmp:
        assert plug.devices(qmp) == {"folder0-fs", "folder1-fs"}
        plug.unplug(qmp, record.dir)
        assert plug.devices(qmp) == set()
        assert plug.plug(qmp, vm, machine.facts) == 2
        assert plug.plug(qmp, vm, machine.facts) == 0
    assert machine.ssh(f"for i in 1 2 3 4 5 6 7 8 9 10; do {show} && exit; sleep 1; done; exit 1") == "hello\n"
    machine.ssh("sudo umount /one")
    with Qmp(record.dir.qmp) as qmp:
        plug.unplug(qmp, record.dir)
        qmp.execute("stop")
        memory.save(qmp, record.dir.memory)
    lifecycle.halt(record, force=True)
    start.start(replace(vm, incoming=True), machine.facts)
    with Qmp(record.dir.qmp) as qmp:
        memory.load(qmp, record.dir.memory)
        qmp.execute("cont")
        assert plug.plug(qmp, vm, machine.facts) == 2
    assert machine.ssh(f"for i in 1 2 3 4 5 6 7 8 9 10; do {show} && exit; sleep 1; done; exit 1") == "hello\n"
