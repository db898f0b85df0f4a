"""Cuts of a disk that a real QEMU has open; no guest runs in it, its writes come through the monitor."""

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from devbox import fs, proc
from devbox.disk import chain, overlay
from devbox.disk.record import Record
from devbox.errors import DevboxError
from devbox.machine import argv, cut
from devbox.machine.qmp import Qmp
from tests.unit.disk import machines


class Killed(BaseException):
    """What stands for kill -9: nothing catches it."""


class Bare:
    """QEMU with the machine's disk and nothing else."""

    def __init__(self, record: Record) -> None:
        self.record = record
        disk = json.dumps(argv.disk_node(chain.active(record.dir), "disk", system="linux"))
        device = json.dumps({"driver": "virtio-blk-pci", "id": "vda", "drive": "disk"})
        words = ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-S", "-m", "32", "-accel", "tcg"]
        words += ["-blockdev", disk, "-device", device, "-qmp", f"unix:{record.dir.qmp},server=on,wait=off"]
        self.output = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(words, stdout=self.output)
        deadline = time.monotonic() + 30
        while True:
            try:
                self.qmp = Qmp(record.dir.qmp, timeout=30).__enter__()
                return
            except DevboxError:
                assert self.process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)

    def write(self, pattern: int, at: int) -> None:
        device = "/machine/peripheral/vda/virtio-backend"
        assert self.qmp.human(f'qemu-io -d {device} "write -P {pattern} {at}M 1M"') == ""

    def reads(self, pattern: int, at: int) -> bool:
        """Whether the guest would read this; QEMU says so on its own output."""
        device = "/machine/peripheral/vda/virtio-backend"
        self.qmp.human(f'qemu-io -d {device} "read -P {pattern} {at}M 1M"')
        return "failed" not in os.pread(self.output.fileno(), 1 << 20, 0).decode()

    def opened(self) -> set[int]:
        """The inodes of the disks' files that QEMU has open."""
        folder = os.fspath(self.record.dir.folder)
        links = Path(f"/proc/{self.process.pid}/fd").iterdir()
        return {link.stat().st_ino for link in links if os.fspath(link.readlink()).startswith(folder)}

    def stop(self) -> None:
        self.qmp.execute("quit")
        self.process.wait(30)
        self.qmp.__exit__(None, None, None)
        self.output.close()
        self.record.dir.qmp.unlink(missing_ok=True)


def holds(disk: Path, pattern: int, at: int) -> bool:
    tool = proc.find_tool("qemu-io")
    done = proc.run([tool, "-r", "-f", "qcow2", "-c", f"read -P {pattern} {at}M 1M", disk], timeout=60)
    return done.status == 0 and b"verification failed" not in done.stdout + done.stderr


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Record]:
    runtime = Path(tempfile.mkdtemp(prefix="d", dir="/tmp"))
    monkeypatch.setenv("DEVBOX_RUNTIME_DIR", os.fspath(runtime))
    made, image = machines.record(tmp_path)
    overlay.ensure(made, image)
    fs.make_private_dir(made.dir.runtime)
    yield made
    shutil.rmtree(runtime, ignore_errors=True)


@pytest.fixture
def start(record: Record) -> Iterator[Callable[[], Bare]]:
    made: list[Bare] = []

    def start() -> Bare:
        made.append(Bare(record))
        return made[-1]

    yield start
    for one in made:
        if one.process.poll() is None:
            one.stop()


def names(record: Record) -> list[str]:
    return [path.name for path in chain.parents(record.dir)]


def test_two_cuts_and_what_was_written_between_them(record: Record, start: Callable[[], Bare]) -> None:
    qemu = start()
    found: list[str] = []
    for number in (1, 2):
        qemu.write(number, number)
        frozen = cut.freeze(record, qemu.qmp)
        digest = fs.sha256_file(frozen)
        parent = cut.settle(record, qemu.qmp, frozen, digest)
        qemu.write(number + 10, number + 10)
        assert fs.sha256_file(parent) == digest, "somebody still writes to the frozen file"
        found.insert(0, digest)
        assert holds(parent, number, number)
        assert not holds(parent, number + 10, number + 10)
    assert names(record) == [*found, record.image]
    assert list(record.dir.folder.glob("disk-*")) == [chain.active(record.dir)]
    assert qemu.opened() == {record.dir.disk.stat().st_ino, *(path.stat().st_ino for path in chain.parents(record.dir))}
    assert all(qemu.reads(number, number) for number in (1, 2, 11, 12))
    assert not qemu.reads(9, 1)
    qemu.stop()
    assert all(holds(record.dir.disk, number, number) for number in (1, 2, 11, 12))
    assert [fs.sha256_file(record.dir.parent(digest)) for digest in found] == found
    assert cut.active_node(start().qmp) == "disk"


def test_the_machine_stands_still_while_its_memory_is_saved(record: Record, start: Callable[[], Bare]) -> None:
    qemu = start()
    qemu.qmp.execute("cont")
    seen: list[Any] = []

    def look() -> None:
        seen.extend((qemu.qmp.execute("query-status")["status"], names(record)[0], cut.active_node(qemu.qmp)))

    frozen = cut.freeze(record, qemu.qmp, while_stopped=look)
    assert seen == ["paused", frozen.name, cut.active_node(qemu.qmp)]
    assert qemu.qmp.execute("query-status")["status"] == "running"


def test_another_machine_can_stand_on_the_frozen_file_at_once(record: Record, start: Callable[[], Bare]) -> None:
    qemu = start()
    frozen = cut.freeze(record, qemu.qmp)
    assert proc.run([proc.find_tool("qemu-img"), "check", "-q", frozen], timeout=60).status == 0, "it is locked"


def test_what_qemu_refuses_leaves_the_disk_as_it_was(
    record: Record, start: Callable[[], Bare], monkeypatch: pytest.MonkeyPatch
) -> None:
    qemu = start()
    qemu.write(1, 1)
    before = chain.active(record.dir)
    monkeypatch.setattr(argv, "disk_node", lambda *_, **__: {"driver": "no such driver", "node-name": "x"})
    with pytest.raises(DevboxError):
        cut.freeze(record, qemu.qmp)
    assert chain.active(record.dir) == before
    assert list(record.dir.folder.glob("disk-*")) == [before]


POINTS = (
    "overlay",
    "activate",
    "blockdev-add",
    "blockdev-snapshot",
    "snapshot-done",
    "hold",
    "change-backing-file",
    "dropping",
)


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_any_point_loses_nothing(
    record: Record, start: Callable[[], Bare], monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    qemu = start()
    qemu.write(1, 1)
    execute, hold, put_above, sweep = qemu.qmp.execute, overlay.hold, overlay.put_above, chain.sweep
    armed = [True]

    def killed(here: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def maybe(*words: Any, **named: Any) -> Any:
            if armed and (here or words[0]) == point:
                armed.clear()
                raise Killed
            return work(*words, **named)

        return maybe

    activate = chain.activate
    with monkeypatch.context() as patched:
        patched.setattr(qemu.qmp, "execute", killed("", execute))
        patched.setattr(overlay, "put_above", killed("overlay", put_above))
        patched.setattr(overlay, "hold", killed("hold", hold))
        patched.setattr(chain, "activate", killed("activate", activate))
        with suppress(Killed):
            frozen = cut.freeze(record, qemu.qmp)
            if point != "snapshot-done":
                patched.setattr(chain, "sweep", killed("dropping", sweep))
                cut.settle(record, qemu.qmp, frozen, fs.sha256_file(frozen))
                raise AssertionError("it was not killed")
    qemu.write(2, 2)
    assert qemu.reads(1, 1)
    assert chain.missing(record.dir, record.image) is None
    before_the_snapshot = point in {"blockdev-add", "blockdev-snapshot"}
    if before_the_snapshot:
        with pytest.raises(DevboxError, match="broken off"):
            cut.freeze(record, qemu.qmp)
    qemu.stop()
    assert holds(record.dir.disk, 1, 1)
    assert holds(record.dir.disk, 2, 2)
    again = start()
    again.write(3, 3)
    frozen = cut.freeze(record, again.qmp)
    cut.settle(record, again.qmp, frozen, fs.sha256_file(frozen))
    again.write(4, 4)
    again.stop()
    assert all(holds(record.dir.disk, number, number) for number in (1, 2, 3, 4))
    own = [chain.active(record.dir).name, *(name for name in names(record) if name.startswith("disk-"))]
    assert sorted(path.name for path in record.dir.folder.glob("disk-*")) == sorted(own)
