import errno
import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from devbox import fs, proc
from devbox.box.store import Blob
from devbox.config.model import Firmware
from devbox.disk import chain, fork, overlay
from devbox.disk import record as records
from devbox.errors import DevboxError
from tests.unit.disk import machines

MIB = machines.MIB


def info(disk: Path) -> dict[str, Any]:
    done = proc.run([proc.find_tool("qemu-img"), "info", "--output=json", disk], timeout=60)
    assert done.status == 0, done.error_text
    told = json.loads(done.stdout)
    assert isinstance(told, dict)
    return told


@pytest.mark.parametrize("format", ["qcow2", "raw"])
def test_the_disk_stands_on_a_hard_link_of_the_image(tmp_path: Path, format: str) -> None:
    image = machines.image(tmp_path / "store", format=format)
    record = records.ensure(machines.project(tmp_path / "project"), image, Firmware.BIOS)
    made = overlay.ensure(record, image)
    told = info(made.path)
    assert (told["format"], told["virtual-size"]) == ("qcow2", 64 * MIB)
    assert (told["backing-filename"], told["backing-filename-format"]) == (image.sha256, format)
    assert made.base.samefile(image.path)
    assert made.path.stat().st_mode & 0o777 == 0o600
    image.path.unlink()
    assert info(made.path)["full-backing-filename"] == os.fspath(made.base)


def test_it_is_never_made_again(tmp_path: Path) -> None:
    record, image = machines.record(tmp_path)
    made = overlay.ensure(record, image)
    made.path.write_bytes(b"precious")
    other = machines.image(tmp_path / "other", size=16 * MIB)
    assert overlay.ensure(record, image) == overlay.ensure(record, other) == made
    assert made.path.read_bytes() == b"precious"
    left = {file.name for file in record.dir.folder.iterdir()}
    assert left == {"record.json", "host_ed25519", image.sha256, "disk.qcow2", chain.active(record.dir).name}


def test_a_machine_from_before_layers_goes_on_with_its_base(tmp_path: Path) -> None:
    record, image = machines.record(tmp_path)
    made = overlay.ensure(record, image)
    made.base.rename(record.dir.base)
    words = ["rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", record.dir.base.name]
    assert proc.run([proc.find_tool("qemu-img"), *words, made.path], timeout=60).status == 0
    assert overlay.ensure(record, image).base == record.dir.base
    assert overlay.held_image(record).path == record.dir.base
    record.dir.base.unlink()
    with pytest.raises(DevboxError, match=r"base\.img"):
        overlay.held_image(record)


def test_a_disk_on_layers_holds_all_of_them(tmp_path: Path) -> None:
    record, image = machines.record(tmp_path)
    below = image.sha256
    layers: list[Blob] = []
    for number in (1, 2):
        path = tmp_path / "store" / f"layer{number}"
        words = ["create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", below]
        assert proc.run([proc.find_tool("qemu-img"), *words, path, str(64 * MIB)], timeout=60).status == 0
        below = fs.sha256_file(path)
        layers.insert(0, Blob(below, path, path.stat().st_size, "qcow2", 64 * MIB, f"layer {number}", 1))
    made = overlay.ensure(record, image, layers)
    assert [path.name for path in chain.parents(record.dir)] == [*(one.sha256 for one in layers), image.sha256]
    assert info(made.path)["backing-filename"] == below
    assert overlay.held_image(record).path == made.base
    with layers[1].path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"X")
    later = datetime.fromisoformat(record.created).timestamp() + 3600
    os.utime(layers[1].path, (later, later))
    with pytest.raises(DevboxError) as caught:
        overlay.held_image(record)
    assert caught.value.id == "disk.base-spoilt"
    record.dir.parent(layers[1].sha256).unlink()
    with pytest.raises(DevboxError) as caught:
        overlay.ensure(record, image)
    assert caught.value.id == "disk.base-missing"
    assert layers[1].sha256 in caught.value.hint


def test_a_disk_whose_image_is_gone_is_not_touched(tmp_path: Path) -> None:
    record, image = machines.record(tmp_path)
    made = overlay.ensure(record, image)
    before = made.path.read_bytes()
    made.base.unlink()
    with pytest.raises(DevboxError) as caught:
        overlay.ensure(record, image)
    assert caught.value.id == "disk.base-missing"
    assert image.sha256 in caught.value.hint
    assert made.path.read_bytes() == before
    assert not made.base.exists()


def test_a_machine_with_a_disk_needs_no_store(tmp_path: Path) -> None:
    record, image = machines.record(tmp_path)
    with pytest.raises(DevboxError) as caught:
        overlay.held_image(record)
    assert caught.value.id == "disk.base-missing"
    made = overlay.ensure(record, image)
    image.path.unlink()
    held = overlay.held_image(record)
    assert (held.sha256, held.format, held.virtual_size) == (image.sha256, image.format, image.virtual_size)
    assert (held.traits.label, held.traits.lacks) == (image.traits.label, image.traits.lacks)
    assert held.path.samefile(made.base)
    assert overlay.ensure(record, held) == made


def test_a_base_that_was_written_to_is_hashed_again(tmp_path: Path) -> None:
    record, image = machines.record(tmp_path)
    base = overlay.ensure(record, image).base
    later = datetime.fromisoformat(record.created).timestamp() + 3600
    os.utime(base, (later, later))
    assert overlay.held_image(record).sha256 == image.sha256
    assert base.stat().st_mtime < later, "it would be hashed at every start"
    base.chmod(0o600)
    with base.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"X")
    os.utime(base, (later, later))
    with pytest.raises(DevboxError) as caught:
        overlay.held_image(record)
    assert caught.value.id == "disk.base-spoilt"


def test_a_machine_gets_no_disk_on_another_image(tmp_path: Path) -> None:
    record, _ = machines.record(tmp_path)
    with pytest.raises(DevboxError) as caught:
        overlay.ensure(record, machines.image(tmp_path / "other", size=16 * MIB))
    assert caught.value.id == "disk.other-image"
    assert not record.dir.disk.exists()


def test_an_image_that_was_pruned_meanwhile_is_told(tmp_path: Path) -> None:
    record, image = machines.record(tmp_path)
    image.path.unlink()
    with pytest.raises(DevboxError) as caught:
        overlay.ensure(record, image)
    assert caught.value.id == "disk.image-gone"


def test_across_file_systems_the_image_is_copied_holes_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = machines.image(tmp_path / "store", format="raw", size=32 * MIB)
    image.path.chmod(0o644)
    with image.path.open("r+b") as file:
        file.seek(5 * MIB)
        file.write(b"data" * 1000)
    record = records.ensure(machines.project(tmp_path / "project"), image, Firmware.BIOS)
    link = os.link

    def link_within_the_state_only(source: Path, target: Path) -> None:
        if source == image.path:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        link(source, target)

    monkeypatch.setattr(os, "link", link_within_the_state_only)
    made = overlay.ensure(record, image)
    assert made.base.read_bytes() == image.path.read_bytes()
    assert made.base.stat().st_mode & 0o777 == 0o444
    assert made.base.stat().st_blocks * 512 < 4 * MIB
    assert info(made.path)["backing-filename-format"] == "raw"


def test_a_file_system_without_hard_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record, image = machines.record(tmp_path)

    def unable(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", unable)
    made = overlay.ensure(record, image)
    assert info(made.path)["virtual-size"] == 64 * MIB
    assert {file.name for file in record.dir.folder.iterdir() if file.name.startswith(".")} == set()


def test_what_a_crash_left_half_made_is_removed(tmp_path: Path) -> None:
    record, image = machines.record(tmp_path)
    (record.dir.folder / ".disk.qcow2.deadbeef").write_bytes(b"half")
    overlay.ensure(record, image)
    assert not (record.dir.folder / ".disk.qcow2.deadbeef").exists()


def test_the_disk_can_grow_but_not_shrink(tmp_path: Path) -> None:
    record, image = machines.record(tmp_path)
    made = overlay.ensure(record, image)
    grown = overlay.grow(record, 128 * MIB)
    assert info(made.path)["virtual-size"] == grown.disk_size == 128 * MIB
    assert records.find(record.project) == grown
    assert overlay.grow(grown, 128 * MIB) == grown
    with pytest.raises(DevboxError) as caught:
        overlay.grow(grown, 64 * MIB)
    assert caught.value.id == "disk.shrink"
    assert info(made.path)["virtual-size"] == 128 * MIB


def test_a_disk_that_cannot_grow_keeps_its_record(tmp_path: Path) -> None:
    record, image = machines.record(tmp_path)
    overlay.ensure(record, image).path.write_bytes(b"no qcow2")
    with pytest.raises(DevboxError) as caught:
        overlay.grow(record, 128 * MIB)
    assert caught.value.id == "disk.grow-failed"
    assert records.find(record.project) == record


@pytest.mark.parametrize("spoilt", ["top", "between"])
def test_a_chain_that_cannot_be_read_costs_none_of_its_files(tmp_path: Path, spoilt: str) -> None:
    record, image = machines.record(tmp_path)
    overlay.ensure(record, image)
    below = fork.freeze(record)
    lowest, below = below, fork.freeze(record)
    left = chain.new_name(record.dir)
    left.touch()
    (chain.active(record.dir) if spoilt == "top" else below).write_bytes(b"")
    chain.sweep(record.dir)
    assert all(path.exists() for path in (lowest, below, left))
