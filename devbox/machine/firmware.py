"""Finds the UEFI firmware for a guest: the code (read-only) and the template of its variables.

Asks QEMU's own firmware descriptors first (docs/interop/firmware.json in QEMU), then the places where distributions,
Homebrew, MacPorts and nix put the files. Only reads; picks no Secure Boot build, whose keys would refuse a kernel.
"""

import fnmatch
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devbox.config.model import Arch

_DESCRIPTORS = ("/etc/qemu/firmware", "/usr/share/qemu/firmware")
_UNWANTED = {"secure-boot", "enrolled-keys", "requires-smm", "amd-sev-es", "amd-sev-snp", "intel-tdx"}
_PROBED_MACHINE = {Arch.X86_64: "pc-q35-7.2", Arch.AARCH64: "virt-7.2"}
_PLACES: dict[Arch, tuple[tuple[str, str], ...]] = {
    Arch.X86_64: (
        ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),  # Debian, Ubuntu
        ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),  # Fedora, RHEL
        ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),  # Arch
        ("/usr/share/qemu/ovmf-x86_64-code.bin", "/usr/share/qemu/ovmf-x86_64-vars.bin"),  # openSUSE
        ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),  # Alpine, older Debian
    ),
    Arch.AARCH64: (
        ("/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"),
        ("/usr/share/edk2/aarch64/QEMU_EFI-pflash.raw", "/usr/share/edk2/aarch64/vars-template-pflash.raw"),
        ("/usr/share/edk2/aarch64/QEMU_CODE.fd", "/usr/share/edk2/aarch64/QEMU_VARS.fd"),
        ("/usr/share/qemu/aavmf-aarch64-code.bin", "/usr/share/qemu/aavmf-aarch64-vars.bin"),
    ),
}
# What QEMU's own build installs below its prefix: Homebrew, MacPorts, nix and builds from source.
_BUNDLED = {
    Arch.X86_64: ("edk2-x86_64-code.fd", "edk2-i386-vars.fd"),
    Arch.AARCH64: ("edk2-aarch64-code.fd", "edk2-arm-vars.fd"),
}


@dataclass(frozen=True, slots=True)
class Uefi:
    code: Path
    vars: Path


def find(arch: Arch, qemu: Path, *, root: Path = Path("/")) -> Uefi | None:
    """The pair for guests of `arch`. `root` stands for the file system's root, for tests."""
    shares = [prefix / "share/qemu" for prefix in _prefixes(qemu)]
    for folder in (*(root / place.lstrip("/") for place in _DESCRIPTORS), *(share / "firmware" for share in shares)):
        for descriptor in sorted(folder.glob("*.json")):
            if found := _described(descriptor, arch):
                return found
    pairs = [Uefi(root / code.lstrip("/"), root / vars.lstrip("/")) for code, vars in _PLACES[arch]]
    bundled_code, bundled_vars = _BUNDLED[arch]
    pairs += [Uefi(share / bundled_code, share / bundled_vars) for share in shares]
    return next((pair for pair in pairs if pair.code.is_file() and pair.vars.is_file()), None)


def format_of(path: Path) -> str:
    """QEMU's name for the image format: Fedora ships its firmware as qcow2."""
    return "qcow2" if path.suffix == ".qcow2" else "raw"


def _prefixes(qemu: Path) -> list[Path]:
    """`/opt/homebrew` for /opt/homebrew/bin/qemu…, and the same behind a symbolic link (the Cellar, nix's store)."""
    return list(dict.fromkeys((qemu.parent.parent, qemu.resolve().parent.parent)))


def _described(descriptor: Path, arch: Arch) -> Uefi | None:
    try:
        text: Any = json.loads(descriptor.read_text())
        if "uefi" not in text["interface-types"] or text["mapping"]["device"] != "flash":
            return None
        if _UNWANTED & set(text["features"]) or text["mapping"].get("mode", "split") != "split":
            return None
        if not any(_fits(target, arch) for target in text["targets"]):
            return None
        found = Uefi(
            Path(text["mapping"]["executable"]["filename"]), Path(text["mapping"]["nvram-template"]["filename"])
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # Somebody else's file, in a shape that we do not know: the next one may do.
    return found if found.code.is_file() and found.vars.is_file() else None


def _fits(target: Any, arch: Arch) -> bool:
    return target["architecture"] == arch and any(
        fnmatch.fnmatchcase(_PROBED_MACHINE[arch], pattern) for pattern in target["machines"]
    )
