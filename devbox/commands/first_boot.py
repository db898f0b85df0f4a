"""The fast profile: a new machine's first boot without boot loader and cloud-init, where its box allows that.

Kernel and initrd are started directly, systemd makes the keys' files out of a credential, and the rest is done in one
exchange over SSH. Then QEMU is changed for one without that kernel, so that every later boot, a reboot of this very
run included, goes by the disk's own boot loader. Whatever fails on this way leads to the plain first boot.
"""

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from devbox import ui
from devbox.box import kernel
from devbox.config.model import Boot, Firmware, MachineSpec
from devbox.disk import first_boot, identity, keys, seed
from devbox.disk.record import Record
from devbox.errors import DevboxError
from devbox.machine import lifecycle
from devbox.machine.argv import DirectBoot, VmSpec

if TYPE_CHECKING:
    from devbox.box.store import Image
    from devbox.guest.adopt import Setup
    from devbox.machine.host import HostFacts
    from devbox.machine.lifecycle import Running

# `ip=`: systemd 252 reads no network from credentials, but its generator does from here. The file system is new. The
# units would only take time from the first boot (root's user manager: a tenth of it), and are masked for this one;
# what a running machine is to have is not among them, least of all AppArmor.
_MASKED = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "user@0.service",
)
_MORE = " ".join(("ip=dhcp", "fsck.mode=skip", *(f"systemd.mask={unit}" for unit in _MASKED)))
_SETUP = 120.0  # seconds on a fast computer


def plan(record: Record, machine: MachineSpec, image: "Image", facts: "HostFacts") -> None:
    """Decide how the machine's disk is set up: before it is made, or never. Layers are chosen by that."""
    if not os.path.lexists(record.dir.disk):
        first_boot.forget(record)
        _decide(record, machine, image, facts)
    elif first_boot.is_under_way(record) and not (record.layer or first_boot.is_adopted(record)):
        gone = kernel.find(record.image) is None
        if gone and lifecycle.observe(record).state is lifecycle.State.STOPPED:
            ui.note("The kernel for the quick first boot is gone, so the machine boots plainly.")
            first_boot.over(record)


def _decide(record: Record, machine: MachineSpec, image: "Image", facts: "HostFacts") -> None:
    # By UEFI it was not seen to work up to the first login yet.
    if machine.boot is not Boot.AUTO or facts.system != "linux" or record.firmware is not Firmware.BIOS:
        return
    try:
        known = kernel.ensure(image)
    except DevboxError as trouble:
        ui.note(f"The machine boots plainly. {trouble.message}")
        return
    if known:
        first_boot.begin(record)


def applied(record: Record, vm: VmSpec) -> VmSpec:
    """The machine as it is started: with a kernel and a credential, with a seed, or by its disk alone."""
    if first_boot.is_under_way(record) and record.layer and not first_boot.is_adopted(record):
        first_boot.adopted(record)  # the machine that the layer was made of was set up the same way
        first_boot.over(record)
    if first_boot.is_under_way(record) and not first_boot.is_adopted(record):
        first_boot.begin(record)  # as its keys are now
        if known := kernel.find(record.image):
            cmdline = f"{known.cmdline} {_MORE}"
            direct = DirectBoot(known.kernel, known.initrd, cmdline, record.dir.first_boot)
            return replace(vm, seed=False, direct=direct)
    return replace(vm, seed=record.dir.seed.exists())


def finish(running: "Running", machine: MachineSpec, vm: VmSpec, facts: "HostFacts") -> "Running":
    """The running machine, set up, in a QEMU that boots by firmware. Nothing to do but at a first boot."""
    record = running.record
    if not first_boot.is_under_way(record):
        return running
    try:
        _set_up(running, machine, facts)
    except DevboxError as failed:
        if first_boot.is_adopted(record):
            raise
        return _plainly(record, machine, vm, facts, failed)
    running = _by_firmware(record, vm, facts)
    first_boot.over(record)
    return running


def _set_up(running: "Running", machine: MachineSpec, facts: "HostFacts") -> None:
    from devbox.commands import session
    from devbox.guest import adopt

    record = running.record
    known = first_boot.is_adopted(record)
    where = replace(session.endpoint(record, running.observation), user=record.user if known else "root")
    with session.reach(record, where, slowdown=facts.slowdown, fresh=running.fresh) as guest:
        timeout = _SETUP * facts.slowdown
        if not known:
            with ui.step("Set the guest up"):
                adopt.adopt(guest, _setup(record, machine), timeout=timeout)
            first_boot.adopted(record)
        adopt.leave(guest, root=not known, timeout=timeout)


def _setup(record: Record, machine: MachineSpec) -> "Setup":
    from devbox.guest.adopt import Setup

    return Setup(
        user=record.user,
        uid=record.uid,
        gid=record.gid,
        shell=machine.user.shell,
        groups=machine.user.groups,
        key=keys.make(identity.at_boot(record).login_key),
        hostname=machine.hostname,
        mac=record.mac,
    )


def _by_firmware(record: Record, vm: VmSpec, facts: "HostFacts") -> "Running":
    from devbox.machine import handover

    pid = lifecycle.observe(record).pid
    if pid is not None and handover.is_direct(pid):
        try:
            with ui.step("Let QEMU forget the kernel of the first boot"):
                handover.by_firmware(record, pid, vm, facts)
        except DevboxError as failed:
            ui.warn(f"The machine restarts by its boot loader, since it could not go on in another QEMU: {failed}")
            lifecycle.halt(record, force=True)  # all is on its disk
    return lifecycle.ensure_running(record, replace(vm, direct=None), facts)


def _plainly(record: Record, machine: MachineSpec, vm: VmSpec, facts: "HostFacts", failed: DevboxError) -> "Running":
    """The first boot once more, by boot loader and cloud-init. The disk holds nothing of anybody's yet."""
    ui.warn(f"The quick first boot failed, so the machine boots plainly: {failed.message}")
    lifecycle.halt(record, force=True)
    first_boot.over(record)
    seed.ensure(record, machine)
    with ui.step("Start QEMU"):
        return lifecycle.ensure_running(record, replace(vm, direct=None, seed=True), facts)
