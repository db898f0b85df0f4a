"""Snapshots of a machine that does not run, in real qcow2 files: what is kept, put back, and swept."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from devbox.disk.record import Record
from devbox.errors import DevboxError
from devbox.machine import dormant, saved, snapshots
from tests.unit.machine.test_hardware import of
from tests.unit.machine.test_lifecycle import record

__all__ = ["record"]


def qemu_img(*words: str | Path) -> str:
    return subprocess.run(["qemu-img", *words], capture_output=True, check=True, text=True).stdout


def write(record: Record, pattern: int) -> None:
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", f"write -q -P {pattern} 0 64k", record.dir.disk], check=True)


def holds(record: Record, pattern: int) -> bool:
    words: list[str | Path] = ["qemu-io", "-f", "qcow2", "-c", f"read -P {pattern} 0 64k", record.dir.disk]
    return "verification failed" not in subprocess.run(words, capture_output=True, check=False, text=True).stdout


@pytest.fixture
def disk(record: Record) -> Path:
    qemu_img("create", "-q", "-f", "qcow2", record.dir.disk, "1G")
    write(record, 1)
    return record.dir.disk


@pytest.fixture(autouse=True)
def tools() -> None:
    assert shutil.which("qemu-io")


def names(record: Record) -> list[str]:
    return [one.name for one in snapshots.entries(record)]


def test_there_and_back(record: Record, disk: Path) -> None:
    record.dir.outcome.write_text("as it was")
    record.dir.last_run.write_text("what ran by then")
    first = snapshots.take_still(record, "first")
    write(record, 2)
    record.dir.outcome.write_text("as it is")
    record.dir.last_run.write_text("what has run since")
    record.dir.started.write_text("{}")
    qemu_img("resize", "-q", disk, "2G")
    restored = snapshots.put_back(replace(record, disk_size=2 << 30), first)
    assert restored.disk_size == 1 << 30
    assert '"virtual-size": 1073741824' in qemu_img("info", "--output=json", disk)
    assert holds(record, 1)
    assert record.dir.outcome.read_text() == "as it was"
    assert record.dir.last_run.read_text() == "what ran by then"  # by which `plan` goes while the machine is off
    assert not record.dir.started.exists()
    assert not dormant.has_memory(record.dir)


def test_a_suspended_machine_comes_back_suspended(record: Record, disk: Path) -> None:
    needs = saved.Saved(replace(of(record), incoming=False, ram=None), "7.2.22", "tcg", "", "now", saved.stamp(disk))
    record.dir.memory.write_bytes(b"memory")
    saved.write(record.dir.memory_hardware, needs)
    kept = snapshots.take_still(record, "asleep")
    again = saved.read(record.dir.memory_hardware, record)
    assert again.stamp == saved.stamp(disk), "what we did to the disk does not count"
    dormant.forget(record.dir)
    write(record, 2)
    snapshots.put_back(record, kept)
    assert holds(record, 1)
    assert record.dir.memory.read_bytes() == b"memory"
    assert saved.read(record.dir.memory_hardware, record).stamp == saved.stamp(disk)
    dormant.forget(record.dir)
    snapshots.memory_file(record, kept).unlink()
    snapshots.put_back(record, kept)
    assert not dormant.has_memory(record.dir), "the disk alone"


def test_what_no_file_names_is_swept(record: Record, disk: Path) -> None:
    qemu_img("snapshot", "-c", "devbox-0123456789abcdef", disk)
    qemu_img("snapshot", "-c", "somebody's own", disk)
    left = record.dir.snapshots / "devbox-0123456789abcdef.state"
    record.dir.snapshots.mkdir()
    left.touch()
    kept = snapshots.take_still(record, "kept")
    listed = qemu_img("snapshot", "-l", disk)
    assert "devbox-0123456789abcdef" not in listed
    assert not left.exists()
    assert "somebody's own" in listed
    replaced = snapshots.take_still(record, "kept")
    listed = qemu_img("snapshot", "-l", disk)
    assert (kept.tag in listed, replaced.tag in listed) == (False, True)
    snapshots.delete(record, replaced)
    snapshots.sweep(record)
    assert replaced.tag not in qemu_img("snapshot", "-l", disk)
    assert names(record) == []


def test_what_is_torn_is_said_before_anything_is_lost(record: Record, disk: Path) -> None:
    torn = snapshots.take_still(record, "torn")
    qemu_img("snapshot", "-d", torn.tag, disk)
    write(record, 2)
    with pytest.raises(DevboxError) as refused:
        snapshots.put_back(record, torn)
    assert refused.value.id == "snapshot.torn"
    assert holds(record, 2)
    (record.dir.snapshots / "odd.json").write_text('{"schema": 1, "tag": "../../x"}')
    assert names(record) == ["torn"]


@pytest.mark.parametrize("name", ["", "-x", ".x", "../up", "a b", "a/b", "x" * 65])
def test_names(name: str) -> None:
    snapshots.check_name("v1.2_before-upgrade")
    with pytest.raises(DevboxError, match="cannot be the name"):
        snapshots.check_name(name)
