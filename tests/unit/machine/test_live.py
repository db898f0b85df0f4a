"""Ports of a running QEMU, over a peer that keeps a table of forwards as QEMU does and says what QEMU says."""

import json
import socket
from pathlib import Path

import pytest

from devbox.disk.record import Record
from devbox.errors import DevboxError
from devbox.machine import live
from devbox.share.ports import Forward
from tests.unit.disk import machines
from tests.unit.machine import peers

WEB = Forward("tcp", "127.0.0.1", 8080, 80)
DNS = Forward("udp", "127.0.0.1", 5353, 53)


class Monitor:
    """Carries out `hostfwd_add` and `hostfwd_remove`, but for the ports that are taken."""

    def __init__(self, *rules: str, taken: str = "") -> None:
        self.rules, self.taken, self.heard = set(rules), taken, list[str]()

    def serve(self, client: socket.socket) -> None:
        client.sendall(b'{"QMP": {"version": {}, "capabilities": []}}\r\n')
        for asked in peers.questions(client):
            line = asked.get("arguments", {}).get("command-line", "")
            peers.send(client, asked, {"return": self.obey(line) if line else {}})

    def obey(self, line: str) -> str:
        self.heard.append(line)
        verb, network, rule = line.split()
        assert network == "net0"
        if verb == "hostfwd_remove":
            self.rules = {one for one in self.rules if not one.startswith(f"{rule}-")}
            return f"host forwarding rule for {rule} removed\r\n"
        if self.taken and self.taken in rule:
            return f"could not set up host forwarding rule '{rule}'\r\n"
        self.rules.add(rule)
        return ""


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return machines.record(tmp_path)[0]


def test_nothing_is_asked_where_nothing_differs(record: Record) -> None:
    assert live.forward(record, (WEB, DNS), (DNS, Forward("tcp", "127.0.0.1", 8080, 80, "web"))) is False


def test_ports_come_and_go_and_the_others_stay(record: Record) -> None:
    monitor = Monitor("tcp:127.0.0.1:8080-:80", "udp:127.0.0.1:5353-:53")
    with peers.listening(record.dir.qmp, monitor.serve):
        assert live.forward(record, (WEB, DNS), (DNS, Forward("tcp", "127.0.0.1", 8080, 81)))
    assert monitor.rules == {"udp:127.0.0.1:5353-:53", "tcp:127.0.0.1:8080-:81"}
    assert not [line for line in monitor.heard if "5353" in line], "one that stays is not touched"
    said = json.loads(record.dir.log.read_text().splitlines()[-1])
    assert (said["event"], said["added"], said["gone"]) == ("ports", ["tcp:127.0.0.1:8080-:81"], ["tcp:127.0.0.1:8080"])


def test_a_port_that_is_taken_after_all_leaves_them_as_they_were(record: Record) -> None:
    monitor = Monitor("tcp:127.0.0.1:8080-:80", taken=":9000-")
    wanted = (DNS, Forward("tcp", "127.0.0.1", 9000, 90))
    with peers.listening(record.dir.qmp, monitor.serve), pytest.raises(DevboxError, match="Port 9000") as caught:
        live.forward(record, (WEB,), wanted)
    assert caught.value.id == "machine.port-taken"
    assert monitor.rules == {"tcp:127.0.0.1:8080-:80"}
