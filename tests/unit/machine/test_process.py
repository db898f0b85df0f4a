"""A process is waited for and killed through a handle that can mean no other one."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from devbox.machine import process
from devbox.machine.process import Process

UUID = "11111111-2222-3333-4444-555555555555"


@contextmanager
def child(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    code = "import sys; print(flush=True); sys.stdin.read()"
    words = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as started:
        assert started.stdout is not None
        started.stdout.readline()
        yield started
        started.kill()


def test_wait_and_kill() -> None:
    with child() as started, Process(started.pid) as handle:
        assert not handle.wait(0.05)
        handle.kill()
        assert handle.wait(5)
        assert started.wait() == -9
        handle.kill()
        assert handle.wait(0), "once ended, always ended"


def test_one_that_ended_before() -> None:
    with child() as started:
        started.kill()
        started.wait()
        with Process(started.pid) as handle:
            assert handle.wait(0)
            assert not handle.is_qemu_of(UUID)
            handle.kill()


def test_identity() -> None:
    with child("-uuid", UUID) as ours, child(UUID, "-uuid", "another") as other:
        with Process(ours.pid) as handle:
            assert handle.is_qemu_of(UUID)
            assert not handle.is_qemu_of(UUID[:-1] + "6")
        with Process(other.pid) as handle:
            assert not handle.is_qemu_of(UUID)
        assert process.find_qemu(UUID) == ours.pid
    assert process.find_qemu(UUID) is None


def test_a_zombie_is_no_machine() -> None:
    with child("-uuid", UUID) as started, Process(started.pid) as handle:
        os.kill(started.pid, 9)
        assert handle.wait(5)
        assert Path(f"/proc/{started.pid}").exists(), "not reaped yet"
        assert not handle.is_qemu_of(UUID)


@pytest.mark.skipif(sys.platform != "linux", reason="the fallback is for others")
def test_without_pidfd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_PLATFORM", "darwin")
    with child("-uuid", UUID) as started, Process(started.pid) as handle:
        assert not handle.wait(0.05)
        assert handle.is_qemu_of(UUID), "asked of ps"
        handle.kill()
        started.wait()
        assert handle.wait(5)
