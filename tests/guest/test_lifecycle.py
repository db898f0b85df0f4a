"""The life of a machine under the real QEMU, and the faults it must survive. Nothing is lost, nobody else is hurt."""

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from devbox import fs, paths
from devbox.config.model import Arch, Firmware, FolderType, Network
from devbox.disk import record as records
from devbox.errors import DevboxError
from devbox.machine import accelerator, argv, lifecycle, liveness, start
from devbox.machine.accelerator import Accelerator
from devbox.machine.lifecycle import State
from devbox.share.folders import Mount
from devbox.share.ports import Forward
from tests.guest.conftest import Machine, host_facts

pytestmark = pytest.mark.guest
NewMachine = Callable[..., Machine]


def state(machine: Machine) -> State:
    return lifecycle.observe(machine.record).state


def until(holds: Callable[[], bool], *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_from_start_to_halt_and_again(machine: Machine) -> None:
    port = free_port()
    running = machine.boot(forwards=(Forward("tcp", "127.0.0.1", port, 8000),))
    seen = running.observation
    assert running.fresh
    assert seen.pid == machine.qemu()
    assert [(forward.host, forward.guest) for forward in seen.forwards] == [(port, 8000)]
    with records.locked(machine.record):
        assert state(machine) is State.RUNNING, "seen while another command holds the lock"
    again = machine.start()
    assert (again.fresh, again.observation.pid) == (False, seen.pid)
    assert machine.record.dir.serial_log.stat().st_mode & 0o777 == 0o600

    machine.ssh("echo kept > /home/dev/file && sync")
    assert lifecycle.halt(machine.record) is True
    stopped = [json.loads(line) for line in machine.record.dir.log.read_text().splitlines()][-1]
    assert (stopped["event"], stopped["by"]) == ("stopped", "power button")
    assert (state(machine), machine.qemu()) == (State.STOPPED, None)
    assert not machine.record.dir.runtime.exists()
    assert lifecycle.halt(machine.record) is False, "a second halt has nothing to do"

    machine.boot()
    assert machine.ssh("cat /home/dev/file") == "kept\n"
    assert lifecycle.halt(machine.record, guest_poweroff=lambda: pytest.fail("the button comes first")) is True


def test_kill_9_leaves_nothing_stale(machine: Machine) -> None:
    first = machine.start().observation.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    os.waitpid(first, 0)
    assert machine.record.dir.status.exists(), "what it left behind lies there"
    assert machine.record.dir.pidfile.read_text().strip() == str(first)
    assert state(machine) is State.STOPPED
    second = machine.start()
    assert second.fresh
    assert second.observation.pid not in {first, None}


def test_two_starts_at_once_make_one_machine(machine: Machine) -> None:
    """Even without the machine's lock, which the commands hold."""
    outcomes: list[str] = []

    def begin() -> None:
        try:
            outcomes.append(str(start.start(machine.vm, machine.facts).pid))
        except DevboxError as refused:
            outcomes.append(refused.id)

    threads = [threading.Thread(target=begin) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(outcomes) <= {str(machine.qemu()), "machine.starting"}
    assert str(machine.qemu()) in outcomes
    assert state(machine) is State.RUNNING


def test_a_second_start_waits_for_its_own_qemu_to_end(machine: Machine) -> None:
    """Else that one, slow on a busy computer, would take the machine over as soon as the first has stopped."""
    first = start.start(machine.vm, machine.facts)
    with pytest.raises(DevboxError) as caught:
        start.start(machine.vm, machine.facts)
    assert caught.value.id == "machine.starting"
    assert machine.qemu() == first.pid
    lifecycle.halt(machine.record, force=True)
    assert machine.qemu() is None


def test_a_hung_qemu_is_told_and_can_be_ended(machine: Machine) -> None:
    pid = machine.start().observation.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    seen = lifecycle.observe(machine.record)
    assert (seen.state, seen.pid) == (State.NOT_ANSWERING, pid)
    with pytest.raises(DevboxError) as caught:
        machine.start()
    assert caught.value.id == "machine.not-answering"
    assert "halt --force" in caught.value.hint
    lifecycle.halt(machine.record, force=True)
    assert (state(machine), machine.qemu()) == (State.STOPPED, None)


def test_a_swept_runtime_folder(machine: Machine) -> None:
    """As a cleaner of temporary files does it: no socket and no pid file, and a QEMU that goes on."""
    machine.start()
    shutil.rmtree(machine.record.dir.runtime)
    assert state(machine) is State.NOT_ANSWERING
    with pytest.raises(DevboxError):
        machine.start()
    lifecycle.halt(machine.record, force=True)
    assert (state(machine), machine.qemu()) == (State.STOPPED, None)
    assert machine.start().fresh


def test_destroy_takes_only_its_own(new_machine: NewMachine) -> None:
    one, other = new_machine("one"), new_machine("other")
    one.start()
    pid = other.start().observation.pid
    lifecycle.destroy(one.record)
    assert state(one) is State.MISSING
    assert one.qemu() is None
    assert not one.record.dir.runtime.exists()
    assert [entry.name.endswith(one.record.id) for entry in paths.trash_dir().iterdir()] == [True]
    assert lifecycle.observe(other.record).pid == pid


def test_a_recycled_pid_is_not_killed(machine: Machine) -> None:
    fs.make_private_dir(machine.record.dir.runtime)
    with subprocess.Popen(["sleep", "60"]) as bystander:
        machine.record.dir.pidfile.write_text(f"{bystander.pid}\n")
        assert lifecycle.halt(machine.record, force=True) is False
        lifecycle.destroy(machine.record)
        assert bystander.poll() is None
        bystander.kill()


def test_a_taken_port_is_named(machine: Machine) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen(1)
        port = holder.getsockname()[1]
        with pytest.raises(DevboxError, match=str(port)) as caught:
            machine.start(forwards=(Forward("tcp", "127.0.0.1", port, 80),))
    assert caught.value.id == "machine.port-taken"
    assert (state(machine), machine.qemu()) == (State.STOPPED, None)


def test_a_disk_in_use_is_said(machine: Machine) -> None:
    other = replace(machine.vm, uuid=machine.record.uuid[:-4] + "0000")
    words = list(argv.build(other, machine.facts))
    del words[words.index("-pidfile") :]
    place = machine.record.dir.runtime
    fs.make_private_dir(place)
    with subprocess.Popen(words) as user:
        try:
            while not liveness.image_locked(machine.record.dir.disk):
                assert user.poll() is None
            seen = lifecycle.observe(machine.record)
            assert seen.state is State.NOT_ANSWERING
            with pytest.raises(DevboxError) as caught:
                start.start(machine.vm, machine.facts)
            assert caught.value.id == "machine.disk-locked"
            with pytest.raises(DevboxError) as caught:
                lifecycle.halt(machine.record, force=True)
            assert caught.value.id == "machine.disk-locked"
            assert user.poll() is None, "it is not ours to end"
        finally:
            user.kill()


@pytest.fixture
def small_disk(new_machine: NewMachine) -> Iterator[tuple[Machine, Path]]:
    """A machine whose folder lies on a file system with 24 MiB to spare."""
    machine = new_machine("small", network=Network.NONE)
    folder = machine.record.dir.folder
    kept = folder.with_name(".aside")
    folder.rename(kept)
    folder.mkdir()
    mebibytes = ((kept / machine.record.image).stat().st_size >> 20) + 24
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m,mode=0700", "tmpfs", folder], check=False
    )
    if mounted.returncode != 0:
        kept.rename(folder)
        pytest.skip("no file system can be mounted here")
    shutil.copytree(kept, folder, dirs_exist_ok=True)
    yield machine, folder
    lifecycle.halt(machine.record, force=True)
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_pauses_and_resumes(small_disk: tuple[Machine, Path]) -> None:
    machine, folder = small_disk
    machine.boot()
    machine.ssh("nohup dd if=/dev/urandom of=/home/dev/big bs=1M count=64 conv=fsync >/dev/null 2>&1 </dev/null &")
    until(lambda: state(machine) is State.PAUSED)
    seen = lifecycle.observe(machine.record)
    assert (seen.state, seen.reason) == (State.PAUSED, "host disk full")
    with pytest.raises(DevboxError, match="still full") as caught:
        machine.start()
    assert caught.value.id == "machine.paused"
    subprocess.run(["mount", "-o", "remount,size=1g", folder], check=True)
    lifecycle.resume(machine.record)
    assert state(machine) is State.RUNNING
    machine.ssh("while pgrep -u dev -x dd; do sleep 0.2; done; sync")
    assert machine.ssh("stat -c %s /home/dev/big") == f"{64 << 20}\n", "nothing of it is lost"


def test_a_shared_folder_and_its_helper(machine: Machine, tmp_path: Path) -> None:
    facts = machine.facts
    if facts.virtiofsd is None or not (facts.virtiofsd_unprivileged or facts.uid == 0):
        pytest.skip("no virtiofsd that works here")
    shared = tmp_path / 'shared, "odd" folder\'s'
    shared.mkdir()
    (shared / "from-host").write_text("hello")
    mount = Mount("devboxtest", shared, PurePosixPath("/mnt"), FolderType.VIRTIOFS)
    machine.boot(mounts=(mount,))
    machine.ssh("sudo mount -t virtiofs devboxtest /mnt && sudo cp /mnt/from-host /mnt/from-guest")
    assert (shared / "from-guest").read_text() == "hello"
    assert helpers(shared)
    pid = machine.qemu()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: not helpers(shared))


def helpers(shared: Path) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if b"virtiofsd" in words and b"odd" in words and os.fsencode(shared.parent) in words:
            found.append(int(entry.name))
    return found


def test_uefi(new_machine: NewMachine) -> None:
    machine = new_machine("uefi", firmware=Firmware.UEFI)
    if machine.facts.firmware_code is None:
        pytest.skip("no UEFI firmware is installed")
    machine.start()
    # The tiny guest has no boot loader for UEFI, so the firmware ends in its own shell.
    until(lambda: b"UEFI" in machine.record.dir.serial_log.read_bytes())
    assert machine.record.dir.firmware_vars.stat().st_mode & 0o777 == 0o600


def test_network_none_is_closed_and_ssh_still_works(machine: Machine) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(4)
        port = listener.getsockname()[1]
        machine.vm = replace(machine.vm, network=Network.NONE)
        machine.boot()
        tried = machine.ssh(f"timeout 3 busybox nc 10.0.2.2 {port} </dev/null && echo open || echo closed")
    assert tried == "closed\n"


@pytest.mark.parametrize("arch", list(Arch))
def test_the_probe_really_boots(arch: Arch) -> None:
    try:
        facts = host_facts(arch)
    except DevboxError as missing:
        pytest.skip(missing.message)
    fs.make_private_dir(paths.runtime_root())
    verdict = accelerator.boot(facts.qemu, arch, Accelerator.TCG, deadline=60)
    assert verdict == accelerator.Verdict(works=True, reason="", seconds=verdict.seconds)
    assert (facts.accelerator is Accelerator.TCG) == bool(facts.accelerator_reason)
    assert (facts.accelerator is Accelerator.TCG) == (facts.slowdown > 1)


def test_qemu_takes_the_arguments_for_aarch64(new_machine: NewMachine) -> None:
    """No guest is booted: the machine model, its firmware and its devices have to be accepted."""
    machine = new_machine("arm")
    try:
        machine.facts = host_facts(Arch.AARCH64)
    except DevboxError as missing:
        pytest.skip(missing.message)
    if machine.facts.firmware_code is None:
        pytest.skip("no UEFI firmware is installed")
    machine.vm = replace(machine.vm, arch=Arch.AARCH64, machine_type="virt", firmware=Firmware.UEFI)
    assert machine.start().observation.state is State.RUNNING
