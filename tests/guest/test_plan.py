"""The file is the truth: an edit reaches the machine that runs, by the least that it takes, and once. Data disks stay.

One machine goes through these tests in their order; each leaves it as the Devboxfile says.
"""

import json
import os
import pty
import random
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.checkout import DEVBOX, Checkout, a_person
from tests.guest.test_lifecycle import free_port, until
from tests.tiny import default_cache, tiny_image

pytestmark = pytest.mark.guest

HEAD = """\
version: 1
name: converge
box: {path: "IMAGE", sha256: SHA256}
cpus: 1
disk: 2GiB
folders: []
"""
PORTS = "ports: [{guest: 8080, name: web}]\n"
STEPS = "provision:\n  - {name: count, run: echo run >> ~/count}\n"
SERVER = "nohup sh -c 'while :; do echo hello | busybox nc -l -p 7000; done' >/dev/null 2>&1 </dev/null &"


class Machine:
    """A checkout whose Devboxfile is written part by part, and short names for what the tests do with it."""

    def __init__(self, checkout: Checkout) -> None:
        image, sha256 = tiny_image(default_cache())
        self._head = HEAD.replace("IMAGE", str(image)).replace("SHA256", sha256)
        self.checkout = checkout
        self.devbox = checkout.devbox

    def edit(self, *, memory: str = "256MiB", ports: str = PORTS, steps: str = STEPS, more: str = "") -> None:
        self.checkout.write(f"{self._head}memory: {memory}\n{ports}{more}{steps}")

    def plan(self, expected: int) -> list[dict[str, Any]]:
        shown = self.devbox("plan", "--json")
        assert shown.returncode == expected, shown.stderr
        changes: list[dict[str, Any]] = json.loads(shown.stdout)["changes"]
        assert bool(changes) is (expected == 10)
        return changes

    def up(self, *words: str, expected: int = 0) -> str:
        done = self.devbox("up", *words)
        assert done.returncode == expected, done.stderr
        return done.stderr

    def at_rest(self) -> None:
        """Nothing is left to do, and a further `up` does nothing."""
        assert self.plan(0) == []
        before = self.boots()
        assert "Plan:" not in self.up()
        assert self.boots() == before

    def run(self, command: str) -> str:
        done = self.devbox("run", "--", "sh", "-c", command)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def boot_id(self) -> str:
        return self.run("cat /proc/sys/kernel/random/boot_id")

    def status(self) -> dict[str, Any]:
        seen: dict[str, Any] = json.loads(self.devbox("status", "--json").stdout)
        return seen

    def boots(self) -> int:
        """How often QEMU was started for this machine."""
        log = Path(self.checkout.env["DEVBOX_STATE_DIR"]) / "machines" / self.status()["id"] / "log.jsonl"
        return sum(json.loads(line)["event"] == "start" for line in log.read_text().splitlines())

    def ports(self) -> dict[int, int]:
        return {port["guest"]: port["host"] for port in self.status()["ports"]}

    def answering(self, answer: str, *words: str) -> str:
        """The command on a terminal, where a question gets this answer; all that was shown."""
        ours, theirs = pty.openpty()
        with subprocess.Popen(
            [DEVBOX, *words], cwd=self.checkout.root, env=self.checkout.env, stdin=theirs, stdout=theirs, stderr=theirs
        ) as process:
            os.close(theirs)
            shown = b""
            while True:
                try:
                    part = os.read(ours, 4096)
                except OSError:  # the other end is closed
                    break
                if not part:
                    break
                shown += part
                if shown.endswith(b"[y/N] "):
                    os.write(ours, f"{answer}\n".encode())
            os.close(ours)
        print(shown.decode())
        assert process.returncode == 0
        return shown.decode()


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with a_person() as env:
        root = tmp_path_factory.mktemp("plan") / "the 'project'"
        root.mkdir()
        made = Machine(Checkout(root, env))
        made.edit()
        yield made
        made.devbox("destroy", "--yes")


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


def hello(port: int) -> str:
    try:
        with socket.create_connection(("127.0.0.1", port), 10) as line:
            line.settimeout(10)
            return line.recv(100).decode()
    except OSError:
        return ""


def effects(changes: list[dict[str, Any]]) -> dict[str, str]:
    return {one["key"]: one["class"] for one in changes}


def test_a_new_machine_is_planned_and_then_nothing_is_left(machine: Machine) -> None:
    assert effects(machine.plan(10)) == {"machine": "create", "count": "run step"}
    machine.up("--approve=all")
    machine.at_rest()
    assert machine.run("cat count") == "run\n"


def test_ports_come_and_go_while_the_machine_runs(machine: Machine, port: int) -> None:
    machine.run(SERVER)
    boot, pid, auto = machine.boot_id(), machine.status()["pid"], machine.ports()[8080]
    more = STEPS + "  - {name: second, run: echo $DEVBOX_PORT_APP >> ~/second}\n"
    machine.edit(ports=f"ports: [{{guest: 8080, name: web}}, {{guest: 7000, host: {port}, name: app}}]\n", steps=more)
    assert effects(machine.plan(10)) == {"ports": "live", "second": "run step"}
    told = machine.up()
    assert f"+ port {port} → 7000 (app) (live)" in told
    assert "Plan: 1 live, 1 step to run." in told
    until(lambda: hello(port) == "hello\n")
    assert machine.run("cat second count") == f"{port}\nrun\n"
    assert (machine.boot_id(), machine.status()["pid"]) == (boot, pid)
    assert machine.ports() == {8080: auto, 7000: port}
    machine.at_rest()
    assert machine.devbox("halt").returncode == 0
    machine.up()
    assert machine.ports() == {8080: auto, 7000: port}, "it is the same after a restart"
    machine.run(SERVER)
    until(lambda: hello(port) == "hello\n")
    machine.edit(steps=more)
    (change,) = machine.plan(10)
    assert (change["class"], change["old"], change["new"]) == ("live", f"{port} → 7000 (app)", None)
    machine.up()
    assert hello(port) == ""
    assert machine.ports() == {8080: auto}
    machine.at_rest()


def test_a_taken_port_is_named_before_anything_changes(machine: Machine, port: int) -> None:
    before = machine.ports()
    with socket.create_server(("127.0.0.1", port)):
        machine.edit(ports=f"ports: ['{port}:7000']\n")
        refused = machine.devbox("up")
    assert refused.returncode == 1
    assert f"127.0.0.1:{port}/tcp is taken" in refused.stderr
    assert machine.ports() == before
    machine.edit()
    machine.up()


def test_memory_a_port_and_a_step_cost_one_restart(machine: Machine, port: int) -> None:
    boot, boots = machine.boot_id(), machine.boots()
    three = STEPS + "  - {name: third, run: echo run >> ~/third}\n"
    machine.edit(memory="320MiB", ports=f"ports: ['{port}:7000']\n", steps=three)
    told = machine.up()
    assert "devbox up --yes" in told
    assert machine.boot_id() == boot, "nobody was asked, so it goes on"
    assert machine.ports() == {7000: port}
    assert effects(machine.plan(10)) == {"memory": "restart"}
    assert "[y/N]" in machine.answering("n", "up")
    assert machine.boot_id() == boot
    machine.edit(memory="320MiB", ports=f"ports: ['{port}:7001']\n", steps=three + "  - {name: more, run: 'true'}\n")
    assert effects(machine.plan(10)) == {"memory": "restart", "ports": "live", "more": "run step"}
    machine.up("--yes")
    assert machine.boots() == boots + 1
    assert machine.boot_id() != boot
    assert int(machine.run("sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo")) > 270 << 10
    assert machine.run("cat third") == "run\n"
    assert machine.ports() == {7001: port}
    machine.at_rest()


def test_a_stopped_machine_is_judged_by_its_last_run(machine: Machine) -> None:
    machine.edit(steps=STEPS + "  - {name: new, run: 'true'}\n")
    assert machine.devbox("halt").returncode == 0
    shown = machine.devbox("plan")
    assert shown.returncode == 10
    assert "~ memory 320MiB → 256MiB (restart" in shown.stdout
    assert "+ step `new` (run step): it has not run yet" in shown.stdout
    assert "as of the last run" in shown.stdout
    machine.up()
    machine.at_rest()


DISK = "disks: [{name: data, size: SIZE, mount: /srv/the data}]\n"


def test_a_data_disk_is_made_and_outlives_the_machine(machine: Machine) -> None:
    disk = DISK.replace("SIZE", "128MiB")
    machine.edit(more=disk)
    assert effects(machine.plan(10)) == {"disks": "restart"}
    assert "Restart the machine now, for disks?" in machine.answering("y", "up")
    machine.at_rest()
    machine.run("echo kept > '/srv/the data/file' && sync")
    assert machine.status()["disks"][0]["attached"]
    before = machine.status()["id"]
    assert machine.devbox("destroy", "--yes").returncode == 0
    assert [one["name"] for one in machine.status()["disks"]] == ["data"]
    machine.up()
    assert machine.status()["id"] != before
    assert machine.run("cat '/srv/the data/file'") == "kept\n"
    machine.at_rest()


def test_a_data_disk_grows_and_does_not_shrink(machine: Machine) -> None:
    size = "df -m '/srv/the data' | awk 'NR == 2 { print $2 }'"
    small = int(machine.run(size))
    machine.edit(more=DISK.replace("SIZE", "256MiB"))
    machine.up("--yes")
    assert int(machine.run(size)) > small + 100
    assert machine.run("cat '/srv/the data/file'") == "kept\n"
    machine.at_rest()
    machine.edit(more=DISK.replace("SIZE", "128MiB"))
    refused = machine.devbox("up", "--yes")
    assert (refused.returncode, "cannot shrink" in refused.stderr) == (2, True)
    machine.edit(more=DISK.replace("SIZE", "256MiB"))


def test_what_is_not_blank_is_never_formatted(machine: Machine) -> None:
    both = "disks: [{name: data, size: 256MiB, mount: /srv/the data}, {name: other, size: 64MiB, mount: /srv/other}]\n"
    machine.edit(more=both)
    machine.up("--yes", "--no-provision")
    find = "for d in /sys/block/*; do case $(cat $d/serial) in devbox-other) echo /dev/${d##*/} ;; esac; done"
    device = machine.run(find).strip()
    machine.run(f"sudo mkswap {device}")
    assert "holds what devbox did not put there (swap)" in machine.up(expected=1)
    machine.run(f"sudo blkid -p {device} | grep -q swap")
    machine.run(f"sudo wipefs -qa {device} && echo precious | sudo dd of={device} bs=1 seek=70000 2>/dev/null")
    assert "is not blank" in machine.up(expected=1)
    assert machine.run(f"sudo dd if={device} bs=1 skip=70000 count=8 2>/dev/null") == "precious"
    machine.edit(more=DISK.replace("SIZE", "256MiB"))
    (change,) = machine.plan(10)
    assert change["reason"].startswith("its data stays in ")
    machine.up("--yes")
    machine.at_rest()
    assert [one["attached"] for one in machine.status()["disks"]] == [True, False]


def test_recreate_keeps_the_data(machine: Machine) -> None:
    before = machine.status()["id"]
    machine.edit(more=DISK.replace("SIZE", "256MiB") + "user: {uid: 1234, gid: 1234}\n")
    assert effects(machine.plan(10)) == {"user": "rebuild"}
    assert "devbox up --recreate" in machine.up()
    assert machine.status()["id"] == before
    refused = machine.devbox("up", "--recreate")
    assert (refused.returncode, "--recreate --yes" in refused.stderr) == (2, True)
    assert machine.status()["id"] == before
    machine.up("--recreate", "--yes")
    assert machine.status()["id"] != before
    assert machine.run("id -u && cat '/srv/the data/file'") == "1234\nkept\n"
    machine.at_rest()


def test_a_suspended_machine_gets_what_is_live_and_keeps_its_memory(machine: Machine, port: int) -> None:
    more = DISK.replace("SIZE", "256MiB") + "user: {uid: 1234, gid: 1234}\n"
    boot = machine.boot_id()
    assert machine.devbox("suspend").returncode == 0
    machine.edit(memory="320MiB", ports=f"ports: ['{port}:7000']\n", more=more)
    assert effects(machine.plan(10)) == {"memory": "restart", "ports": "live"}
    assert "devbox up --yes" in machine.up()
    assert machine.boot_id() == boot
    assert machine.ports() == {7000: port}
    assert machine.devbox("suspend").returncode == 0
    machine.up("--yes")
    assert machine.boot_id() != boot
    machine.at_rest()
    machine.edit(more=more)
    machine.up("--yes")


def test_kills_while_it_converges(machine: Machine, port: int) -> None:
    """Whatever a kill cuts off, the next `up` brings the machine to the rest, and the data is there."""
    seed = int(os.environ.get("DEVBOX_TEST_SEED", "0")) or random.randrange(1, 10**6)
    print(f"replay with DEVBOX_TEST_SEED={seed}")
    chance = random.Random(seed)
    more = DISK.replace("SIZE", "256MiB") + "user: {uid: 1234, gid: 1234}\n"
    for number in range(3):
        ports = f"ports: ['{port}:{7000 + number}', {{guest: 8080, name: web}}]\n"
        machine.edit(memory=f"{288 + 32 * number}MiB", ports=ports, more=more)
        with machine.checkout.start("up", "--yes") as running:
            time.sleep(chance.uniform(0.5, 6))
            running.kill()
            running.communicate()
        assert machine.status()["state"] in {"stopped", "running"}
    machine.up("--yes")
    assert machine.run("cat '/srv/the data/file'") == "kept\n"
    assert machine.ports()[7002] == port
    machine.at_rest()


def test_data_goes_only_when_asked(machine: Machine) -> None:
    assert machine.devbox("destroy", "--yes", "--data").returncode == 0
    assert machine.status()["disks"] == []
