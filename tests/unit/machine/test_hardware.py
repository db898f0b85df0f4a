"""The machine of the last start comes back as it was, whatever its fields are; its disks are read off the arguments."""

from dataclasses import replace
from pathlib import Path

import pytest

from devbox.disk.record import Record
from devbox.errors import DevboxError
from devbox.machine import argv, hardware
from devbox.machine.ram import Ram
from tests.unit.machine.test_argv import LINUX, SHARES, machine
from tests.unit.machine.test_lifecycle import record

__all__ = ["record"]


def of(record: Record) -> argv.VmSpec:
    own = {"dir": record.dir, "name": record.name, "uuid": record.uuid, "mac": record.mac}
    return machine(**SHARES, **own, machine_type="pc-q35-7.2", incoming=True, ram=Ram(Path("/ram"), shared=True))


def test_it_comes_back(record: Record) -> None:
    vm = of(record)
    hardware.remember(vm, argv.build(vm, LINUX))
    assert hardware.last(record) == replace(vm, incoming=False, ram=None)
    assert record.dir.hardware.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"machine": {"cpus": "two"}}', '{"machine": {"mounts": [{}]}}'])
def test_what_is_not_known_is_said(record: Record, text: str) -> None:
    with pytest.raises(DevboxError, match="an older devbox did it"):
        hardware.last(record)
    record.dir.hardware.write_text(text)
    with pytest.raises(DevboxError, match="an older devbox did it"):
        hardware.last(record)
    assert hardware.disks(record) == {"vda": record.dir.disk}


def test_the_disks_that_it_writes_to(record: Record) -> None:
    command = [
        *argv.build(of(record), LINUX),
        *("-blockdev", '{"driver": "qcow2", "node-name": "data0", "file": {"driver": "file", "filename": "/data"}}'),
        *("-device", '{"driver": "virtio-blk-pci", "id": "vd-pg", "drive": "data0"}'),
    ]
    assert hardware.writable(command) == {"vda": record.dir.disk, "vd-pg": Path("/data")}, "not the seed"
    hardware.remember(of(record), command)
    assert hardware.disks(record) == {"vda": record.dir.disk, "vd-pg": Path("/data")}
