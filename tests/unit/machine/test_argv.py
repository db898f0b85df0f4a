"""The QEMU argument list: golden files for each kind of host, and the promises that must hold for all of them.

After an intended change: `UPDATE_GOLDEN=1 pytest tests/unit/machine/test_argv.py`, then read the difference.
"""

import json
import os
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from devbox.config.model import Arch, Firmware, FolderType, Network
from devbox.errors import DevboxError
from devbox.machine import argv
from devbox.machine.accelerator import Accelerator
from devbox.machine.argv import DirectBoot, VmSpec
from devbox.machine.host import HostFacts
from devbox.paths import MachineDir
from devbox.share.folders import Mount
from devbox.share.ports import Forward

GOLDEN = Path(__file__).parents[2] / "golden" / "argv"

LINUX = HostFacts(
    system="linux",
    arch=Arch.X86_64,
    cpus=8,
    memory=16 << 30,
    uid=1000,
    qemu=Path("/usr/bin/qemu-system-x86_64"),
    qemu_version=(7, 2, 22),
    qemu_img=Path("/usr/bin/qemu-img"),
    guest_arch=Arch.X86_64,
    accelerator=Accelerator.KVM,
    accelerator_reason="",
    firmware_code=Path("/usr/share/OVMF/OVMF_CODE_4M.fd"),
    firmware_vars=Path("/usr/share/OVMF/OVMF_VARS_4M.fd"),
    slowdown=1.0,
    virtiofsd=Path("/usr/libexec/virtiofsd"),
    virtiofsd_unprivileged=True,
    ninep=True,
)
FOREIGN = replace(
    LINUX,
    qemu=Path("/usr/bin/qemu-system-aarch64"),
    guest_arch=Arch.AARCH64,
    accelerator=Accelerator.TCG,
    firmware_code=Path("/usr/share/AAVMF/AAVMF_CODE.fd"),
    firmware_vars=Path("/usr/share/AAVMF/AAVMF_VARS.fd"),
)
MAC = replace(
    FOREIGN,
    system="darwin",
    arch=Arch.AARCH64,
    uid=501,
    qemu=Path("/opt/homebrew/bin/qemu-system-aarch64"),
    accelerator=Accelerator.HVF,
    firmware_code=Path("/opt/homebrew/share/qemu/edk2-aarch64-code.fd"),
    firmware_vars=Path("/opt/homebrew/share/qemu/edk2-arm-vars.fd"),
    virtiofsd=None,
)
ON_AARCH64 = {"arch": Arch.AARCH64, "machine_type": "virt", "firmware": Firmware.UEFI}
PROJECT = Path('/home/ada/my, "odd" project\'s')


@pytest.fixture(autouse=True)
def fixed_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEVBOX_STATE_DIR", "/home/ada/.local/state/devbox")
    monkeypatch.setenv("DEVBOX_RUNTIME_DIR", "/run/user/1000/devbox")


def machine(**changes: Any) -> VmSpec:
    plain = VmSpec(
        dir=MachineDir("0123456789ab"),
        name="hello",
        uuid="8d4a1f0e-5b1c-4a6f-9d1e-2f3a4b5c6d7e",
        mac="52:54:00:ab:cd:ef",
        arch=Arch.X86_64,
        machine_type="q35",
        firmware=Firmware.BIOS,
        cpu="max",
        cpus=2,
        memory=2 << 30,
    )
    return replace(plain, **changes)


SHARES = {
    "forwards": (Forward("tcp", "127.0.0.1", 8080, 80, "web"), Forward("udp", "127.0.0.1", 20053, 53)),
    "mounts": (
        Mount("devbox0", PROJECT, PurePosixPath("/workspace"), FolderType.VIRTIOFS),
        Mount("devbox1", PROJECT / "data", PurePosixPath("/data"), FolderType.NINEP, readonly=True),
        Mount("devbox2", PROJECT / "src", PurePosixPath("/src"), FolderType.RSYNC),
    ),
}
DIRECT = DirectBoot(
    Path("/home/ada/.cache/devbox/blobs/sha256/aa"),
    Path("/home/ada/.cache/devbox/blobs/sha256/bb"),
    "root=UUID=1234 ro console=ttyS0,115200 ip=dhcp",
    Path("/home/ada/its, state/devbox/machines/0123456789ab/first_boot"),
)
CASES: dict[str, tuple[VmSpec, HostFacts]] = {
    "linux-x86_64-kvm-bios": (machine(), LINUX),
    "linux-x86_64-kvm-uefi": (machine(firmware=Firmware.UEFI), LINUX),
    "linux-x86_64-kvm-shares": (machine(**SHARES), LINUX),
    "linux-x86_64-kvm-no-network": (machine(network=Network.NONE), LINUX),
    "linux-x86_64-kvm-uefi-direct": (machine(firmware=Firmware.UEFI, seed=False, direct=DIRECT), LINUX),
    "linux-x86_64-tcg-adopted": (machine(cpu="qemu64", seed=False), replace(LINUX, accelerator=Accelerator.TCG)),
    "linux-x86_64-tcg-bios": (machine(cpu="qemu64"), replace(LINUX, accelerator=Accelerator.TCG)),
    "linux-x86_64-tcg-aarch64": (machine(**ON_AARCH64), FOREIGN),
    "linux-aarch64-kvm": (machine(**ON_AARCH64), replace(FOREIGN, arch=Arch.AARCH64, accelerator=Accelerator.KVM)),
    "linux-aarch64-tcg": (machine(**ON_AARCH64), replace(FOREIGN, arch=Arch.AARCH64)),
    "linux-aarch64-tcg-x86_64": (machine(), replace(LINUX, arch=Arch.AARCH64, accelerator=Accelerator.TCG)),
    "macos-arm64-hvf": (machine(**ON_AARCH64), MAC),
    "macos-arm64-tcg-x86_64": (
        machine(firmware=Firmware.UEFI),
        replace(
            MAC,
            qemu=Path("/opt/homebrew/bin/qemu-system-x86_64"),
            guest_arch=Arch.X86_64,
            accelerator=Accelerator.TCG,
            firmware_code=Path("/opt/homebrew/share/qemu/edk2-x86_64-code.fd"),
            firmware_vars=Path("/opt/homebrew/share/qemu/edk2-i386-vars.fd"),
        ),
    ),
}


def lines(arguments: tuple[str, ...]) -> str:
    """One option with its value a line."""
    text = arguments[0]
    for word in arguments[1:]:
        text += f"\n{word}" if word.startswith("-") else f" {word}"
    return text + "\n"


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    vm, facts = CASES[name]
    golden = GOLDEN / f"{name}.txt"
    got = lines(argv.build(vm, facts))
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(got)
    assert got == golden.read_text()


def test_every_golden_file_has_a_case() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == CASES.keys()


@pytest.mark.parametrize("name", CASES)
def test_promises(name: str) -> None:
    vm, facts = CASES[name]
    arguments = argv.build(vm, facts)
    pairs = list(zip(arguments, arguments[1:], strict=False))
    blocks = [json.loads(value) for option, value in pairs if option == "-blockdev"]
    assert all("driver" in block and block["file"]["driver"] == "file" for block in blocks), "no format is probed"
    assert all(Path(block["file"]["filename"]).is_absolute() for block in blocks)
    assert [block["node-name"] for block in blocks if not block.get("read-only")] == (
        ["firmware-vars", "disk"] if argv.uses_uefi(vm) else ["disk"]
    )
    (network,) = [json.loads(value) for option, value in pairs if option == "-netdev"]
    rules = [rule["str"] for rule in network["hostfwd"]]
    assert rules[0] == "tcp:127.0.0.1:0-:22"
    assert all(rule.split(":")[1] == "127.0.0.1" for rule in rules), "nothing listens off loopback unasked"
    assert ("-sandbox" in arguments) == (facts.system == "linux")
    assert not {"-drive", "-hda", "-vnc", "-usb", "-net", "-daemonize"} & set(arguments)


def test_uefi_without_firmware_is_an_error() -> None:
    with pytest.raises(DevboxError) as caught:
        argv.build(machine(firmware=Firmware.UEFI), replace(LINUX, firmware_code=None, firmware_vars=None))
    assert caught.value.id == "machine.firmware"


def test_only_the_asked_network_is_closed() -> None:
    def restricted(network: Network) -> bool:
        arguments = argv.build(machine(network=network), LINUX)
        return bool(json.loads(arguments[arguments.index("-netdev") + 1])["restrict"])

    assert [network for network in Network if restricted(network)] == [Network.NONE]
