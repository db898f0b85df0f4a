"""What a machine needs around a saved memory: folders taken out of the guest before, and brought back afterwards.

Then the clock is right as well: it stood still with the guest. Everything goes over OpenSSH, in one exchange.
"""

import shlex
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace

from devbox import proc, ui
from devbox.commands import session
from devbox.config.choices import FolderType
from devbox.disk.record import Record
from devbox.errors import DevboxError
from devbox.guest import openssh
from devbox.machine import dormant, hardware, host, lifecycle, saved, started, suspend
from devbox.machine.argv import VmSpec
from devbox.machine.lifecycle import Observation, State
from devbox.share.folders import Mount

_PATIENCE = 180.0  # seconds for an exchange with an emulated guest on a busy computer

_DETACH = """
users() {
  for p in /proc/[0-9]*; do
    for l in "$p/cwd" "$p/root" "$p/exe" "$p"/fd/*; do
      t=$(readlink "$l" 2>/dev/null) || continue
      case $t in "$1" | "$1"/*) read -r name <"$p/comm"; echo "$name (${p#/proc/})"; break ;; esac
    done
  done
}
detach() {
  found=
  while read -r from to rest; do [ "$from" != "$1" ] || found=1; done </proc/mounts
  [ "$found" ] || return 0
  umount "$2" 2>/dev/null && return 0
  [ "$force" ] && umount -l "$2" && return 0
  echo "$2 is in use by: $(users "$2" | tr '\\n' ' ')"
}
sync
"""
_SETTLE = """
clock() {
  t=$1 off=1 tries=0 rtc=
  # The machine's own clock is this computer's; it is taken unless somebody has set it to another time.
  if read -r rtc 2>/dev/null </sys/class/rtc/rtc0/since_epoch && [ $((rtc - t)) -ge 0 ] && [ $((rtc - t)) -le 60 ]; then
    t=$rtc off=0
  fi
  d=$(($(date +%s) - t))
  [ "$d" -lt -"$off" ] || [ "$d" -gt "$off" ] || return 0
  while [ "$off" = 0 ] && [ "$t" = "$rtc" ] && [ "$tries" -lt 40 ]; do  # it tells whole seconds: wait for the next
    sleep 0.05
    tries=$((tries + 1))
    read -r t </sys/class/rtc/rtc0/since_epoch
  done
  date -u -s "@$t" >/dev/null
}
attach() {
  listed= tries=0
  while read -r from rest; do [ "$from" != "$1" ] || listed=1; done </etc/fstab
  [ "$listed" ] || return 0
  while read -r from rest; do [ "$from" != "$1" ] || return 0; done </proc/mounts
  until why=$(mount "$2" 2>&1); do
    tries=$((tries + 1))
    [ "$tries" -lt 50 ] || { echo "$2: $why"; return 0; }
    sleep 0.2
  done
}
"""


def go_on(record: Record) -> bool:
    """Let a suspended machine go on from its memory, whole again with its folders and clock; whether it was one.

    Also brings back the folders of a machine that a kill has left without them, and ends a QEMU that a kill has left
    waiting for a memory. Raises what `suspend.wake` raises.
    """
    suspend.end_half_woken(record)
    seen = lifecycle.observe(record)
    if seen.state is State.SUSPENDED:
        wake(record)
        return True
    if dormant.unplugged(record.dir).exists() and seen.state in {State.PAUSED, State.RUNNING}:
        lifecycle.resume(record)
        attach(record)
    return False


def wake(record: Record, *, folders: bool = True) -> None:
    """The suspended machine goes on. Without `folders` it is only to be shut down."""
    with ui.step("Go on from the saved memory"):
        needs = saved.read(record.dir.memory_hardware, record)
        suspend.wake(record, host.probe(record.arch, accel=needs.accelerator))
        if folders:
            attach(record)


def attach(record: Record) -> None:
    """Plug in and mount the folders of the running machine that are not there, and set its clock if it is wrong."""
    vm = hardware.last(record)
    if vm.plugged:
        suspend.plug_folders(record, vm, host.probe(record.arch))
    dormant.unplugged(record.dir).unlink(missing_ok=True)
    lines = [f"clock {int(time.time())}", *_calls("attach", vm.plugged)]
    try:
        failed = _as_root(record, _SETTLE + "\n".join(lines))
    except DevboxError as trouble:
        ui.warn(f"{trouble.message} Its clock and folders may be wrong: `devbox up` sees to them.")
        return
    for line in failed:
        ui.warn(f"A folder could not be mounted again: {line}")


def as_it_runs(record: Record, seen: Observation) -> VmSpec:
    """The running machine, with what was changed since its start while it ran: ports, and folders that are copied."""
    vm, mounts = hardware.last(record), started.load(record).mounts
    same = tuple(mount for mount in mounts if mount.type is not FolderType.RSYNC) == vm.plugged
    return replace(vm, forwards=started.named(record, seen.forwards), mounts=mounts if same else vm.mounts)


def detach(record: Record, *, force: bool = False) -> None:
    """Write out what the guest has, and unmount its folder devices. Raises `machine.folder-busy`, all as it was."""
    mounts = hardware.last(record).plugged
    lines = [f"force={'1' if force else ''}", *_calls("detach", reversed(mounts))]
    try:
        busy = _as_root(record, _DETACH + "\n".join(lines))
    except DevboxError:
        if mounts:
            raise
        busy = []  # A guest that does not answer, as while it boots, can be saved all the same.
    if busy:
        attach(record)
        raise DevboxError(
            "machine.folder-busy",
            f"A synced folder cannot be taken out of the machine meanwhile: {'; '.join(busy)}.",
            hint="End these programs, or leave the folder; --force takes it away from them.",
        )
    openssh.drop_control(record.dir.ssh_config, openssh.host_alias(record.name))


def shut_down_first(record: Record, *, force: bool) -> None:
    """Before a machine is stopped: a suspended one wakes, to be shut down in good order, or loses its memory."""
    suspend.end_half_woken(record)
    if lifecycle.observe(record).state is not State.SUSPENDED:
        return
    if force:
        dormant.forget(record.dir)
        ui.warn("The saved memory was given up; the disk stays as it was at that moment.")
    else:
        wake(record, folders=False)


def _calls(function: str, mounts: Iterable[Mount]) -> Sequence[str]:
    return [f"{function} {shlex.quote(mount.tag)} {shlex.quote(str(mount.guest))}" for mount in mounts]


def _as_root(record: Record, script: str) -> list[str]:
    """What the script says, line by line. Raises `guest.no-answer`."""
    seen = lifecycle.observe(record)
    where = session.endpoint(record, seen)
    config = record.dir.ssh_config
    agent = config.exists() and "ForwardAgent yes" in config.read_text()
    host_name = openssh.write_ssh_config(config, where, record.name, record.dir.runtime, forward_agent=agent)
    argv = openssh.ssh_argv(config, host_name, "sudo -n sh")
    done = proc.run(argv, input=script.encode(), timeout=_PATIENCE)
    if done.status != 0:
        raise DevboxError(
            "guest.no-answer",
            "The guest does not answer over SSH.",
            hint="See what it does with `devbox logs --serial`.",
            details=done.error_text,
        )
    return [line for line in done.text.splitlines() if line]
