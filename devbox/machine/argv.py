"""Pure: what a machine is, and what this computer has → QEMU's complete argument list.

Starts nothing and reads no file. Options are JSON wherever QEMU 7.2 takes it, since a comma in a path must never
become an option; `-chardev` and `-fsdev` take none, so commas are doubled there.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devbox.config.model import Arch, Firmware, FolderType, MachineSpec, Network
from devbox.disk.data import Attached
from devbox.disk.record import Record
from devbox.errors import DevboxError
from devbox.machine import firmware
from devbox.machine.accelerator import Accelerator
from devbox.machine.host import HostFacts
from devbox.machine.ram import Ram
from devbox.paths import MachineDir
from devbox.share.folders import Mount
from devbox.share.ports import Forward

GUEST_SSH_PORT = 22
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class DirectBoot:
    """A boot without the disk's boot loader. `credential` is a file with what systemd in the guest is to know."""

    kernel: Path
    initrd: Path
    cmdline: str
    credential: Path


@dataclass(frozen=True, slots=True)
class VmSpec:
    """One machine as QEMU is to run it. `memory` is in bytes."""

    dir: MachineDir
    name: str
    uuid: str
    mac: str
    arch: Arch
    machine_type: str  # "q35", "virt", or a version of them
    firmware: Firmware  # resolved: BIOS or UEFI
    cpu: str  # the model under emulation
    cpus: int
    memory: int
    network: Network = Network.INTERNET
    forwards: tuple[Forward, ...] = ()
    mounts: tuple[Mount, ...] = ()
    seed: bool = True  # cloud-init's, as a second disk
    direct: DirectBoot | None = None
    disks: tuple[Attached, ...] = ()  # data disks
    incoming: bool = False  # it waits for a saved memory instead of booting
    ram: Ram | None = None  # the file that is its memory
    disk: Path | None = None  # the file that `dir.disk` leads to: QEMU must know it by its own name, see disk/chain

    @property
    def virtiofs(self) -> tuple[Mount, ...]:
        return tuple(mount for mount in self.mounts if mount.type is FolderType.VIRTIOFS)

    @property
    def folders_later(self) -> bool:
        """Its memory comes from another QEMU, or goes to one: no folder device may be in there."""
        return self.incoming or self.direct is not None

    @property
    def plugged(self) -> tuple[Mount, ...]:
        """The folders that reach the guest by a device, each in a slot of its own."""
        return tuple(mount for mount in self.mounts if mount.type is not FolderType.RSYNC)


def spec(
    record: Record,
    machine: MachineSpec,
    *,
    forwards: tuple[Forward, ...] = (),
    mounts: tuple[Mount, ...] = (),
    disks: tuple[Attached, ...] = (),
) -> VmSpec:
    """The machine of `record`, with what the Devboxfile may change from one start to the next."""
    return VmSpec(
        dir=record.dir,
        name=record.name,
        uuid=record.uuid,
        mac=record.mac,
        arch=record.arch,
        machine_type=record.machine_type,
        firmware=record.firmware,
        cpu=record.cpu,
        cpus=machine.cpus,
        memory=machine.memory,
        network=machine.network,
        forwards=forwards,
        mounts=mounts,
        disks=disks,
    )


def build(vm: VmSpec, facts: HostFacts) -> tuple[str, ...]:
    """The argument list, the program first. Raises `machine.firmware` where UEFI is needed and not there."""
    return (
        os.fspath(facts.qemu),
        *("-name", f"guest={_plain(vm.name)}", "-uuid", vm.uuid),
        *("-nodefaults", "-no-user-config", "-display", "none"),
        *_sandbox(facts),
        *_board(vm, facts),
        *_processor(vm, facts),
        *_direct(vm),
        *_disks(vm, facts),
        *_network(vm),
        *_randomness(vm),
        *_sockets(vm),
        *_folders(vm),
        *("-pidfile", os.fspath(vm.dir.pidfile)),
        *(("-S", "-incoming", "defer") if vm.incoming else ()),
    )


def uses_uefi(vm: VmSpec) -> bool:
    return vm.arch is Arch.AARCH64 or vm.firmware is Firmware.UEFI


def _json(**options: Any) -> str:
    return json.dumps(options)


def _plain(text: str | Path) -> str:
    """The text as a value in an option list that is not JSON."""
    return os.fspath(text).replace(",", ",,")


def _sandbox(facts: HostFacts) -> tuple[str, ...]:
    if facts.system != "linux":
        return ()
    # spawn=deny also forbids -daemonize (it forks after the filter is set): proc.start gives QEMU its own session.
    return ("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")


def _board(vm: VmSpec, facts: HostFacts) -> tuple[str, ...]:
    machine = vm.machine_type
    if vm.arch is Arch.AARCH64 and facts.accelerator is not Accelerator.HVF:
        machine += ",gic-version=max"  # the default, 2, ends at eight processors; hvf chooses for itself
    arguments: list[str] = []
    if vm.ram:
        memory = {"qom-type": "memory-backend-file", "id": "ram", "size": vm.memory, "share": vm.ram.shared}
        arguments += ["-object", json.dumps({**memory, "mem-path": os.fspath(vm.ram.path)})]
    elif vm.virtiofs:
        memory = {"qom-type": "memory-backend-memfd", "id": "ram", "size": vm.memory, "share": True}
        arguments += ["-object", json.dumps(memory)]  # the helper maps the guest's memory, so it must be shared
    else:
        arguments += ["-object", _json(**{"qom-type": "memory-backend-ram", "id": "ram", "size": vm.memory})]
    # By one name, whatever it is: saved memory finds its place by it.
    machine += ",memory-backend=ram"
    if uses_uefi(vm):
        arguments += _flash(vm, facts)
        machine += ",pflash0=firmware-code,pflash1=firmware-vars"
    # UEFI waits for a key unless the menu is on with no time to show it; SeaBIOS the other way round.
    boot = "menu=on,splash-time=0,strict=on" if uses_uefi(vm) else "menu=off,strict=on"
    return ("-machine", machine, *arguments, "-boot", boot, "-rtc", "base=utc")


def _flash(vm: VmSpec, facts: HostFacts) -> list[str]:
    if facts.firmware_code is None or facts.firmware_vars is None:
        raise DevboxError(
            "machine.firmware",
            f"This machine boots by UEFI, and no firmware for {vm.arch} is installed here.",
            hint="Install the package: ovmf or edk2-ovmf for x86_64, qemu-efi-aarch64 or edk2-aarch64 for aarch64.",
        )
    return [
        "-blockdev",
        json.dumps(
            {
                "driver": firmware.format_of(facts.firmware_code),
                "node-name": "firmware-code",
                "read-only": True,
                "file": {"driver": "file", "filename": os.fspath(facts.firmware_code)},
            }
        ),
        "-blockdev",
        json.dumps(
            {
                "driver": firmware.format_of(facts.firmware_vars),
                "node-name": "firmware-vars",
                "file": {"driver": "file", "filename": os.fspath(vm.dir.firmware_vars)},
            }
        ),
    ]


def _processor(vm: VmSpec, facts: HostFacts) -> tuple[str, ...]:
    accelerator, model = str(facts.accelerator), "host"
    if facts.accelerator is Accelerator.TCG:
        model = vm.cpu
        if (vm.arch, model) == (Arch.AARCH64, "max"):
            # Pointer authentication by QARMA5 takes half of the time; kernels before 5.12 hang on LPA2.
            model = "max,pauth-impdef=on,lpa2=off"
        # x86 promises stronger ordering than aarch64 keeps: QEMU 7.2 must not run its processors in parallel there.
        if not (facts.arch is Arch.AARCH64 and vm.arch is Arch.X86_64):
            accelerator += ",thread=multi"
    return ("-accel", accelerator, "-cpu", model, "-smp", str(vm.cpus), "-m", f"{vm.memory // _MIB}M")


def _direct(vm: VmSpec) -> tuple[str, ...]:
    if vm.direct is None:
        return ()
    # The credential holds a private key, and any user of this computer can read a command line: so by a file.
    return (
        *("-kernel", os.fspath(vm.direct.kernel), "-initrd", os.fspath(vm.direct.initrd)),
        *("-append", vm.direct.cmdline, "-smbios", f"type=11,path={_plain(vm.direct.credential)}"),
    )


def disk_node(path: Path, name: str, *, system: str) -> dict[str, Any]:
    """The machine's own disk as QEMU opens it, at the start and after a cut; `system` is this computer's."""
    # Without OFD locks (macOS) "on" falls back to locks that are lost when any descriptor is closed, with a warning.
    locking = "on" if system == "linux" else "auto"
    return {
        "driver": "qcow2",
        "node-name": name,
        "discard": "unmap",
        "detect-zeroes": "unmap",
        "file": {"driver": "file", "filename": os.fspath(path), "locking": locking, "discard": "unmap"},
    }


def _disks(vm: VmSpec, facts: HostFacts) -> tuple[str, ...]:
    disk = disk_node(vm.disk or vm.dir.disk, "disk", system=facts.system)
    data: list[str] = []
    for number, one in enumerate(vm.disks):
        node = f"data{number}"
        data += ["-blockdev", json.dumps(disk_node(one.path, node, system=facts.system))]
        data += ["-device", _json(driver="virtio-blk-pci", id=f"vd-{one.name}", drive=node, serial=one.serial)]
    seed = {
        "driver": "raw",
        "node-name": "seed",
        "read-only": True,
        "file": {"driver": "file", "filename": os.fspath(vm.dir.seed)},
    }
    # cloud-init finds the seed by its label on any disk; some cloud kernels have no driver for an emulated CD-ROM.
    seeded = (
        *("-blockdev", json.dumps(seed)),
        *("-device", _json(driver="virtio-blk-pci", id="vdb", drive="seed", serial="devbox-seed")),
    )
    first = 1 if vm.direct else 0  # a kernel that is given directly has the first place
    return (
        *("-blockdev", json.dumps(disk)),
        *("-device", _json(driver="virtio-blk-pci", id="vda", drive="disk", serial="devbox-disk", bootindex=first)),
        *(seeded if vm.seed else ()),
        *data,
    )


def _network(vm: VmSpec) -> tuple[str, ...]:
    # The kernel chooses the host's port for SSH and `info usernet` tells it: no race, no allocation file.
    rules = [f"tcp:127.0.0.1:0-:{GUEST_SSH_PORT}"]
    rules += [f"{forward.protocol}:{forward.bind}:{forward.host}-:{forward.guest}" for forward in vm.forwards]
    # `internet` ought to keep the guest from this computer's loopback (10.0.2.2), as `host` alone allows it. QEMU's
    # user network cannot up to 10.0: libslirp has `disable_host_loopback`, but QEMU does not hand it on, and
    # `restrict` closes the internet too. passt with --no-map-gw over `-netdev stream` could.
    network = _json(
        type="user",
        id="net0",
        restrict=vm.network is Network.NONE,
        hostfwd=[{"str": rule} for rule in rules],
    )
    # An empty ROM: the firmware shall not try to boot from the network.
    card = _json(driver="virtio-net-pci", id="nic0", netdev="net0", mac=vm.mac, romfile="")
    return ("-netdev", network, "-device", card)


def _randomness(vm: VmSpec) -> tuple[str, ...]:
    source = ("-device", _json(driver="virtio-rng-pci", id="rng0"))
    if vm.arch is not Arch.X86_64:
        return source
    # Another number at each start: a kernel that goes on from a saved memory draws new random numbers then.
    return (*source, "-device", _json(driver="vmgenid", id="generation", guid="auto"))


def _sockets(vm: VmSpec) -> tuple[str, ...]:
    console = f"socket,id=console,path={_plain(vm.dir.console)},server=on,wait=off"
    append = "on" if vm.incoming else "off"  # a guest that goes on has the beginning of its boot in there
    log = f"logfile={_plain(vm.dir.serial_log)},logappend={append}"
    monitors: list[str] = []
    for name, path in (("control", vm.dir.qmp), ("status", vm.dir.status)):
        # Two, since QEMU serves one client on each at a time, and `status` must answer while another verb works.
        monitors += ["-chardev", f"socket,id={name},path={_plain(path)},server=on,wait=off"]
        monitors += ["-mon", f"chardev={name},mode=control"]
    return ("-chardev", f"{console},{log}", "-serial", "chardev:console", *monitors)


def _folders(vm: VmSpec) -> tuple[str, ...]:
    """A slot for each folder, and in it the device, which is pulled out before the memory is saved."""
    arguments: list[str] = []
    for number, mount in enumerate(vm.plugged):
        slot = _json(driver="pcie-root-port", id=f"slot{number}", bus="pcie.0", chassis=number + 1, slot=number + 1)
        arguments += ["-device", slot]
        if mount.type is FolderType.NINEP:
            # QEMU has no way to add this one later; it is no part of the saved state.
            readonly = ",readonly=on" if mount.readonly else ""
            path = f"path={_plain(mount.host)},security_model=none,multidevs=remap{readonly}"
            arguments += ["-fsdev", f"local,id=folder{number},{path}"]
        elif not vm.folders_later:
            arguments += ["-chardev", f"socket,id=folder{number},path={_plain(vm.dir.virtiofs(mount.tag))}"]
        if not vm.folders_later:
            arguments += ["-device", json.dumps(folder_device(number, mount))]
    return tuple(arguments)


def folder_device(number: int, mount: Mount) -> dict[str, str]:
    """The device of the folder in this slot; what it stands on (chardev or fsdev) is called `folder<number>`."""
    place = {"id": f"folder{number}-fs", "bus": f"slot{number}"}
    if mount.type is FolderType.VIRTIOFS:
        return {"driver": "vhost-user-fs-pci", **place, "chardev": f"folder{number}", "tag": mount.tag}
    return {"driver": "virtio-9p-pci", **place, "fsdev": f"folder{number}", "mount_tag": mount.tag}
