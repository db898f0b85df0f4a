"""Starts QEMU for a machine, and waits until it answers; says why when it does not.

The caller holds the machine's lock and has seen that nothing runs. A second start would be refused by the lock that
QEMU takes on its pidfile, before it touches a socket or the disk.
"""

import os
import re
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from devbox import fs, proc, ui
from devbox.disk import chain
from devbox.errors import DevboxError
from devbox.machine import argv, dormant, hardware, liveness, virtiofsd
from devbox.machine.argv import VmSpec
from devbox.machine.host import HostFacts
from devbox.machine.process import Process

_LOG_LIMIT = 1 << 20
_DEADLINE = 60.0  # seconds until QEMU answers; it needs 0.1 s, but a busy disk may hold it up


def start(vm: VmSpec, facts: HostFacts) -> liveness.Peek:
    """Start QEMU, and return what it says about itself. Raises one of `explain`'s errors when it ends instead."""
    fs.make_private_dir(vm.dir.runtime)
    if not vm.incoming and dormant.forget(vm.dir):
        ui.warn("The memory of the suspended machine was given up: its disk boots.")
    if argv.uses_uefi(vm):
        _provide_firmware_vars(vm, facts)
    command = argv.build(replace(vm, disk=chain.active(vm.dir)), facts)
    hardware.remember(vm, command)
    begin = _open_log(vm.dir.qemu_log)
    virtiofsd.end_leftovers(vm.dir.runtime)
    if vm.incoming and vm.plugged:
        dormant.unplugged(vm.dir).touch()  # or a kill before they are plugged in would leave it without them
    helpers = virtiofsd.start(vm, facts, vm.dir.qemu_log)
    try:
        with vm.dir.qemu_log.open("ab") as log:
            pid = proc.start(command, log=log)
        fs.append_event(vm.dir.log, event="start", pid=pid, accelerator=str(facts.accelerator))
        return _first_answer(vm, pid, begin)
    except BaseException:
        for helper in helpers:  # nobody will ever connect to them
            with Process(helper) as process:
                process.kill()
        raise


def _first_answer(vm: VmSpec, pid: int, log_begin: int) -> liveness.Peek:
    deadline = time.monotonic() + _DEADLINE
    with Process(pid) as qemu:
        while time.monotonic() < deadline:
            if (seen := liveness.peek(vm.dir.status)) and seen.uuid == vm.uuid and seen.pid in (pid, None):
                return seen  # Another start's QEMU may answer too: ours then ends by the lock on the pidfile, below.
            if qemu.wait(0.02):
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                raise explain(_tail(vm.dir.qemu_log, log_begin), status)
        qemu.kill()
    raise DevboxError(
        "machine.start-failed",
        f"QEMU was started, but did not answer within {_DEADLINE:.0f} s, and was stopped.",
        details=_tail(vm.dir.qemu_log, log_begin),
    )


def _provide_firmware_vars(vm: VmSpec, facts: HostFacts) -> None:
    """Each machine keeps boot entries of its own: a copy of the template, made once."""
    if vm.dir.firmware_vars.exists() or facts.firmware_vars is None:
        return
    with tempfile.TemporaryDirectory(prefix=".vars-", dir=vm.dir.folder) as aside:
        copy = Path(aside) / "vars"
        shutil.copyfile(facts.firmware_vars, copy)
        copy.chmod(0o600)
        fs.publish(copy, vm.dir.firmware_vars)


def _open_log(log: Path) -> int:
    """Where this start's lines will begin. The earlier ones stay, as they tell why the machine ended last time."""
    log.touch(mode=0o600)
    if log.stat().st_size > _LOG_LIMIT:
        os.truncate(log, 0)
    return log.stat().st_size


def _tail(log: Path, begin: int) -> str:
    try:
        return ui.clean(log.read_bytes()[begin:][-4000:].decode(errors="replace")).strip()
    except OSError:
        return ""


def explain(text: str, status: int) -> DevboxError:
    """QEMU's last words as one of our errors. Pure. `status` is its exit status, negative for a signal."""
    if rule := re.search(r"Could not set up host forwarding rule '(?:tcp|udp):([^']*):(\d+)-", text):
        return DevboxError(
            "machine.port-taken",
            f"Port {rule[2]} of {rule[1]} on this computer is taken, or you may not listen on it.",
            hint="Choose another under `ports:` in the Devboxfile, or end the program that has it.",
            details=text,
        )
    for pattern, id, message, hint in _EXPLAINED:
        if re.search(pattern, text):
            return DevboxError(id, message, hint=hint, details=text)
    lines = [line for line in text.splitlines() if line.strip()]
    how = f"by signal {-status}" if status < 0 else f"with status {status}"
    last = re.sub(r"^\S*qemu-system-\w+: ", "", lines[-1]) if lines else "it printed nothing"
    return DevboxError("machine.start-failed", f"QEMU ended {how}: {last}", details=text)


_EXPLAINED = (
    (
        r"cannot create PID file|[Cc]annot lock pid file",
        "machine.starting",
        "Another start of this machine is under way.",
        "Wait for it, then look with `devbox status`.",
    ),
    (
        r'Failed to get "?\w+"? lock|Is another process using the image',
        "machine.disk-locked",
        "Another process has this machine's disk open.",
        "End that program (qemu-img, qemu-nbd, another QEMU), then try again.",
    ),
    (
        r"[Cc]annot set up guest memory|[Cc]annot allocate memory|failed to allocate",
        "machine.no-memory",
        "This computer has not enough free memory for the machine.",
        "Lower `memory:` in the Devboxfile, or stop something else.",
    ),
    (
        r"KVM internal error|initialize (KVM|kvm)|access KVM|MSR 0x|\bHVF?_|\bhvf\b",
        "machine.accelerator",
        "Hardware acceleration failed when the machine started.",
        "Try `devbox up --accel tcg`.",
    ),
    (
        r"No space left on device",
        "machine.host-disk-full",
        "This computer's disk is full.",
        "Free some space, then run `devbox up` again; `devbox gc` frees what no machine uses.",
    ),
)
