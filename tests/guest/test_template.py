"""Warm starts: a machine that goes on from another one's memory, and leaves both as they were."""

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from devbox import fs
from devbox.commands import up
from devbox.config.model import FolderType
from devbox.errors import DevboxError
from devbox.machine import dormant, lifecycle, memory, ram, start, template
from devbox.machine.qmp import Qmp
from devbox.machine.ram import RamFile
from devbox.machine.template import Template
from devbox.share.folders import Mount
from tests.guest.conftest import SSH_WAIT, Machine

pytestmark = pytest.mark.guest

COUNTER = "(i=0; while :; do i=$((i+1)); echo $i >/tmp/n; sleep 0.1; done) >/dev/null 2>&1 &"
LAYER = "ab" * 32


def count(machine: Machine) -> int:
    return int(machine.ssh('until n=$(cat /tmp/n) && [ "$n" ]; do :; done; echo "$n"', wait=30))


def templated(parent: Machine, disk: Path, *, size: int) -> Template:
    """The memory of the booted machine, saved while it stands still, with its disk as it was at that instant."""
    wanted = template.kind(parent.vm, parent.facts)
    with ram.fresh(size) as memory:
        vm = replace(parent.vm, ram=memory.ram if memory else None)
        lifecycle.ensure_running(parent.record, vm, parent.facts)
        parent.ssh("true", wait=SSH_WAIT)
        parent.ssh(COUNTER)
        parent.ssh("cat /proc/sys/kernel/random/boot_id")  # the kernel makes it when it is first asked
        parent.ssh("until [ -s /tmp/n ]; do sleep 0.1; done; sync")
        with Qmp(parent.record.dir.qmp, timeout=60) as qmp:
            qmp.execute("stop")
            shutil.copyfile(parent.record.dir.disk, disk)
            aside = template.save(qmp, memory)
            qmp.execute("cont")
            left = {one["capability"]: one["state"] for one in qmp.execute("query-migrate-capabilities")}
    assert not left["x-ignore-shared"]  # or a later `suspend` would save a machine without its memory
    return template.publish(aside, LAYER, wanted, label="a test")


def go_on(fork: Machine, made: Template, disk: Path, own: RamFile | None = None) -> None:
    shutil.copyfile(disk, fork.record.dir.disk)
    start.start(template.mapped(made, fork.vm, own), fork.facts)
    with Qmp(fork.record.dir.qmp, timeout=60) as qmp:
        template.load(qmp, made)
        qmp.execute("cont")


@pytest.mark.parametrize("streamed", [False, True])
def test_forks_go_on_where_their_template_stood(
    new_machine: Callable[..., Machine],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    streamed: bool,  # noqa: FBT001
) -> None:
    monkeypatch.setenv("DEVBOX_CACHE_DIR", str(tmp_path / "cache"))
    parent, first, second = (new_machine(name) for name in ("parent", "first", "second"))
    made = templated(parent, tmp_path / "disk", size=1 << 60 if streamed else parent.vm.memory)
    assert made.streamed is streamed
    before = [fs.sha256_file(file) for file in sorted(made.folder.iterdir())]
    for fork in (first, second):
        # Until their identity is renewed they have their parent's keys.
        for name in ("id_ed25519", "known_hosts"):
            shutil.copyfile(parent.record.dir.folder / name, fork.record.dir.folder / name)
        # The second one has a memory that others can map too, as a machine with folders needs it.
        with ram.fresh(fork.vm.memory if fork is second else 1 << 60) as own:
            go_on(fork, made, tmp_path / "disk", own)
    assert all(count(machine) > 0 for machine in (parent, first, second))
    first.ssh("echo mine >/tmp/mine")
    second.ssh("test ! -e /tmp/mine")
    parent.ssh("test ! -e /tmp/mine")
    boots = {machine.ssh("cat /proc/sys/kernel/random/boot_id") for machine in (parent, first, second)}
    assert len(boots) == 1  # none of them has booted since
    then = count(parent)
    time.sleep(0.3)
    assert count(parent) > then
    assert [fs.sha256_file(file) for file in sorted(made.folder.iterdir())] == before

    like = replace(first.vm, mac=parent.vm.mac)  # which the guest's network goes by, so a fork takes it over
    wanted = template.kind(like, first.facts)
    assert template.find(LAYER, wanted) == made
    larger = template.kind(replace(like, memory=512 << 20), first.facts)
    assert template.find(LAYER, larger) is None
    assert template.why_none(LAYER, larger) == "memory 256MiB → 512MiB"
    assert template.why_none("cd" * 32, wanted) == ""


def test_a_memory_that_does_not_fit_is_refused(new_machine: Callable[..., Machine], tmp_path: Path) -> None:
    """QEMU itself says no where our own comparison should have: nothing runs then, and the disk is as it was."""
    fork = new_machine()
    folder = tmp_path / "template"
    folder.mkdir()
    (folder / "state").write_bytes(b"no migration stream")
    (folder / "ram").write_bytes(b"")
    with (folder / "ram").open("r+b") as memory:
        memory.truncate(fork.vm.memory)
    before = fs.sha256_file(fork.record.dir.disk)
    start.start(template.mapped(Template(folder, LAYER, {}), fork.vm), fork.facts)
    with pytest.raises(DevboxError) as refused, Qmp(fork.record.dir.qmp) as qmp:
        template.load(qmp, Template(folder, LAYER, {}))
    assert refused.value.id == "machine.memory-load"
    lifecycle.halt(fork.record, force=True)
    assert fs.sha256_file(fork.record.dir.disk) == before


def test_a_machine_that_a_kill_left_waiting_for_a_memory_is_started_anew(
    new_machine: Callable[..., Machine], tmp_path: Path
) -> None:
    machine = new_machine()
    record, mount = machine.record, Mount("one", tmp_path, PurePosixPath("/one"), FolderType.NINEP)
    start.start(replace(machine.vm, incoming=True, mounts=(mount,)), machine.facts)
    assert dormant.incomplete(record.dir)  # its folder is not plugged in yet
    assert lifecycle.observe(record).state is lifecycle.State.PAUSED
    up._virtual_machine(record, machine.spec, machine.facts)
    assert lifecycle.observe(record).state is lifecycle.State.STOPPED
    assert not dormant.incomplete(record.dir)


def test_a_capability_that_a_kill_has_left_on_is_not_used(new_machine: Callable[..., Machine], tmp_path: Path) -> None:
    machine = new_machine()
    with ram.fresh(machine.vm.memory) as own:
        assert own
        lifecycle.ensure_running(machine.record, replace(machine.vm, ram=own.ram), machine.facts)
        machine.ssh("true", wait=SSH_WAIT)
        with Qmp(machine.record.dir.qmp, timeout=60) as qmp:
            qmp.execute("stop")
            memory.save(qmp, tmp_path / "devices", capabilities=(memory.WITHOUT_RAM,))
            qmp.execute("cont")
            qmp.execute("stop")
            memory.save(qmp, tmp_path / "all")
    assert (tmp_path / "all").stat().st_size > 4 * (tmp_path / "devices").stat().st_size
