"""Probes this computer once: which QEMU, which accelerator really works, which firmware and helpers → `HostFacts`.

Looks only; nothing is decided here but the accelerator. What is slow to find out (a boot of the probe) is kept in the
runtime folder under a key of everything it depends on, so that a reboot or a new QEMU asks again.
"""

import json
import os
import platform
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from devbox import fs, paths, proc
from devbox.config.model import Arch
from devbox.errors import DevboxError
from devbox.machine import accelerator, firmware
from devbox.machine.accelerator import Accelerator, Choice

MINIMUM_QEMU = (7, 0, 0)  # JSON for -device and -netdev, and the CPU property lpa2
_VIRTIOFSD = (
    "/usr/libexec/virtiofsd",  # Debian 13, Fedora, RHEL
    "/usr/lib/virtiofsd",  # Arch
    "/usr/libexec/virtiofsd/virtiofsd",  # openSUSE
    "/usr/lib/qemu/virtiofsd",  # Debian 12: the C one, for root only
)
_INSTALL = {  # per package manager, for guests of x86_64 and of aarch64
    "apt-get": (
        "sudo apt-get install qemu-system-x86 qemu-utils ovmf",
        "sudo apt-get install qemu-system-arm qemu-utils qemu-efi-aarch64",
    ),
    "dnf": (
        "sudo dnf install qemu-system-x86-core qemu-img edk2-ovmf",
        "sudo dnf install qemu-system-aarch64-core qemu-img edk2-aarch64",
    ),
    "pacman": (
        "sudo pacman -S qemu-system-x86 qemu-img edk2-ovmf",
        "sudo pacman -S qemu-system-aarch64 qemu-img edk2-aarch64",
    ),
    "zypper": (
        "sudo zypper install qemu-x86 qemu-img qemu-ovmf-x86_64",
        "sudo zypper install qemu-arm qemu-img qemu-uefi-aarch64",
    ),
    "apk": (
        "sudo apk add qemu-system-x86_64 qemu-img ovmf",
        "sudo apk add qemu-system-aarch64 qemu-img aavmf",
    ),
    "brew": ("brew install qemu", "brew install qemu"),
    "port": ("sudo port install qemu", "sudo port install qemu"),
}


@dataclass(frozen=True, slots=True)
class HostFacts:
    system: str  # "linux" or "darwin"
    arch: Arch
    cpus: int
    memory: int  # bytes
    uid: int
    qemu: Path
    qemu_version: tuple[int, int, int]
    qemu_img: Path
    guest_arch: Arch
    accelerator: Accelerator
    accelerator_reason: str  # why the machine is emulated; empty where it is not
    firmware_code: Path | None  # the UEFI pair for `guest_arch`
    firmware_vars: Path | None
    slowdown: float  # what deadlines are multiplied by: 1 with an accelerator
    virtiofsd: Path | None
    virtiofsd_unprivileged: bool
    ninep: bool


@dataclass(frozen=True, slots=True)
class _Slow:
    """What takes time to find out, and is therefore kept."""

    version: tuple[int, int, int]
    ninep: bool
    virtiofsd_unprivileged: bool
    accelerator: Accelerator
    reason: str
    slowdown: float


def native_arch() -> Arch:
    """This computer's architecture. Raises `host.arch` where devbox knows no machine for it."""
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine())
    try:
        return Arch(machine)
    except ValueError as unknown:
        raise DevboxError("host.arch", f"devbox does not run on {machine} computers.") from unknown


def probe(guest_arch: Arch, *, accel: str = "auto") -> HostFacts:
    """The facts for guests of `guest_arch`. Raises `qemu.missing` and `qemu.too-old`.

    `accel` overrides the probe of the accelerator: `auto`, `kvm`, `hvf` or `tcg`.
    """
    system = "darwin" if sys.platform == "darwin" else "linux"
    qemu = _tool(f"qemu-system-{guest_arch}", guest_arch)
    qemu_img = _tool("qemu-img", guest_arch)
    virtiofsd = _virtiofsd() if system == "linux" else None
    slow = _slow_facts(qemu, virtiofsd, guest_arch, accel)
    if slow.version < MINIMUM_QEMU:
        wanted, have = (".".join(map(str, version[:2])) for version in (MINIMUM_QEMU, slow.version))
        raise DevboxError("qemu.too-old", f"{qemu} is version {have}; devbox needs {wanted} or newer.")
    uefi = firmware.find(guest_arch, qemu)
    return HostFacts(
        system=system,
        arch=native_arch(),
        cpus=os.cpu_count() or 1,
        memory=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        uid=os.getuid(),
        qemu=qemu,
        qemu_version=slow.version,
        qemu_img=qemu_img,
        guest_arch=guest_arch,
        accelerator=slow.accelerator,
        accelerator_reason=slow.reason,
        firmware_code=uefi.code if uefi else None,
        firmware_vars=uefi.vars if uefi else None,
        slowdown=slow.slowdown,
        virtiofsd=virtiofsd,
        virtiofsd_unprivileged=slow.virtiofsd_unprivileged,
        ninep=slow.ninep,
    )


def install_command(guest_arch: Arch) -> str:
    """How to install QEMU with the package manager found here; empty if none is known."""
    for manager, commands in _INSTALL.items():
        try:
            proc.find_tool(manager)
        except DevboxError:
            continue
        return commands[0 if guest_arch is Arch.X86_64 else 1]
    return ""


def _tool(name: str, guest_arch: Arch) -> Path:
    try:
        return proc.find_tool(name)
    except DevboxError as missing:
        command = install_command(guest_arch)
        raise DevboxError(
            "qemu.missing",
            f"QEMU's `{name}` is not installed.",
            hint=f"Install it: {command}" if command else "Install QEMU with your system's package manager.",
        ) from missing


def _virtiofsd() -> Path | None:
    try:
        return proc.find_tool("virtiofsd")
    except DevboxError:
        return next((path for path in map(Path, _VIRTIOFSD) if path.is_file() and os.access(path, os.X_OK)), None)


def _slow_facts(qemu: Path, virtiofsd: Path | None, guest_arch: Arch, accel: str) -> _Slow:
    root = fs.make_private_dir(paths.runtime_root())
    kept = root / f"host-{guest_arch}-{accel if accel.isalnum() else 'other'}.json"
    key = _key(qemu, virtiofsd, accel)
    if found := _read(kept, key):
        return found
    with fs.lock(root / "probe.lock", wait=120):  # two first `up` at once: one probes, the other reads
        if found := _read(kept, key):
            return found
        found = _find_out(qemu, virtiofsd, guest_arch, accel)
        fs.write_atomic(kept, json.dumps({"key": key, "facts": asdict(found)}).encode())
    return found


def _find_out(qemu: Path, virtiofsd: Path | None, guest_arch: Arch, accel: str) -> _Slow:
    system = "darwin" if sys.platform == "darwin" else "linux"
    version = re.search(r"version (\d+)\.(\d+)\.(\d+)", proc.run([qemu, "--version"], timeout=30).text)
    if version is None:
        raise DevboxError("qemu.missing", f"{qemu} does not tell its version.", hint=install_command(guest_arch))
    helper = proc.run([virtiofsd, "--version"], timeout=30).text if virtiofsd else ""
    choice: Choice = accelerator.choose(qemu, system=system, host=native_arch(), guest=guest_arch, asked=accel)
    return _Slow(
        version=(int(version[1]), int(version[2]), int(version[3])),
        ninep='"virtio-9p-pci"' in proc.run([qemu, "-device", "help"], timeout=30).text,
        virtiofsd_unprivileged=bool(helper) and "FUSE kernel interface" not in helper,  # which only the C one prints
        accelerator=choice.accelerator,
        reason=choice.reason,
        slowdown=choice.slowdown,
    )


def _key(qemu: Path, virtiofsd: Path | None, accel: str) -> list[object]:
    """Everything the kept facts depend on."""
    boot_id = Path("/proc/sys/kernel/random/boot_id")
    files = [qemu] + ([virtiofsd] if virtiofsd else [])
    return [
        accelerator.PAYLOAD_REVISION,
        accel,
        *([os.fspath(path), path.stat().st_mtime_ns, path.stat().st_size] for path in files),
        platform.release(),
        boot_id.read_text().strip() if boot_id.exists() else "",  # macOS empties the runtime folder at boot
        os.access(accelerator.KVM_DEVICE, os.R_OK | os.W_OK),
    ]


def _read(kept: Path, key: list[object]) -> _Slow | None:
    try:
        stored = json.loads(kept.read_text())
        if stored["key"] != key:
            return None
        facts = stored["facts"]
        return _Slow(**{**facts, "version": tuple(facts["version"]), "accelerator": Accelerator(facts["accelerator"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None  # Not there, or written by another version: found out again.
