"""Folder devices in a running machine: pulled out before its memory is saved, and plugged in again afterwards.

The guest has unmounted them by then. Each plug gets a helper of its own, since one serves a single connection.
"""

import os
import time
from contextlib import suppress

from devbox.config.choices import FolderType
from devbox.errors import DevboxError
from devbox.machine import argv, dormant, virtiofsd
from devbox.machine.argv import VmSpec
from devbox.machine.host import HostFacts
from devbox.machine.process import Process
from devbox.machine.qmp import Qmp
from devbox.paths import MachineDir
from devbox.share.folders import Mount

_PATIENCE = 20.0  # seconds for the guest to let a device go; it takes 0.1 s, and 5 s where it blinks the lamp first


def plug(qmp: Qmp, vm: VmSpec, facts: HostFacts) -> int:
    """Plug those folder devices in that are not there; how many."""
    present, count = devices(qmp), 0
    for number, mount in enumerate(vm.plugged):
        device = argv.folder_device(number, mount)
        if device["id"] not in present:
            _plug(qmp, vm, facts, mount, device)
            count += 1
    dormant.unplugged(vm.dir).unlink(missing_ok=True)
    return count


def unplug(qmp: Qmp, folder: MachineDir) -> None:
    """Pull all folder devices out. Raises `machine.unplug` when the guest holds one; those before it are out."""
    dormant.unplugged(folder).touch()
    for device in sorted(devices(qmp)):
        qmp.execute("device_del", id=device)
        _until_gone(qmp, device)
        with suppress(DevboxError):  # 9p has none
            qmp.execute("chardev-remove", id=device.removesuffix("-fs"))


def devices(qmp: Qmp) -> set[str]:
    """The folder devices that are plugged in."""
    found = qmp.execute("qom-list", path="/machine/peripheral")
    return {one["name"] for one in found if one["name"].startswith("folder") and one["name"].endswith("-fs")}


def _plug(qmp: Qmp, vm: VmSpec, facts: HostFacts, mount: Mount, device: dict[str, str]) -> None:
    if mount.type is not FolderType.VIRTIOFS:
        qmp.add_device(device)
        return
    path = vm.dir.virtiofs(mount.tag)
    helper = virtiofsd.start_one(mount, path, facts, vm.dir.qemu_log)
    added = False
    try:
        where = {"type": "unix", "data": {"path": os.fspath(path)}}
        backend = {"type": "socket", "data": {"addr": where, "server": False}}
        qmp.execute("chardev-add", id=device["chardev"], backend=backend)
        added = True
        qmp.add_device(device)
    except BaseException:
        if added:
            with suppress(DevboxError):
                qmp.execute("chardev-remove", id=device["chardev"])
        with Process(helper) as process:
            process.kill()
        raise


def _until_gone(qmp: Qmp, device: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while device in devices(qmp):
        if time.monotonic() > deadline:
            raise DevboxError(
                "machine.unplug",
                "The guest does not let go of the device of a synced folder.",
                hint="See what holds it: `devbox logs --serial`. `devbox halt` shuts the machine down instead.",
            )
        qmp.wait_event({"DEVICE_DELETED"}, 0.5)
