"""The probe of the accelerator: its payload is the assembled source, and every kind of failure means emulation."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from devbox import fs, paths
from devbox.config.model import Arch
from devbox.errors import DevboxError
from devbox.machine import accelerator
from devbox.machine.accelerator import Accelerator, Verdict

SOURCES = Path(accelerator.__file__).parent


def fake_qemu(tmp_path: Path, script: str) -> Path:
    """A program that behaves like a QEMU: under kvm as `script` says, under tcg it comes to the payload's end."""
    qemu = tmp_path / "qemu-system-x86_64"
    qemu.write_text(f'#!/bin/sh\ncase "$*" in *"-accel tcg"*) exit 33;; esac\n{script}\n')
    qemu.chmod(0o755)
    fs.make_private_dir(paths.runtime_root())
    return qemu


@pytest.fixture
def kvm_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    device = tmp_path / "kvm"
    device.write_bytes(b"")
    monkeypatch.setattr(accelerator, "KVM_DEVICE", device)
    return device


def choose(qemu: Path, **changes: str) -> accelerator.Choice:
    host, guest = Arch(changes.pop("host", "x86_64")), Arch(changes.pop("guest", "x86_64"))
    return accelerator.choose(qemu, system=changes.pop("system", "linux"), host=host, guest=guest, **changes)


@pytest.mark.usefixtures("kvm_device")
def test_what_works_is_used(tmp_path: Path) -> None:
    found = choose(fake_qemu(tmp_path, "exit 33"))
    assert found == accelerator.Choice(Accelerator.KVM, "", 1.0)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'qemu-system-x86_64: error: failed to set MSR 0x10a to 0x69' >&2; kill -ABRT $$", "failed to set MSR"),
        ("echo 'KVM internal error. Suberror: 1' >&2; exec sleep 60", "KVM internal error"),
        ("exec sleep 60", "no end within"),
        ("exit 0", "status 0"),
    ],
)
@pytest.mark.usefixtures("kvm_device")
def test_what_fails_means_emulation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str) -> None:
    monkeypatch.setattr(accelerator, "_DEADLINE", 0.3)
    found = choose(fake_qemu(tmp_path, script))
    assert found.accelerator is Accelerator.TCG
    assert reason in found.reason
    assert found.slowdown > 1


def test_obstacles_are_named_without_a_try(tmp_path: Path, kvm_device: Path) -> None:
    qemu = fake_qemu(tmp_path, "exit 33")
    assert "always emulated" in choose(qemu, host="aarch64").reason
    assert "asked for" in choose(qemu, asked="tcg").reason
    kvm_device.unlink()
    assert "there is no" in choose(qemu).reason


def test_what_is_asked_for_is_taken_or_refused(tmp_path: Path, kvm_device: Path) -> None:
    qemu = fake_qemu(tmp_path, "exit 1")
    assert choose(qemu, asked="kvm").accelerator is Accelerator.KVM, "--accel overrides the probe"
    for changes in ({"asked": "hvf"}, {"asked": "xen"}, {"asked": "kvm", "host": "aarch64"}):
        with pytest.raises(DevboxError, match="accelerator|cannot be used") as caught:
            choose(qemu, **changes)
        assert caught.value.id == "machine.accelerator"


def test_slowdown_is_sane() -> None:
    def factor(seconds: float, *, works: bool = True) -> float:
        return accelerator.slowdown(Arch.X86_64, Verdict(works=works, reason="", seconds=seconds))

    assert factor(0.44) == 10
    assert factor(0.01) == 6, "emulation is never fast"
    assert factor(50) == 40
    assert factor(0.44, works=False) == 40


def test_payload_is_the_assembled_source_x86_64(tmp_path: Path) -> None:
    if not (shutil.which("as") and shutil.which("ld")) or os.uname().machine != "x86_64":
        pytest.skip("no assembler for x86_64")
    program, image = tmp_path / "p.o", tmp_path / "p.bin"
    subprocess.run(["as", "--64", "-o", program, SOURCES / "probe_x86_64.S"], check=True)
    link: list[str | Path] = ["ld", "-m", "elf_x86_64", "-Ttext", "0x7c00", "--oformat", "binary", "-o", image, program]
    subprocess.run(link, check=True)
    assert image.read_bytes() == accelerator.payload(Arch.X86_64)


def test_payload_is_the_assembled_source_aarch64(tmp_path: Path) -> None:
    if not shutil.which("aarch64-linux-gnu-as"):
        pytest.skip("no assembler for aarch64")
    program, image = tmp_path / "p.o", tmp_path / "p.bin"
    subprocess.run(["aarch64-linux-gnu-as", "-o", program, SOURCES / "probe_aarch64.S"], check=True)
    copy: list[str | Path] = ["aarch64-linux-gnu-objcopy", "-O", "binary", "-j", ".text", program, image]
    subprocess.run(copy, check=True)
    assert image.read_bytes() == accelerator.payload(Arch.AARCH64)


def test_a_boot_sector_is_a_boot_sector() -> None:
    sector = accelerator.payload(Arch.X86_64)
    assert len(sector) == 512
    assert sector.endswith(b"\x55\xaa")
