from dataclasses import replace
from pathlib import Path

import pytest

from devbox.box import catalogue
from devbox.commands import rebuild
from devbox.config import build, lock
from devbox.config.model import Arch, Digest, Firmware, Project
from devbox.disk import record as records
from tests.unit.disk import machines

TEXT = "version: 1\nbox: BOX\narch: x86_64\nuser: {name: USER}\n"


def edited(root: Path, *, box: str = "debian-12", user: str = "dev") -> Project:
    (root / "Devboxfile").write_text(TEXT.replace("BOX", box).replace("USER", user))
    return build.load(root)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project whose machine was made from debian-12."""
    root = tmp_path / "project"
    root.mkdir()
    project = edited(root)
    plain = machines.image(tmp_path / "store")
    label = catalogue.locate(project.machine.box, Arch.X86_64).traits.label
    record = records.ensure(project, replace(plain, traits=replace(plain.traits, label=label)), Firmware.BIOS)
    record.dir.disk.touch()
    return root


def test_an_unchanged_file_says_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = edited(root)
    assert rebuild.as_made(project) == project
    assert capsys.readouterr().err == ""


def test_another_account_waits_for_a_new_machine(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert rebuild.as_made(edited(root, user="ann")).machine.user.name == "dev"
    told = capsys.readouterr().err
    assert "the account ann" in told
    assert "devbox up --recreate" in told


def test_another_box_waits_too(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rebuild.as_made(edited(root, box="debian-13"))
    assert "debian-13" in capsys.readouterr().err


def test_another_architecture_waits_too(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "version: 1\narch: aarch64\nbox: {aarch64: debian-12}\n"
    (root / "Devboxfile").write_text(text)
    machine = rebuild.as_made(build.load(root)).machine
    assert machine.arch is Arch.X86_64
    assert machine.box  # there is one, although the file has none for this architecture
    assert "architecture aarch64" in capsys.readouterr().err


def test_another_firmware_needs_a_restart_only(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "Devboxfile").write_text("version: 1\nbox: debian-12\narch: x86_64\nfirmware: uefi\n")
    assert rebuild.as_made(build.load(root)).machine.firmware is Firmware.UEFI
    assert capsys.readouterr().err == ""


def test_a_firmware_that_the_box_has_not_waits(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    located = catalogue.locate(build.load(root).machine.box, Arch.X86_64)
    only_bios = replace(located, traits=replace(located.traits, firmware=(Firmware.BIOS,)))
    monkeypatch.setattr(catalogue, "resolve", lambda *_: only_bios)
    (root / "Devboxfile").write_text("version: 1\nbox: debian-12\narch: x86_64\nfirmware: uefi\n")
    assert rebuild.as_made(build.load(root)).machine.firmware is Firmware.BIOS
    assert "firmware uefi" in capsys.readouterr().err


def test_a_smaller_disk_waits(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "Devboxfile").write_text("version: 1\nbox: debian-12\narch: x86_64\ndisk: 10GiB\n")
    assert rebuild.as_made(build.load(root)).machine.disk == 20 << 30
    assert "a disk cannot shrink" in capsys.readouterr().err


def test_an_image_that_moved_is_another_one(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The lock has another digest by now than the one that the machine was made by."""
    record = records.find(root)
    assert record is not None
    pinned = Digest("sha256", "b" * 64)
    (root / "Devboxfile").write_text("version: 1\nbox: {url: https://images.example/x.qcow2}\narch: x86_64\n")
    project = build.load(root)
    lock.write(
        root,
        lock.Lock(root).with_pin("default", Arch.X86_64, lock.Pin(project.machine.box.url, "", None, pinned.value, 9)),
    )
    made = replace(record, image_label="x.qcow2", source=f"sha256:{'a' * 64}")
    (change,) = rebuild.of(project, made)
    assert (change.key, change.old, change.new) == ("box", f"x.qcow2 sha256:{'a' * 12}…", f"x.qcow2 sha256:{'b' * 12}…")
    assert rebuild.of(project, replace(made, source=str(pinned))) == ()
    assert rebuild.of(project, replace(made, source="")) == (), "a record from before it was kept tells nothing"
