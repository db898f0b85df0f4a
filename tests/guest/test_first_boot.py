"""The two ways out of a first boot by a kernel given directly: into a QEMU without it, and back to the plain one."""

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from devbox.commands import first_boot as conductor
from devbox.disk import first_boot, seed
from devbox.errors import DevboxError
from devbox.guest import ready
from devbox.machine import handover, lifecycle, memory, process
from devbox.machine.argv import DirectBoot
from devbox.machine.lifecycle import State
from tests.guest.conftest import SSH_WAIT, Machine, tiny

pytestmark = pytest.mark.guest


def direct(folder: Path) -> DirectBoot:
    """The tiny guest's own kernel, with a mark on its command line."""
    esp, files = folder / "esp", [folder / name for name in ("vmlinuz", "initrd.img", "syslinux.cfg")]
    piece = f"driver=raw,offset={1 << 20},size={48 << 20},file.driver=qcow2,file.file.driver=file"
    source = f"{piece},file.file.filename={tiny().path}"
    subprocess.run(["qemu-img", "convert", "--image-opts", source, "-O", "raw", esp], check=True)
    for name in ("vmlinuz", "initrd.img", "syslinux/syslinux.cfg"):
        subprocess.run(["mcopy", "-n", "-i", esp, f"::/{name}", folder], check=True)
    (append,) = [line for line in files[2].read_text().splitlines() if "APPEND" in line]
    credential = folder / "a, credential"
    credential.write_text("io.systemd.credential:one=two")
    return DirectBoot(files[0], files[1], f"{append.split(None, 1)[1]} directly=1", credential)


def test_the_guest_goes_on_without_the_kernel_it_was_started_with(machine: Machine, tmp_path: Path) -> None:
    vm = replace(machine.vm, direct=direct(tmp_path))
    lifecycle.ensure_running(machine.record, vm, machine.facts)
    assert "directly=1" in machine.ssh("cat /proc/cmdline; echo kept >/tmp/here", wait=SSH_WAIT)
    before = machine.ssh("cat /proc/sys/kernel/random/boot_id")
    first = machine.qemu()
    assert first is not None
    assert handover.is_direct(first)

    seen = handover.by_firmware(machine.record, first, vm, machine.facts)
    assert seen.pid == machine.qemu() != first
    assert not handover.is_direct(seen.pid)
    assert lifecycle.observe(machine.record).state is State.RUNNING
    assert machine.ssh("cat /proc/sys/kernel/random/boot_id; cat /tmp/here", wait=30) == f"{before}kept\n"

    machine.ssh("sudo -n setsid sh -c '(sleep 1; /sbin/reboot) >/dev/null 2>&1 </dev/null &'")
    again = before
    while again == before:
        again = machine.ssh("cat /proc/sys/kernel/random/boot_id", wait=SSH_WAIT)
    assert "directly=1" not in machine.ssh("cat /proc/cmdline")
    assert machine.qemu() == seen.pid


def test_a_memory_that_cannot_be_taken_ends_in_a_stopped_machine(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm = replace(machine.vm, direct=direct(tmp_path))
    lifecycle.ensure_running(machine.record, vm, machine.facts)
    first = machine.qemu()
    assert first is not None

    def refuse(*_: object) -> NoReturn:
        raise DevboxError("machine.memory-load", "QEMU could not take the saved memory.")

    monkeypatch.setattr(memory, "load", refuse)
    with pytest.raises(DevboxError):
        handover.by_firmware(machine.record, first, vm, machine.facts)
    assert machine.qemu() is None
    assert lifecycle.observe(machine.record).state is State.STOPPED


def test_one_that_cannot_be_saved_runs_on(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vm = replace(machine.vm, direct=direct(tmp_path))
    lifecycle.ensure_running(machine.record, vm, machine.facts)
    first = machine.qemu()
    assert first is not None

    def refuse(*_: object) -> NoReturn:
        raise DevboxError("machine.memory-save", "The machine's memory could not be saved.")

    monkeypatch.setattr(memory, "save", refuse)
    with pytest.raises(DevboxError):
        handover.by_firmware(machine.record, first, vm, machine.facts)
    assert machine.qemu() == first
    assert lifecycle.observe(machine.record).state is State.RUNNING


def test_a_quick_first_boot_that_fails_is_a_plain_one(
    new_machine: Callable[..., Machine],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    machine = new_machine()
    record = machine.record
    record.dir.seed.unlink()
    first_boot.begin(record)
    seed.ensure(record, machine.spec)
    vm = replace(machine.vm, seed=False, direct=direct(tmp_path))
    running = lifecycle.ensure_running(record, vm, machine.facts)

    def silent(*_: object, **__: object) -> NoReturn:  # the tiny guest has no systemd to read the credential
        raise DevboxError("guest.no-ssh", "The guest's SSH server did not answer within 2 min.")

    monkeypatch.setattr(ready, "wait", silent)
    conductor.finish(running, machine.spec, vm, machine.facts)
    said = capfd.readouterr().err
    assert "boots plainly: The guest's SSH server did not answer" in said
    assert machine.ssh("hostname", wait=SSH_WAIT) == "one\n"
    qemu = machine.qemu()
    assert qemu is not None
    assert "-kernel" not in process.arguments(qemu)
    assert not first_boot.is_under_way(record)
    assert record.dir.seed.exists()
