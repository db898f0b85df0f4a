"""The state of a machine is derived from what is there: sockets, locks and files, in that order."""

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from devbox import fs
from devbox.disk.record import Record
from devbox.errors import DevboxError
from devbox.machine import lifecycle
from devbox.machine.lifecycle import Observation, State
from tests.unit.disk import machines
from tests.unit.machine import peers
from tests.unit.machine.test_liveness import HOLD


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Record]:
    made = replace(machines.RECORD, project=tmp_path, uuid=peers.UUID)
    fs.make_private_dir(made.dir.folder)
    fs.make_private_dir(made.dir.runtime)
    made.dir.record.write_text("{}")
    yield made
    shutil.rmtree(made.dir.runtime, ignore_errors=True)


def observe(record: Record, **answers: Any) -> Observation:
    with peers.listening(record.dir.status, peers.answering(**answers)):
        return lifecycle.observe(record)


def paused(status: str) -> dict[str, object]:
    return {"status": status, "running": False}


def test_without_a_process(record: Record) -> None:
    assert lifecycle.observe(record).state is State.STOPPED
    record.dir.disk.write_bytes(b"QFI\xfb")
    seen = lifecycle.observe(record)
    assert seen.state is State.DAMAGED
    assert record.image in seen.reason
    record.dir.base.write_bytes(b"")
    record.dir.pidfile.write_text("1\n")
    record.dir.status.touch()
    assert lifecycle.observe(record).state is State.STOPPED, "files that a killed QEMU left mean nothing"
    shutil.rmtree(record.dir.folder)
    assert lifecycle.observe(record).state is State.MISSING


def test_what_qemu_says(record: Record) -> None:
    running = observe(record)
    assert (running.state, running.ssh_port) == (State.RUNNING, 35197)
    assert [forward.host for forward in running.forwards] == [8022, 60638]
    full = observe(record, query_status=paused("io-error"), query_block=[{"io-status": "nospace"}])
    assert (full.state, full.reason) == (State.PAUSED, "host disk full")
    assert "panicked" in observe(record, query_status=paused("guest-panicked")).reason
    assert observe(record, query_status=paused("paused")) == Observation(
        State.PAUSED, "", running.pid, running.ssh_port, running.forwards
    )


def test_another_machine_on_our_socket_is_not_ours(record: Record) -> None:
    assert observe(record, query_uuid={"UUID": "other"}).state is State.STOPPED


def test_a_hung_qemu_is_shown_as_such(record: Record) -> None:
    record.dir.pidfile.write_bytes(b"1\n")
    words = [sys.executable, "-c", HOLD, str(record.dir.pidfile), "0", "0"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with socket.socket(socket.AF_UNIX) as hung:
            hung.bind(str(record.dir.status))
            hung.listen(1)
            seen = lifecycle.observe(record)
        holder.kill()
    assert (seen.state, seen.pid) == (State.NOT_ANSWERING, holder.pid)


def test_a_foreign_process_is_never_signalled(record: Record) -> None:
    """It listens on our socket and holds our lock, as if its pid had been QEMU's before; it is not our QEMU."""
    record.dir.pidfile.write_bytes(b"1\n")
    words = [sys.executable, "-c", HOLD, str(record.dir.pidfile), "0", "0"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as foreign:
        assert foreign.stdout is not None
        foreign.stdout.readline()
        record.dir.pidfile.write_bytes(f"{foreign.pid}\n".encode())
        assert lifecycle.halt(record, force=True) is False
        assert foreign.poll() is None
        foreign.kill()


def test_resume(record: Record) -> None:
    with pytest.raises(DevboxError) as caught:
        lifecycle.resume(record)
    assert caught.value.id == "machine.not-running"
    crashed = peers.answering(query_status=paused("internal-error"))
    with peers.listening(record.dir.status, crashed), pytest.raises(DevboxError) as caught:
        lifecycle.resume(record)
    assert caught.value.id == "machine.not-resumable"
    stopped = peers.answering(query_status=paused("paused"))
    with peers.listening(record.dir.status, stopped), peers.listening(record.dir.qmp, stopped):
        lifecycle.resume(record)
