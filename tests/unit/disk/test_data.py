"""Data disks: they outlive machines, follow a moved project, are never shared by a copy, and are found or made once."""

import json
import shutil
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from devbox import paths, proc
from devbox.box import qcow2
from devbox.config.model import Disk, Firmware
from devbox.disk import data, trash
from devbox.disk import record as records
from devbox.disk.record import Record
from devbox.errors import DevboxError, ExitCode
from devbox.machine import lifecycle
from tests.unit.disk import machines

MIB = 1 << 20
DISK = Disk("data", 64 * MIB, PurePosixPath("/data"))


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return machines.record(tmp_path)[0]


def again(record: Record, tmp_path: Path) -> Record:
    """The next machine of the same project."""
    lifecycle.destroy(record)
    project = machines.project(record.project)
    return records.ensure(project, machines.image(tmp_path / "again"), Firmware.BIOS)


def test_it_is_made_once_and_found_again(record: Record) -> None:
    (made,) = data.ensure(record, (DISK,))
    assert qcow2.inspect(made.path, "qcow2", name="data").virtual_size == 64 * MIB
    assert (made.serial, made.path.stat().st_mode & 0o777) == ("devbox-data", 0o600)
    assert made.path.is_relative_to(paths.data_dir())
    assert data.ensure(record, (DISK,)) == (made,)
    assert data.ensure(record, ()) == ()
    assert [one.name for one in data.of(record.project, "default")] == ["data"]


def test_it_is_blank_until_something_is_written(record: Record) -> None:
    (made,) = data.ensure(record, (DISK,))
    assert made.blank
    assert data.ensure(record, (replace(DISK, size=96 * MIB),))[0].blank, "grown, and still nothing on it"
    words = ["-f", "qcow2", "-c", "write -P 7 90M 4k", str(made.path)]
    assert proc.run([proc.find_tool("qemu-io"), *words], timeout=60).status == 0
    assert not data.ensure(record, (replace(DISK, size=96 * MIB),))[0].blank


def test_a_half_made_one_is_swept_and_never_found(record: Record) -> None:
    left = paths.data_dir() / ".new-0123456789ab"
    left.mkdir(parents=True)
    (left / "disk.qcow2").touch()
    assert data.of(record.project, "default") == ()
    (made,) = data.ensure(record, (DISK,))
    assert not left.exists()
    assert made.path.exists()


def test_it_outlives_its_machine(record: Record, tmp_path: Path) -> None:
    (made,) = data.ensure(record, (DISK,))
    other = again(record, tmp_path)
    assert other.id != record.id
    assert data.ensure(other, (DISK,)) == (made,)


def test_another_machine_of_the_project_has_its_own(record: Record) -> None:
    (made,) = data.ensure(record, (DISK,))
    (other,) = data.ensure(replace(record, id="f" * 12, machine="verify"), (DISK,))
    assert other.path != made.path
    assert [one.attached for one in data.of(record.project, "verify")] == ["f" * 12]


def test_never_two_machines_at_one_disk(record: Record) -> None:
    data.ensure(record, (DISK,))
    with pytest.raises(DevboxError) as caught:
        data.ensure(replace(record, id="f" * 12), (DISK,))
    assert caught.value.id == "disk.data-in-use"
    assert record.id in caught.value.message


def test_it_follows_a_moved_project_and_not_a_copied_one(record: Record, tmp_path: Path) -> None:
    (made,) = data.ensure(record, (DISK,))
    copy = tmp_path / "copy"
    shutil.copytree(record.project, copy)
    assert data.of(copy, "default") == ()
    moved = tmp_path / "moved"
    record.project.rename(moved)
    assert [one.disk for one in data.of(moved, "default")] == [made.path]
    assert data.of(copy, "default") == ()
    there = records.find(moved)
    assert there is not None
    assert data.ensure(there, (DISK,)) == (made,)
    assert [one.project for one in data.of(moved, "default")] == [moved]


def test_it_grows_and_does_not_shrink(record: Record) -> None:
    data.ensure(record, (DISK,))
    (grown,) = data.ensure(record, (replace(DISK, size=96 * MIB),))
    assert grown.size == qcow2.inspect(grown.path, "qcow2", name="data").virtual_size == 96 * MIB
    with pytest.raises(DevboxError, match=r"has 96.0 MiB and cannot shrink to 64.0 MiB") as caught:
        data.ensure(record, (Disk("new", 64 * MIB, PurePosixPath("/new")), DISK))
    assert (caught.value.id, caught.value.exit_code) == ("disk.shrink", ExitCode.USAGE)
    assert [one.name for one in data.of(record.project, "default")] == ["data"], (
        "nothing was made before that was found"
    )


def test_a_growth_that_was_cut_off_before_its_record_goes_on(record: Record) -> None:
    """qemu-img has resized the file, and the record was not written any more."""
    data.ensure(record, (DISK,))
    data.ensure(record, (replace(DISK, size=96 * MIB),))
    (one,) = data.of(record.project, "default")
    edit(one.folder, size=64 * MIB)
    (grown,) = data.ensure(record, (replace(DISK, size=96 * MIB),))
    assert grown.size == qcow2.inspect(grown.path, "qcow2", name="data").virtual_size == 96 * MIB


def edit(folder: Path, **changes: Any) -> None:
    file = folder / "data.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_one_whose_file_is_gone_is_not_made_anew(record: Record) -> None:
    (made,) = data.ensure(record, (DISK,))
    made.path.unlink()
    with pytest.raises(DevboxError) as caught:
        data.ensure(record, (DISK,))
    assert caught.value.id == "disk.data-missing"


def test_a_damaged_record_is_told_before_another_disk_is_made(
    record: Record, capsys: pytest.CaptureFixture[str]
) -> None:
    (made,) = data.ensure(record, (DISK,))
    edit(made.path.parent, size="large")
    data.ensure(record, (DISK,))
    assert str(made.path.parent) in capsys.readouterr().err
    assert made.path.exists()


def test_discarded_it_lies_in_the_trash_until_that_is_collected(record: Record) -> None:
    data.ensure(record, (DISK,))
    (aside,) = data.discard(record.project, "default")
    assert (aside / "disk.qcow2").exists()
    assert data.of(record.project, "default") == ()
    trash.collect(days=-1)
    assert not aside.exists()
    data.ensure(record, (DISK,))
    (gone,) = data.discard(record.project, "default", for_good=True)
    assert not gone.exists()
