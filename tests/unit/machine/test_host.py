"""Host facts: a missing or old QEMU is one clear error, and the slow part is asked once per key."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from devbox import paths
from devbox.config.model import Arch
from devbox.errors import DevboxError
from devbox.machine import host
from devbox.machine.accelerator import Accelerator


@pytest.fixture
def bin_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder of PATH; /usr/sbin and friends, which find_tool adds, hold no QEMU."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def install_qemu(folder: Path, version: str = "7.2.22", arch: str = "x86_64") -> Path:
    """Counts its boots in the file `boots` beside it."""
    qemu = folder / f"qemu-system-{arch}"
    program(
        qemu,
        f'case "$*" in --version) echo "QEMU emulator version {version} (Debian)";; '
        f'"-device help") echo \'name "virtio-9p-pci", bus PCI\';; '
        f'*) echo boot >>"{folder}/boots"; exit 33;; esac',
    )
    program(folder / "qemu-img", "exit 0")
    return qemu


def boots(folder: Path) -> int:
    return len((folder / "boots").read_text().splitlines())


def test_missing_qemu_names_the_command(bin_dir: Path) -> None:
    program(bin_dir / "apt-get", "exit 0")
    with pytest.raises(DevboxError) as caught:
        host.probe(Arch.AARCH64)
    assert caught.value.id == "qemu.missing"
    assert "sudo apt-get install qemu-system-arm" in caught.value.hint


def test_missing_qemu_on_an_unknown_system(bin_dir: Path) -> None:
    assert host.install_command(Arch.X86_64) == ""
    with pytest.raises(DevboxError) as caught:
        host.probe(Arch.X86_64)
    assert "package manager" in caught.value.hint
    assert not list(bin_dir.iterdir())


def test_old_qemu(bin_dir: Path) -> None:
    install_qemu(bin_dir, "6.2.0")
    with pytest.raises(DevboxError, match=r"version 6\.2; devbox needs 7\.0"):
        host.probe(Arch.X86_64, accel="tcg")


def test_slow_facts_are_asked_once(bin_dir: Path) -> None:
    qemu = install_qemu(bin_dir)
    first = host.probe(Arch.X86_64, accel="tcg")
    assert first.accelerator is Accelerator.TCG
    assert first.qemu == qemu
    assert first.qemu_version == (7, 2, 22)
    assert first.ninep
    assert host.probe(Arch.X86_64, accel="tcg") == first
    assert boots(bin_dir) == 1
    install_qemu(bin_dir, "10.0.2")
    assert host.probe(Arch.X86_64, accel="tcg").qemu_version == (10, 0, 2), "another QEMU is asked anew"
    assert boots(bin_dir) == 2


def test_kept_facts_that_cannot_be_read_are_asked_anew(bin_dir: Path) -> None:
    install_qemu(bin_dir)
    first = host.probe(Arch.X86_64, accel="tcg")
    (kept,) = paths.runtime_root().glob("host-*.json")
    stored = json.loads(kept.read_text())
    for text in ("{", json.dumps({**stored, "facts": {"version": [1]}}), json.dumps({**stored, "key": []})):
        kept.write_text(text)
        again = host.probe(Arch.X86_64, accel="tcg")
        assert replace(again, slowdown=first.slowdown) == first  # how slow it is, is measured each time
    assert boots(bin_dir) == 4
