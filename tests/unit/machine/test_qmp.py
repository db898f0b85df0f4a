"""The synchronous QMP client: answers, refusals, events, and a QEMU that is silent or goes away."""

import json
import socket
from pathlib import Path

import pytest

from devbox import fs, paths
from devbox.errors import DevboxError
from devbox.machine.qmp import Event, Qmp
from tests.unit.machine import peers


@pytest.fixture
def path() -> Path:
    return fs.make_private_dir(paths.runtime_root()) / "qmp.sock"


def test_execute(path: Path) -> None:
    with peers.listening(path, peers.answering()), Qmp(path) as qmp:
        assert qmp.execute("query-uuid") == {"UUID": peers.UUID}
        assert "HOST_FORWARD" in qmp.human("info usernet")


def test_events(path: Path) -> None:
    with peers.listening(path, peers.answering()), Qmp(path) as qmp:
        qmp.execute("cont")
        assert qmp.wait_event({"NOISE"}, timeout=5) == Event("NOISE", {})
        assert qmp.wait_event({"SHUTDOWN"}, timeout=0.05) is None


def test_a_refusal(path: Path) -> None:
    def refuse(client: socket.socket) -> None:
        client.sendall(b'{"QMP": {"version": {}, "capabilities": []}}\r\n')
        refused = {"error": {"class": "GenericError", "desc": "not now"}}
        for asked in peers.questions(client):
            peers.send(client, asked, {"return": {}} if asked["execute"] == "qmp_capabilities" else refused)

    with peers.listening(path, refuse), Qmp(path) as qmp, pytest.raises(DevboxError, match="not now") as caught:
        qmp.execute("stop")
    assert caught.value.id == "machine.qmp"


def test_nobody_there_and_nobody_speaking(path: Path) -> None:
    with pytest.raises(DevboxError) as caught, Qmp(path):
        pass
    assert caught.value.id == "machine.not-answering"
    with peers.listening(path, silent), pytest.raises(DevboxError), Qmp(path, timeout=0.1):
        pass


def silent(client: socket.socket) -> None:
    client.recv(1)


def test_gone_in_the_middle(path: Path) -> None:
    def leave(client: socket.socket) -> None:
        client.sendall(b'{"QMP": {"version": {}, "capabilities": []}}\r\n')
        peers.send(client, json.loads(client.recv(4096)), {"return": {}})
        client.recv(4096)

    with peers.listening(path, leave), Qmp(path) as qmp, pytest.raises(DevboxError):
        qmp.execute("quit")
