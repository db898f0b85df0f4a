import json
import os
import shutil
import threading
from dataclasses import MISSING, fields, replace
from pathlib import Path

import pytest

from devbox import paths
from devbox.box.store import Image
from devbox.config.model import Arch, Firmware
from devbox.disk import hint, trash, unmade
from devbox.disk import record as records
from devbox.disk.record import Damaged, Record
from devbox.errors import DevboxError
from tests.unit.disk import machines

STRANGE = "a b,c \"d\" 'e' $HOME %h ünïcödé 🦆"


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return machines.image(tmp_path / "store")


def make(root: Path, image: Image) -> Record:
    return records.ensure(machines.project(root), image, Firmware.BIOS)


@pytest.mark.parametrize("name", ["plain", STRANGE, "two\nlines", os.fsdecode(b"latin-\xe9")])
def test_a_machine_is_found_again_with_everything_it_was_made_with(tmp_path: Path, image: Image, name: str) -> None:
    root = tmp_path / name
    made = make(root, image)
    assert records.find(root) == made == make(root, image)
    assert records.all_records() == (made,)
    assert made.project == root
    assert (made.image, made.image_format, made.lacks) == (image.sha256, "qcow2", ("9p", "virtiofs"))
    assert made.firmware is Firmware.BIOS
    assert made.arch is Arch.X86_64
    assert made.host_key.startswith("ssh-ed25519 AAAA")
    assert made.mac.startswith("52:54:00:")
    assert (root / ".devbox" / "id").read_text() == f"{made.id}\n"
    assert (root / ".devbox" / ".gitignore").read_text() == "*\n"


def test_its_files_are_for_this_user_only(tmp_path: Path, image: Image) -> None:
    made = make(tmp_path / "project", image)
    modes = {file.name: file.stat().st_mode & 0o777 for file in made.dir.folder.iterdir()}
    assert modes == {"record.json": 0o600, "host_ed25519": 0o600}
    assert made.dir.folder.stat().st_mode & 0o777 == 0o700


def test_two_projects_have_two_machines(tmp_path: Path, image: Image) -> None:
    one, two = make(tmp_path / "one", image), make(tmp_path / "two", image)
    assert len({one.id, two.id}) == len({one.uuid, two.uuid}) == len({one.mac, two.mac}) == 2
    assert len({one.host_key, two.host_key}) == 2
    assert (records.find(tmp_path / "one"), records.find(tmp_path / "two")) == (one, two)


def test_a_project_without_a_machine_has_none(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    assert records.find(tmp_path / "project") is None
    assert records.all_records() == ()


def test_many_at_once_make_one(tmp_path: Path, image: Image) -> None:
    found: list[Record] = []
    threads = [threading.Thread(target=lambda: found.append(make(tmp_path / "project", image))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len({one.id for one in found}) == len(records.all_records()) == 1


def test_a_moved_project_keeps_its_machine(tmp_path: Path, image: Image, capsys: pytest.CaptureFixture[str]) -> None:
    made = make(tmp_path / "old", image)
    (tmp_path / "old").rename(tmp_path / "new")
    found = records.find(tmp_path / "new")
    assert found is not None
    assert (found.id, found.project) == (made.id, tmp_path / "new")
    assert str(tmp_path / "old") in capsys.readouterr().err
    assert records.all_records() == (found,)
    assert records.find(tmp_path / "new") == found
    assert capsys.readouterr().err == ""


def test_git_clean_loses_no_machine(tmp_path: Path, image: Image) -> None:
    made = make(tmp_path / "project", image)
    shutil.rmtree(tmp_path / "project" / ".devbox")
    assert records.find(tmp_path / "project") == made
    (tmp_path / "project").rename(tmp_path / "moved")
    found = records.find(tmp_path / "moved")
    assert found is not None
    assert found.id == made.id


def test_a_project_moved_to_another_file_system_keeps_its_machine(tmp_path: Path, image: Image) -> None:
    made = make(tmp_path / "old", image)
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    shutil.rmtree(tmp_path / "old")
    found = records.find(tmp_path / "new")
    assert found is not None
    assert (found.id, found.project) == (made.id, tmp_path / "new")


def test_a_copied_project_is_told_its_choices(tmp_path: Path, image: Image) -> None:
    made = make(tmp_path / "project", image)
    copy = tmp_path / "the copy"
    shutil.copytree(tmp_path / "project", copy)
    with pytest.raises(DevboxError) as caught:
        make(copy, image)
    assert caught.value.id == "record.copied"
    assert f"rm '{copy}/.devbox/id'" in caught.value.hint
    assert records.find(tmp_path / "project") == made
    (copy / ".devbox" / "id").unlink()
    assert make(copy, image).id != made.id
    assert records.find(tmp_path / "project") == made


def test_a_project_cloned_anew_at_the_same_path_keeps_its_machine(tmp_path: Path, image: Image) -> None:
    root = tmp_path / "project"
    made = make(root, image)
    root.rename(tmp_path / "aside")
    shutil.rmtree(tmp_path / "aside")
    (tmp_path / "filler").mkdir()
    root.mkdir()
    again = make(root, image)
    assert again.id == made.id
    assert again.inode == root.stat().st_ino


def test_a_committed_id_of_somebody_else_is_ignored(tmp_path: Path, image: Image) -> None:
    root = tmp_path / "project"
    (root / ".devbox").mkdir(parents=True)
    (root / ".devbox" / "id").write_text("0123456789ab\n")
    assert records.find(root) is None
    made = make(root, image)
    assert made.id != "0123456789ab"
    assert (root / ".devbox" / "id").read_text() == f"{made.id}\n"


@pytest.mark.parametrize("text", ["../../../etc", "", "0123456789ab/../x", "ZZZZZZZZZZZZ", "\0" * 12, "0" * 5000])
def test_a_hint_that_is_no_id_is_ignored(tmp_path: Path, text: str) -> None:
    (tmp_path / ".devbox").mkdir()
    (tmp_path / ".devbox" / "id").write_text(text)
    assert hint.read(tmp_path) == ""
    assert records.find(tmp_path) is None


def test_nothing_is_written_through_a_link_out_of_the_project(tmp_path: Path, image: Image) -> None:
    root, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    root.mkdir()
    elsewhere.mkdir()
    (root / ".devbox").symlink_to(elsewhere)
    made = make(root, image)
    assert list(elsewhere.iterdir()) == []
    assert records.find(root) == made


def test_a_pipe_in_place_of_the_hint_does_not_hang(tmp_path: Path) -> None:
    (tmp_path / ".devbox").mkdir()
    os.mkfifo(tmp_path / ".devbox" / "id")
    assert hint.read(tmp_path) == ""


def test_an_inode_that_a_new_folder_got_again_is_no_claim(
    tmp_path: Path, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(tmp_path / "old", image)
    (tmp_path / "old").rename(tmp_path / "new")
    shutil.rmtree(tmp_path / "new" / ".devbox")
    monkeypatch.setattr(hint, "_born", lambda folder: 4e9)
    assert records.find(tmp_path / "new") is None
    monkeypatch.setattr(hint, "_born", lambda folder: None)
    found = records.find(tmp_path / "new")
    assert found is not None
    assert found.id == made.id


def test_the_age_of_a_folder_is_told_from_the_record_s(tmp_path: Path) -> None:
    assert not hint.older(tmp_path, "2001-01-01T00:00:00+00:00")
    assert hint.older(tmp_path, "2199-01-01T00:00:00+00:00")


def test_a_project_seen_by_a_link_is_the_same(tmp_path: Path, image: Image) -> None:
    made = make(tmp_path / "project", image)
    (tmp_path / "link").symlink_to(tmp_path / "project")
    assert records.find(tmp_path / "link") == made
    assert records.all_records() == (made,)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: text.replace('"schema": 1', '"schema": 2'),
        lambda text: text.replace('"uid": 1000', '"uid": "1000"'),
        lambda text: text.replace('"uid": 1000', '"uid": true'),
        lambda text: text.replace('"arch": "x86_64"', '"arch": "vax"'),
        lambda text: text.replace('"project": "/', '"project": "'),
        lambda text: text.replace('"mac"', '"cam"'),
        lambda text: "[" * 100_000,
        lambda text: json.dumps({**json.loads(text), "id": "0123456789ab"}),
    ],
)
def test_an_unreadable_record_is_shown_and_its_disk_kept(tmp_path: Path, image: Image, spoil: object) -> None:
    root = tmp_path / "project"
    made = make(root, image)
    made.dir.disk.write_bytes(b"precious")
    assert callable(spoil)
    before = made.dir.record.read_text()
    spoiled = spoil(before)
    assert spoiled != before
    made.dir.record.write_text(spoiled)
    (damaged,) = records.all_records()
    assert isinstance(damaged, Damaged)
    assert (damaged.id, damaged.folder) == (made.id, made.dir.folder)
    with pytest.raises(DevboxError) as caught:
        make(root, image)
    assert caught.value.id == "record.damaged"
    assert made.dir.disk.read_bytes() == b"precious"
    made.dir.record.write_text(before)
    assert records.find(root) == made


def test_a_damaged_machine_is_named_before_another_one_is_made(
    tmp_path: Path, image: Image, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "project"
    made = make(root, image)
    made.dir.record.unlink()
    made.dir.disk.write_bytes(b"precious")
    shutil.rmtree(root / ".devbox")
    assert make(root, image).id != made.id
    assert made.id in capsys.readouterr().err
    assert made.dir.disk.read_bytes() == b"precious"


def test_what_a_crash_left_before_the_record_confuses_nobody(tmp_path: Path, image: Image) -> None:
    half = paths.machines_dir() / ".new-0123456789ab"
    half.mkdir(parents=True)
    (half / "host_ed25519").write_text("half a key")
    stray = paths.machines_dir() / "ba9876543210"
    stray.mkdir()
    (stray / "lock").touch()
    (tmp_path / "project").mkdir()
    assert records.find(tmp_path / "project") is None
    made = make(tmp_path / "project", image)
    assert records.all_records() == (made,)
    assert not half.exists()


def test_a_disk_smaller_than_the_image_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    project = machines.project(tmp_path / "project", disk=3 << 30)
    with pytest.raises(DevboxError) as caught:
        records.ensure(project, machines.image(tmp_path / "store", size=(3 << 30) + 512), Firmware.BIOS)
    assert caught.value.id == "disk.too-small"
    assert "`disk: 4GiB`" in caught.value.hint
    assert records.all_records() == ()


def test_destroy_is_one_rename_and_the_trash_is_collected_when_old(tmp_path: Path, image: Image) -> None:
    root = tmp_path / "project"
    made = make(root, image)
    other = make(tmp_path / "other", image)
    made.dir.disk.write_bytes(b"disk")
    gone = trash.discard(made)
    assert (gone / "disk.qcow2").read_bytes() == b"disk"
    assert records.all_records() == (other,)
    assert not (root / ".devbox" / "id").exists()
    trash.collect(7)
    assert gone.exists()
    old = gone.rename(gone.parent / f"1000-{made.id}")
    (paths.trash_dir() / "of somebody else").mkdir()
    trash.collect(7)
    assert not old.exists()
    assert (paths.trash_dir() / "of somebody else").exists()
    assert make(root, image).id != made.id


def test_a_lock_on_a_machine_that_is_gone_says_so_and_makes_no_folder(tmp_path: Path, image: Image) -> None:
    made = make(tmp_path / "project", image)
    with records.locked(made):
        with pytest.raises(DevboxError) as caught, records.locked(made, wait=0):
            pass
        assert caught.value.id == "lock.busy"
        trash.discard(made)
    with pytest.raises(DevboxError) as caught, records.locked(made):
        pass
    assert caught.value.id == "machine.gone"
    assert not made.dir.folder.exists()


def test_a_full_disk_does_not_hide_a_moved_machine(
    tmp_path: Path, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(tmp_path / "old", image)
    (tmp_path / "old").rename(tmp_path / "new")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("devbox.fs.write_atomic", full)
    found = records.find(tmp_path / "new")
    assert found is not None
    assert found.id == made.id


def test_a_record_from_before_a_field_was_kept_is_whole(tmp_path: Path) -> None:
    made, _ = machines.record(tmp_path)
    raw = json.loads(made.dir.record.read_text())
    for field in fields(made):
        if field.default is not MISSING and field.name != "schema":
            del raw[field.name]
    made.dir.record.write_text(json.dumps(raw))
    (read,) = records.all_records()
    assert isinstance(read, Record)
    assert (read.id, read.layer, read.groups) == (made.id, "", ())


def test_a_record_that_never_got_a_disk_binds_nobody(tmp_path: Path, image: Image) -> None:
    """A first `up` that was killed early, and a Devboxfile or a box that has changed since."""
    root = tmp_path / "project"
    made = make(root, image)
    spec = machines.project(root).machine
    assert not unmade.forget_outdated(made, spec, image, Firmware.BIOS), "it is what is asked for"
    larger = replace(spec, disk=spec.disk * 2)
    made.dir.disk.touch()
    assert not unmade.forget_outdated(made, larger, image, Firmware.BIOS), "it has a disk"
    made.dir.disk.unlink()
    assert unmade.forget_outdated(made, larger, image, Firmware.BIOS)
    assert records.find(root) is None
    again = make(root, image)
    assert unmade.forget_outdated(again, spec, replace(image, sha256="0" * 64), Firmware.BIOS)
