"""Data disks as steps: what the machine's own keys make of them, and what they keep from being cached."""

from pathlib import Path, PurePosixPath

from devbox.config.model import Arch, Disk, MachineSpec, StepSpec
from devbox.disk.data import Attached
from devbox.provision import bind, cacheable, settings

ATTACHED = Attached("data", 1 << 30, Path("/state/data/1/disk.qcow2"), "6f1c1a52-3d1e-4c0a-9d57-0a0b0c0d0e0f")


def test_the_step_finds_the_disk_by_its_serial_and_never_by_its_name_in_the_guest(tmp_path: Path) -> None:
    spec = settings.disk_step(ATTACHED, PurePosixPath("/data"), "dev")
    assert (spec.name, spec.kind) == ("disk data", "disk")
    (step,) = bind.bind((spec,), tmp_path, "dev")
    assert (step.user, step.options.serial, step.options.sectors) == ("root", "devbox-data", "2097152")
    assert "/dev/vd" not in step.kind.probe(step.options)


def test_a_serial_fits_into_what_virtio_carries() -> None:
    assert len(Attached("a" * 13, 1, Path("/x"), "u").serial) == 20


def test_no_step_of_a_machine_with_data_disks_is_part_of_a_layer(tmp_path: Path) -> None:
    """It may write to where the disk will be mounted: that would be hidden, and its receipt say that it is done."""
    machine = MachineSpec("default", {}, Arch.X86_64)
    steps = bind.bind((StepSpec("one", "run", "echo one > /data/file"),), tmp_path, "dev")
    assert cacheable.prefix(steps, machine) == (1, "")
    with_disk = MachineSpec("default", {}, Arch.X86_64, disks=(Disk("data", 1 << 30, PurePosixPath("/data")),))
    count, why = cacheable.prefix(steps, with_disk)
    assert (count, "data disks" in why) == (0, True)
