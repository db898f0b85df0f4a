"""The UEFI pair is found by QEMU's descriptors and in every packager's places, and never a Secure Boot build."""

import json
from pathlib import Path

import pytest

from devbox.config.model import Arch
from devbox.machine import firmware
from devbox.machine.firmware import Uefi


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"firmware")
    return path


def describe(folder: Path, name: str, uefi: Uefi, *, arch: str, machine: str, features: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(
        json.dumps(
            {
                "interface-types": ["uefi"],
                "mapping": {
                    "device": "flash",
                    "executable": {"filename": str(uefi.code), "format": "raw"},
                    "nvram-template": {"filename": str(uefi.vars), "format": "raw"},
                },
                "targets": [{"architecture": arch, "machines": [machine]}],
                "features": features,
            }
        )
    )


def pair(tmp_path: Path, name: str) -> Uefi:
    return Uefi(touch(tmp_path / f"{name}_code.fd"), touch(tmp_path / f"{name}_vars.fd"))


def test_the_first_fitting_descriptor_wins(tmp_path: Path) -> None:
    folder = tmp_path / "usr/share/qemu/firmware"
    secure, other, good = (pair(tmp_path, name) for name in ("secure", "other", "good"))
    describe(folder, "10.json", secure, arch="x86_64", machine="pc-q35-*", features=["secure-boot", "requires-smm"])
    describe(folder, "20.json", other, arch="aarch64", machine="virt-*", features=[])
    describe(folder, "30.json", Uefi(tmp_path / "gone", tmp_path / "gone"), arch="x86_64", machine="*", features=[])
    describe(folder, "40.json", good, arch="x86_64", machine="pc-q35-*", features=["acpi-s3", "amd-sev"])
    (folder / "05.json").write_text("{ not JSON")
    (folder / "06.json").write_text('{"interface-types": ["uefi"]}')
    qemu = tmp_path / "usr/bin/qemu-system-x86_64"
    assert firmware.find(Arch.X86_64, qemu, root=tmp_path) == good
    assert firmware.find(Arch.AARCH64, qemu, root=tmp_path) == other


@pytest.mark.parametrize(
    ("arch", "code", "variables"),
    [
        (Arch.X86_64, "/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
        (Arch.X86_64, "/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
        (Arch.AARCH64, "/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"),
    ],
)
def test_a_distribution_without_descriptors(tmp_path: Path, arch: Arch, code: str, variables: str) -> None:
    qemu = tmp_path / "usr/bin/qemu"
    assert firmware.find(arch, qemu, root=tmp_path) is None
    touch(tmp_path / code.lstrip("/"))
    assert firmware.find(arch, qemu, root=tmp_path) is None, "half a pair is none"
    touch(tmp_path / variables.lstrip("/"))
    found = firmware.find(arch, qemu, root=tmp_path)
    assert found == Uefi(tmp_path / code.lstrip("/"), tmp_path / variables.lstrip("/"))


@pytest.mark.parametrize("prefix", ["opt/homebrew", "opt/local", "nix/store/abc-qemu-10.0"])
def test_what_qemu_brings_along_on_macos(tmp_path: Path, prefix: str) -> None:
    share = tmp_path / prefix / "share/qemu"
    code, variables = touch(share / "edk2-aarch64-code.fd"), touch(share / "edk2-arm-vars.fd")
    qemu = touch(tmp_path / prefix / "bin/qemu-system-aarch64")
    assert firmware.find(Arch.AARCH64, qemu, root=tmp_path) == Uefi(code, variables)
    link = tmp_path / "profile/bin/qemu-system-aarch64"
    link.parent.mkdir(parents=True)
    link.symlink_to(qemu)
    assert firmware.find(Arch.AARCH64, link, root=tmp_path) == Uefi(code, variables), "behind a symbolic link"


def test_the_format_goes_by_the_name() -> None:
    assert firmware.format_of(Path("/usr/share/edk2/ovmf/OVMF_CODE_4M.qcow2")) == "qcow2"
    assert firmware.format_of(Path("/usr/share/OVMF/OVMF_CODE_4M.fd")) == "raw"
