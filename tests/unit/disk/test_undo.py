"""What comes out of the trash again, as whose, and when it may not."""

import json
import os
from pathlib import Path, PurePosixPath

import pytest

from devbox import paths
from devbox.box.store import Image
from devbox.commands import undo as verb
from devbox.config.model import Disk, Firmware
from devbox.disk import data, hint, overlay, trash, undo
from devbox.disk import record as records
from devbox.disk.record import Record
from devbox.errors import DevboxError
from tests.unit.commands.invoke import Shown, invoke
from tests.unit.disk import machines


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return machines.image(tmp_path / "store")


def make(root: Path, image: Image) -> Record:
    made = records.ensure(machines.project(root), image, Firmware.BIOS)
    overlay.ensure(made, image)
    (root / "Devboxfile").write_text("version: 1\nbox: debian-12\n")
    return made


def typed(root: Path, *words: str) -> Shown:
    return invoke("-C", os.fspath(root), *words)


def test_a_destroyed_machine_comes_back_as_it_was(tmp_path: Path, image: Image) -> None:
    root = tmp_path / "project"
    made = make(root, image)
    files = sorted(path.name for path in made.dir.folder.iterdir())
    trash.discard(made)
    image.path.unlink()  # whatever becomes of the store
    done = typed(root, "undo")
    assert done.status == 0, done.stderr
    assert "devbox up" in done.stderr
    assert records.find(root) == made
    assert hint.read(root) == made.id
    assert sorted(path.name for path in made.dir.folder.iterdir() if path.suffix != ".jsonl") == files
    assert overlay.held_image(made).sha256 == made.image
    assert typed(root, "undo").status == 1, "there is nothing more to undo"


def test_it_is_the_last_one_unless_another_is_named(tmp_path: Path, image: Image) -> None:
    root = tmp_path / "project"
    first = make(root, image)
    trash.discard(first).rename(paths.trash_dir() / f"1000-{first.id}")
    second = make(root, image)
    trash.discard(second)
    assert [one.record.id for one in undo.destroyed()] == [second.id, first.id]
    assert verb.chosen(root, "").record == second
    assert verb.chosen(root, first.id[:6]).record == first
    assert verb.chosen(root, "default").record == second
    assert typed(root, "undo", first.id).status == 0
    assert records.find(root) == first


def test_a_project_that_has_a_machine_again_keeps_it(tmp_path: Path, image: Image) -> None:
    root = tmp_path / "project"
    old = make(root, image)
    trash.discard(old)
    new = make(root, image)
    refused = typed(root, "undo")
    assert refused.status == 1
    assert f"devbox undo {old.id} --as NAME" in refused.stderr
    assert records.find(root) == new
    assert typed(root, "undo", "--as", "Old One").status == 2
    assert typed(root, "undo", "--as", "old").status == 0
    back = records.find(root, "old")
    assert back is not None
    assert (back.id, back.host_key) == (old.id, old.host_key)
    assert records.find(root) == new
    assert hint.read(root) == new.id


def test_a_project_that_moved_meanwhile_finds_it_and_a_stranger_does_not(tmp_path: Path, image: Image) -> None:
    made = make(tmp_path / "old", image)
    trash.discard(made)
    (tmp_path / "old").rename(tmp_path / "new")
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    (stranger / "Devboxfile").write_text("version: 1\nbox: debian-12\n")
    assert typed(stranger, "undo").status == 1
    assert typed(tmp_path / "new", "undo").status == 0
    found = records.find(tmp_path / "new")
    assert found is not None
    assert (found.id, found.project) == (made.id, tmp_path / "new")


def test_one_whose_folder_is_gone_is_taken_over_by_its_id_alone(tmp_path: Path, image: Image) -> None:
    made = make(tmp_path / "old", image)
    other = make(tmp_path / "other", image)
    trash.discard(made)
    trash.discard(other)
    new = tmp_path / "new"
    new.mkdir()  # while the old one is there, else it may get its inode
    (tmp_path / "old" / "Devboxfile").unlink()
    (tmp_path / "old" / ".devbox" / ".gitignore").unlink()
    (tmp_path / "old" / ".devbox").rmdir()
    (tmp_path / "old").rmdir()
    (new / "Devboxfile").write_text("version: 1\nbox: debian-12\n")
    assert typed(new, "undo", "default").status == 1
    assert typed(new, "undo", other.id).status == 1, "that one has its own folder still"
    assert typed(new, "undo", made.id).status == 0
    found = records.find(new)
    assert found is not None
    assert found.id == made.id


def test_the_list(tmp_path: Path, image: Image) -> None:
    root = tmp_path / "project"
    assert "empty" in invoke("undo", "--list").stderr
    made = make(root, image)
    trash.discard(made)
    (paths.trash_dir() / "1000-0123456789ab").mkdir()  # no machine at all
    (row,) = json.loads(invoke("undo", "--list", "--json").stdout)
    assert (row["id"], row["machine"], row["project"]) == (made.id, "default", str(root))
    assert row["kept"] > row["destroyed"]
    assert made.id in invoke("undo", "--list").stdout


def test_a_trash_that_is_emptied_under_it_is_told(tmp_path: Path, image: Image) -> None:
    root = tmp_path / "project"
    made = make(root, image)
    trash.discard(made)
    (one,) = undo.destroyed()
    trash.collect(0)
    trash.delete(one.folder)
    with pytest.raises(DevboxError) as caught:
        undo.restore(one, root, "default")
    assert caught.value.id == "undo.gone"
    assert records.find(root) is None


def test_data_disks_that_went_along_come_back_along(tmp_path: Path, image: Image) -> None:
    root = tmp_path / "project"
    made = make(root, image)
    disk = Disk("data", 64 << 20, PurePosixPath("/data"))
    (attached,) = data.ensure(made, (disk,))
    attached.path.write_bytes(attached.path.read_bytes() + b"precious")
    assert typed(root, "destroy", "--yes", "--data").status == 0
    assert data.of(root, "default") == ()
    root.rename(tmp_path / "moved")
    done = typed(tmp_path / "moved", "undo")
    assert "data disks: data" in done.stderr
    (back,) = data.of(tmp_path / "moved", "default")
    assert back.disk.read_bytes().endswith(b"precious")
    machine = records.find(tmp_path / "moved")
    assert machine is not None
    assert data.ensure(machine, (disk,)) == (attached,)


def test_another_disk_of_that_name_is_left_where_it_is(tmp_path: Path, image: Image) -> None:
    root = tmp_path / "project"
    first = make(root, image)
    disk = Disk("data", 64 << 20, PurePosixPath("/data"))
    data.ensure(first, (disk,))
    assert typed(root, "destroy", "--yes", "--data").status == 0
    second = make(root, image)
    (newer,) = data.ensure(second, (disk,))
    assert typed(root, "destroy", "--yes").status == 0
    assert typed(root, "undo", first.id).status == 0
    assert [one.disk for one in data.of(root, "default")] == [newer.path]


def test_a_mistake_in_the_configuration_is_told_before_anything_is_destroyed(tmp_path: Path, image: Image) -> None:
    root = tmp_path / "project"
    made = make(root, image)
    paths.preferences_file().parent.mkdir(parents=True, exist_ok=True)
    paths.preferences_file().write_text("gc: {trash_days: many}\n")
    assert typed(root, "destroy", "--yes").status == 2
    assert records.find(root) == made
    paths.preferences_file().write_text("gc: {trash_days: 3}\n")
    assert "for 3 days" in typed(root, "destroy", "--yes").stderr
