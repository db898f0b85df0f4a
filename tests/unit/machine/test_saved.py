"""What a saved memory needs, and why it cannot be used: said in words, and decided without QEMU."""

from dataclasses import replace
from pathlib import Path

import pytest

from devbox.disk.data import Attached
from devbox.disk.record import Record
from devbox.errors import DevboxError
from devbox.machine import dormant, lifecycle, saved, suspend
from devbox.machine.accelerator import Accelerator
from devbox.machine.lifecycle import State
from devbox.machine.saved import Saved
from tests.unit.machine.test_argv import LINUX
from tests.unit.machine.test_hardware import of
from tests.unit.machine.test_lifecycle import record

__all__ = ["record"]


@pytest.fixture
def needs(record: Record) -> Saved:
    record.dir.disk.write_bytes(b"QFI\xfb")
    vm = replace(of(record), incoming=False, ram=None)
    return Saved(vm, "7.2.3", "kvm", saved.processor(), "2026-11-24T12:00:00+0000", saved.stamp(record.dir.disk))


def test_it_is_read_as_it_was_written(record: Record, needs: Saved) -> None:
    saved.write(record.dir.memory_hardware, needs)
    assert saved.read(record.dir.memory_hardware, record) == needs
    assert saved.obstacle(needs, LINUX, record.dir.disk) == ""
    record.dir.memory_hardware.write_text("{")
    with pytest.raises(DevboxError) as broken:
        saved.read(record.dir.memory_hardware, record)
    assert broken.value.id == "machine.memory-unreadable"
    assert "--discard-memory" in broken.value.hint


def test_why_not(record: Record, needs: Saved) -> None:
    def why(**changes: object) -> str:
        return saved.obstacle(replace(needs, **changes), LINUX, record.dir.disk)  # type: ignore[arg-type]

    assert why(qemu="8.2.0") == "it was saved by QEMU 8.2.0, and this computer has 7.2.22"
    assert "another processor" in why(processor="Other 9000")
    assert "by tcg" in why(accelerator=str(Accelerator.TCG))
    assert why(stamp=()) == ""
    record.dir.disk.write_bytes(b"QFI\xfb, changed")
    assert why() == "the disk was changed since then"


def test_a_data_disk_that_moved_on_spoils_the_memory(record: Record, needs: Saved, tmp_path: Path) -> None:
    """As when the machine was destroyed, the next one worked with the disk, and the first was taken back."""
    data = Attached("data", 1 << 30, tmp_path / "data.qcow2", "uuid")
    data.path.write_bytes(b"as it was")
    vm = replace(needs.vm, disks=(data,))
    with_data = replace(needs, vm=vm, stamp=saved.stamp(record.dir.disk, vm.disks))
    saved.write(record.dir.memory_hardware, with_data)
    assert saved.read(record.dir.memory_hardware, record) == with_data
    assert saved.obstacle(with_data, LINUX, record.dir.disk) == ""
    data.path.write_bytes(b"as it is now")
    assert saved.obstacle(with_data, LINUX, record.dir.disk) == "the disk was changed since then"
    data.path.unlink()
    assert saved.obstacle(with_data, LINUX, record.dir.disk) == "the disk was changed since then"


def test_the_memory_counts_as_long_as_it_is_described(record: Record, needs: Saved) -> None:
    record.dir.memory.write_bytes(b"memory")
    assert lifecycle.observe(record).state is not State.SUSPENDED, "it was not complete"
    dormant.clear(record.dir)
    assert not record.dir.memory.exists()
    record.dir.disk.unlink()
    record.dir.memory.write_bytes(b"memory")
    saved.write(record.dir.memory_hardware, needs)
    dormant.clear(record.dir)
    assert lifecycle.observe(record).state is State.SUSPENDED
    with pytest.raises(DevboxError, match="suspended"):
        lifecycle.ensure_running(record, needs.vm, LINUX)
    with pytest.raises(DevboxError) as refused:
        suspend.wake(record, replace(LINUX, qemu_version=(9, 0, 0)))
    assert refused.value.id == "machine.memory-mismatch"
    assert lifecycle.observe(record).state is State.SUSPENDED
    assert dormant.forget(record.dir)
    assert not dormant.forget(record.dir)
    assert lifecycle.observe(record).state is State.STOPPED
    assert not record.dir.memory.exists()
