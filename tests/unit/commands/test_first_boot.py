"""Which way a new machine's first boot goes, decided without starting anything."""

from dataclasses import replace
from pathlib import Path

import pytest

from devbox.box import kernel, store
from devbox.box.store import Image
from devbox.commands import first_boot as conductor
from devbox.config.model import Boot, Firmware, MachineSpec
from devbox.disk import first_boot, identity, keys, overlay, seed
from devbox.disk import record as records
from devbox.disk.record import Record
from devbox.machine import argv
from tests.unit.disk import machines
from tests.unit.machine.test_argv import LINUX, MAC


@pytest.fixture
def made(tmp_path: Path) -> tuple[Record, Image, MachineSpec]:
    """A machine without a disk, of a box whose kernel is in the store."""
    record, image = machines.record(tmp_path)
    for part in kernel.PARTS:
        file = tmp_path / part
        file.write_text(f"root=/dev/{part}")
        store.publish_file(file, label=part, keys=[f"{part}-{image.sha256}"])
    image = replace(image, traits=replace(image.traits, entry="loader/entries/devbox.conf"))
    return record, image, machines.project(tmp_path / "project").machine


def vm(record: Record, machine: MachineSpec) -> argv.VmSpec:
    return conductor.applied(record, argv.spec(record, machine))


def test_a_new_machine_boots_directly(made: tuple[Record, Image, MachineSpec]) -> None:
    record, image, machine = made
    conductor.plan(record, machine, image, LINUX)
    overlay.ensure(record, image)
    seed.ensure(record, machine)
    started = vm(record, machine)
    assert not record.dir.seed.exists()
    assert not started.seed
    assert started.direct is not None
    known = kernel.find(image.sha256)
    assert known is not None
    assert (started.direct.kernel, started.direct.initrd) == (known.kernel, known.initrd)
    assert started.direct.cmdline.startswith("root=/dev/cmdline ip=dhcp ")
    assert "apparmor" not in started.direct.cmdline
    conductor.plan(record, machine, image, LINUX)  # after a kill
    assert vm(record, machine) == started


def test_the_devboxfile_and_other_boxes_and_computers_go_by_firmware(made: tuple[Record, Image, MachineSpec]) -> None:
    record, image, machine = made
    other = replace(image, traits=replace(image.traits, entry=""))
    for wanted, box, facts in (
        (replace(machine, boot=Boot.FIRMWARE), image, LINUX),
        (machine, other, LINUX),
        (machine, image, MAC),
    ):
        conductor.plan(record, wanted, box, facts)
        assert not first_boot.is_under_way(record)
    conductor.plan(replace(record, firmware=Firmware.UEFI), machine, image, LINUX)
    assert not first_boot.is_under_way(record)
    overlay.ensure(record, image)
    seed.ensure(record, machine)
    assert vm(record, machine).seed
    conductor.plan(record, machine, image, LINUX)  # its disk is there: too late
    assert vm(record, machine).direct is None


def test_an_image_without_a_kernel_is_said(
    made: tuple[Record, Image, MachineSpec], capfd: pytest.CaptureFixture[str]
) -> None:
    record, image, machine = made
    conductor.plan(record, machine, replace(image, sha256="0" * 64), LINUX)  # an empty disk
    assert not first_boot.is_under_way(record)
    assert "boots plainly. The image gives no kernel" in capfd.readouterr().err


def test_a_kernel_that_is_gone_leads_to_the_plain_way(
    made: tuple[Record, Image, MachineSpec], capfd: pytest.CaptureFixture[str]
) -> None:
    record, image, machine = made
    conductor.plan(record, machine, image, LINUX)
    overlay.ensure(record, image)
    known = kernel.find(image.sha256)
    assert known is not None
    known.kernel.unlink()
    conductor.plan(record, machine, image, LINUX)
    seed.ensure(record, machine)
    assert "boots plainly" in capfd.readouterr().err
    assert vm(record, machine).seed
    assert vm(record, machine).direct is None


def test_the_credential_has_the_keys_that_the_guest_is_born_with(made: tuple[Record, Image, MachineSpec]) -> None:
    record, image, machine = made
    conductor.plan(record, machine, image, LINUX)
    before = record.dir.first_boot.read_bytes()
    born = identity.begin(record)
    seed.ensure(record, machine)
    assert vm(record, machine).direct is not None
    assert record.dir.first_boot.read_bytes() != before
    expected = first_boot.text(
        host_key=born.host_key.read_text(), host_line=born.host_line, login_line=keys.make(born.login_key)
    )
    assert record.dir.first_boot.read_text() == expected
    assert not record.dir.seed.exists()


def test_a_machine_on_a_layer_boots_by_its_disk_without_a_seed(made: tuple[Record, Image, MachineSpec]) -> None:
    record, image, machine = made
    conductor.plan(record, machine, image, LINUX)
    founded = records.founded(record, "a" * 64, "")
    seed.ensure(founded, machine)
    started = vm(founded, machine)
    assert (started.direct, started.seed) == (None, False)
    assert first_boot.is_adopted(founded)
    assert not first_boot.is_under_way(founded)
    assert first_boot.profile(founded) == first_boot.FAST


def test_a_decision_about_a_disk_that_never_was_does_not_bind(made: tuple[Record, Image, MachineSpec]) -> None:
    record, image, machine = made
    first_boot.adopted(record)
    conductor.plan(record, replace(machine, boot=Boot.FIRMWARE), image, LINUX)
    assert first_boot.profile(record) == first_boot.PLAIN
