"""Which accelerator really works here: found out by booting a tiny payload, since a device node proves nothing.

In: a QEMU and the two architectures. Out: a `Choice`, with the reason for falling back and a factor for deadlines.
Opening /dev/kvm, asking its version and creating a VM all succeed on hosts where guests then abort or hang.
"""

import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from devbox import paths, proc
from devbox.config.model import Arch
from devbox.errors import DevboxError, ExitCode


class Accelerator(StrEnum):
    KVM = "kvm"
    HVF = "hvf"
    TCG = "tcg"


@dataclass(frozen=True, slots=True)
class Choice:
    accelerator: Accelerator
    reason: str  # why it is not the faster one; empty where it is
    slowdown: float  # what deadlines are multiplied by


@dataclass(frozen=True, slots=True)
class Verdict:
    works: bool
    reason: str
    seconds: float


KVM_DEVICE = Path("/dev/kvm")
PAYLOAD_REVISION = 1  # part of the key under which verdicts are kept
_DEADLINE = 5.0  # seconds; the payload needs 0.1 s where acceleration works
_EMULATION_DEADLINE = 60.0
# What the payload takes under emulation on a computer where a boot takes ten times what it takes accelerated.
_REFERENCE_SECONDS = {Arch.X86_64: 0.44, Arch.AARCH64: 0.32}
_REFERENCE_SLOWDOWN = 10.0
_SLOWDOWN_RANGE = (6.0, 40.0)

_X86_64 = bytes.fromhex(
    "faea067c000031c08ed88ec08ed0bc007c9c0e68177ccf66bf0010000066b9000c00006631c066f3ab66c70600100320000066c7060020"
    "0330000066c7060030830000000f20e06683c8200f22e066b8001000000f22d866b9800000c00f32660d000100000f300f20c0660d0100"
    "00800f22c00f0116d87c66ea807c00000800b8100000008ed88ed0bc007c00006a1068007c00009c6a08689f7c000048cf31c00fa2b900"
    "e1f505010c2500400000ffc975f5b810000000e7f4f4ebfd0f1f000000000000000000ffff0000009aaf00ffff00000092cf001700c07c"
)
_AARCH64 = bytes.fromhex(
    "01000010214040913f000091a2000010224018d5a37880d2034018d5e0039fd6040038d505209cd2a5bea0f2e60340f9c600058be60300"
    "f9a50400f181ffff54000180520080b072020000d47f2003d5ffffff17"
)


def payload(arch: Arch) -> bytes:
    """What the probe boots: a boot sector (see probe_x86_64.S) or a flat kernel (see probe_aarch64.S)."""
    return _X86_64.ljust(510, b"\0") + b"\x55\xaa" if arch is Arch.X86_64 else _AARCH64


def choose(qemu: Path, *, system: str, host: Arch, guest: Arch, asked: str = "auto") -> Choice:
    """The accelerator to use. `asked` is `auto` or a name, which is then taken without a probe."""
    candidate = Accelerator.HVF if system == "darwin" else Accelerator.KVM
    if asked not in {"auto", candidate, Accelerator.TCG}:
        raise DevboxError(
            "machine.accelerator",
            f"There is no accelerator `{asked}` on this system.",
            hint=f"Take one of: auto, {candidate}, tcg.",
            exit_code=ExitCode.USAGE,
        )
    if asked == candidate and host is guest:
        return Choice(candidate, "", 1.0)
    reason = _obstacle(candidate, host=host, guest=guest, asked=asked)
    if not reason:
        verdict = boot(qemu, guest, candidate, deadline=_DEADLINE)
        if verdict.works:
            return Choice(candidate, "", 1.0)
        reason = f"{candidate} is there, but a test machine did not run with it: {verdict.reason}"
    if asked == candidate:
        raise DevboxError("machine.accelerator", f"`{asked}` cannot be used: {reason}.", hint="Leave --accel out.")
    emulated = boot(qemu, guest, Accelerator.TCG, deadline=_EMULATION_DEADLINE)
    return Choice(Accelerator.TCG, reason, slowdown(guest, emulated))


def slowdown(arch: Arch, emulated: Verdict) -> float:
    """The factor for deadlines, from how long the payload took under emulation."""
    low, high = _SLOWDOWN_RANGE
    if not emulated.works:
        return high
    return round(min(high, max(low, _REFERENCE_SLOWDOWN * emulated.seconds / _REFERENCE_SECONDS[arch])), 1)


def boot(qemu: Path, arch: Arch, accelerator: Accelerator, *, deadline: float) -> Verdict:
    """Boot the payload once, and tell whether it came to its end and how long it took."""
    with tempfile.TemporaryDirectory(prefix="probe-", dir=paths.runtime_root()) as folder:
        image = Path(folder) / "payload"
        image.write_bytes(payload(arch))
        if arch is Arch.X86_64:
            os.truncate(image, 1 << 20)  # SeaBIOS does not boot a disk smaller than one cylinder
        began = time.monotonic()
        try:
            ended = proc.run(boot_argv(qemu, arch, accelerator, image), timeout=deadline)
        except DevboxError as late:
            if late.id != "tool.timeout":
                raise
            seen = _telling_line(late.details)
            return Verdict(works=False, reason=seen or f"it came to no end within {deadline:.0f} s", seconds=deadline)
    seconds = time.monotonic() - began
    if ended.status == (33 if arch is Arch.X86_64 else 0):
        return Verdict(works=True, reason="", seconds=seconds)
    said = _telling_line(ended.error_text) or f"QEMU ended with status {ended.status}"
    return Verdict(works=False, reason=said, seconds=seconds)


def boot_argv(qemu: Path, arch: Arch, accelerator: Accelerator, image: Path) -> Sequence[str]:
    """Pure: the smallest machine that runs the payload."""
    cpu = "max" if accelerator is Accelerator.TCG else "host"
    common = ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-m", "64M"]
    where = ["-accel", str(accelerator), "-cpu", cpu]
    if arch is Arch.AARCH64:
        return [os.fspath(qemu), *common, *where, "-machine", "virt", "-kernel", os.fspath(image)]
    disk = json.dumps({"driver": "file", "node-name": "disk", "read-only": True, "filename": os.fspath(image)})
    return [
        os.fspath(qemu), *common, *where,
        "-machine", "q35",
        "-device", "isa-debug-exit,iobase=0xf4,iosize=4",
        "-blockdev", disk,
        "-device", "virtio-blk-pci,drive=disk,bootindex=0",
    ]  # fmt: skip


def _obstacle(candidate: Accelerator, *, host: Arch, guest: Arch, asked: str) -> str:
    """Why the accelerator need not even be tried; empty if it should be."""
    if asked == Accelerator.TCG:
        return "emulation was asked for"
    if host is not guest:
        return f"a machine of {guest} on a computer of {host} is always emulated"
    if candidate is Accelerator.HVF:
        return ""
    if not KVM_DEVICE.exists():
        return f"there is no {KVM_DEVICE} (virtualisation is off in the firmware, or this is a virtual machine itself)"
    if not os.access(KVM_DEVICE, os.R_OK | os.W_OK):
        return f"you may not open {KVM_DEVICE} (`sudo usermod -aG kvm $USER`, then log in again)"
    return ""


def _telling_line(text: str) -> str:
    """The line of QEMU's messages that names the cause: the first that is not about our own killing it."""
    lines = (line.strip() for line in text.splitlines())
    first = next((line for line in lines if line and "terminating on signal" not in line), "")
    return first.removeprefix("qemu-system-x86_64: ").removeprefix("qemu-system-aarch64: ")[:160]
