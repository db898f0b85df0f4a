"""A machine's memory into a file and out of it: it goes on where it stood, and no trouble on the way costs it."""

import os
import shutil
from dataclasses import replace

import pytest

from devbox.errors import DevboxError
from devbox.machine import lifecycle, memory, start
from devbox.machine.qmp import Qmp
from tests.guest.conftest import Machine

pytestmark = pytest.mark.guest

COUNT = "i=0; while :; do i=$((i+1)); echo $i >/tmp/new; mv /tmp/new /tmp/count; sleep 0.1; done"


def test_memory_goes_into_a_file_and_out_again(machine: Machine) -> None:
    machine.boot()
    record = machine.record
    machine.ssh(f"nohup sh -c '{COUNT}' >/dev/null 2>&1 </dev/null & sleep 0.5; cat /tmp/count")
    with Qmp(record.dir.qmp) as qmp:
        qmp.execute("stop")
        full = os.open("/dev/full", os.O_RDWR)
        with pytest.raises(DevboxError, match="disk of this computer is full"):
            memory.save(qmp, full)
        os.close(full)
        qmp.execute("cont")
        before = int(machine.ssh("cat /tmp/count"))
        qmp.execute("stop")
        memory.save(qmp, record.dir.memory)
        assert record.dir.memory.stat().st_mode & 0o777 == 0o600
        assert list(record.dir.folder.glob(".memory*")) == []
        qmp.execute("quit")
    lifecycle.halt(record)

    torn = record.dir.folder / "torn"
    shutil.copyfile(record.dir.memory, torn)
    os.truncate(torn, torn.stat().st_size // 2)
    waiting = replace(machine.vm, incoming=True)
    start.start(waiting, machine.facts)
    with Qmp(record.dir.qmp) as qmp, pytest.raises(DevboxError) as refused:
        memory.load(qmp, torn)
    assert refused.value.id == "machine.memory-load"
    lifecycle.halt(record, force=True)

    start.start(waiting, machine.facts)
    with Qmp(record.dir.qmp) as qmp:
        memory.load(qmp, record.dir.memory)
        assert lifecycle.observe(record).state is lifecycle.State.PAUSED
        qmp.execute("cont")
    assert int(machine.ssh("cat /tmp/count", wait=30)) >= before
