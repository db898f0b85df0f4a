"""`devbox suspend` and `resume` on the tiny guest: what ran goes on, whole.

No kill puts memory and disk out of step.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.checkout import Checkout
from tests.guest.test_verbs import qemus
from tests.tiny import default_cache, tiny_image

pytestmark = pytest.mark.guest

DEVBOXFILE = """\
version: 1
name: sleeper
box: {path: "IMAGE", sha256: SHA256}
cpus: 1
memory: 256MiB
disk: 2GiB
ports: [{guest: 8080, name: web}]
folders:
  - {host: ., guest: /copied, type: rsync}
  - {host: shared, guest: /shared, type: virtiofs}
"""
VIRTIOFS = "  - {host: shared, guest: /shared, type: virtiofs}\n"
# It counts in memory alone: a boot would begin anew.
COUNT = "i=0; while :; do i=$((i+1)); echo $i >/dev/shm/new; mv /dev/shm/new /dev/shm/count; sleep 0.1; done"
SERVE = "mkdir -p /dev/shm/www && printf here >/dev/shm/www/index.html && busybox httpd -f -p 8080 -h /dev/shm/www"


def made(checkout: Checkout) -> str:
    """A machine that runs without its virtiofs folder, and the Devboxfile with it."""
    (checkout.root / "shared").mkdir()
    (checkout.root / "shared" / "file").write_text("from the host\n")
    image, sha256 = tiny_image(default_cache())
    text = DEVBOXFILE.replace("IMAGE", str(image)).replace("SHA256", sha256)
    checkout.write(text.replace(VIRTIOFS, ""))
    assert checkout.devbox("up", "--approve=all").returncode == 0
    record = folder(checkout) / "record.json"  # nothing says that this image can do it
    record.write_text(json.dumps({**json.loads(record.read_text()), "lacks": []}))
    return text


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, person: dict[str, str]) -> Iterator[Checkout]:
    checkout = Checkout(tmp_path_factory.mktemp("sleeper"), person)
    text = made(checkout)
    checkout.write(text)
    assert checkout.devbox("reload", "--approve=all").returncode == 0
    begin(checkout, COUNT)
    begin(checkout, SERVE)
    yield checkout
    checkout.devbox("destroy", "--yes")


def begin(checkout: Checkout, script: str) -> None:
    assert (
        checkout.devbox("ssh", "--home", "-c", f"nohup sh -c '{script}' >/dev/null 2>&1 </dev/null &").returncode == 0
    )


def guest(checkout: Checkout, script: str) -> str:
    done = checkout.devbox("ssh", "--home", "-c", script)
    assert done.returncode == 0
    return done.stdout.strip()


def count(checkout: Checkout) -> int:
    return int(guest(checkout, "cat /dev/shm/count"))


def status(checkout: Checkout) -> dict[str, Any]:
    seen: dict[str, Any] = json.loads(checkout.devbox("status", "--json").stdout)
    return seen


def folder(checkout: Checkout) -> Path:
    return Path(checkout.env["DEVBOX_STATE_DIR"]) / "machines" / str(status(checkout)["id"])


def is_whole(checkout: Checkout, at_least: int) -> int:
    """The guest goes on with its old count; port, folders and clock are right."""
    seen = status(checkout)
    assert seen["state"] == "running"
    now = count(checkout)
    assert now >= at_least
    (port,) = seen["ports"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port['host']}/", timeout=60) as answer:
        assert answer.read() == b"here"
    assert guest(checkout, "cat /shared/file") == "from the host"
    before = time.time()
    clock = int(guest(checkout, "date +%s"))
    assert before - 2 <= clock <= time.time() + 2
    assert not (folder(checkout) / "memory.json").exists()
    assert not (folder(checkout) / "memory.state").exists()
    return now


def test_suspend_and_resume(one: Checkout, person: dict[str, str]) -> None:
    before = count(one)
    assert one.devbox("suspend").returncode == 0
    assert qemus(person) == []
    assert status(one)["state"] == "suspended"
    assert status(one)["next"] == "devbox resume"
    assert (folder(one) / "memory.state").stat().st_mode & 0o777 == 0o600
    assert one.devbox("suspend").returncode == 0, "it is already"
    refused = one.devbox("run", "--", "true")
    assert refused.returncode == 1
    assert "devbox resume" in refused.stderr
    assert one.devbox("resume").returncode == 0
    (one.root / "shared" / "file").write_text("from the host\n")
    is_whole(one, before)


def test_up_goes_on_too_and_a_port_that_was_taken_moves(one: Checkout) -> None:
    before = count(one)
    port = status(one)["ports"][0]["host"]
    assert one.devbox("suspend").returncode == 0
    with socket.create_server(("127.0.0.1", port)):
        done = one.devbox("up")
        assert done.returncode == 0
        assert f"Port {port} was taken" in done.stderr
        assert status(one)["ports"][0]["host"] != port
        is_whole(one, before)


def test_a_folder_in_use_keeps_it_running(one: Checkout) -> None:
    before = count(one)
    begin(one, "cd /shared && exec sleep 1000")
    wait_until(lambda: "/shared" in guest(one, "ls -l /proc/[0-9]*/cwd 2>/dev/null || :"))
    refused = one.devbox("suspend")
    assert refused.returncode == 1
    assert "/shared is in use by: " in refused.stderr
    assert "sleep (" in refused.stderr
    is_whole(one, before)
    assert one.devbox("suspend", "--force").returncode == 0
    assert one.devbox("resume").returncode == 0
    is_whole(one, before)


def test_memory_that_does_not_fit_is_refused_and_can_be_given_up(one: Checkout, person: dict[str, str]) -> None:
    before = count(one)
    assert one.devbox("suspend").returncode == 0
    hardware = folder(one) / "memory.json"
    right = hardware.read_text()
    hardware.write_text(right.replace('"qemu": "', '"qemu": "1'))
    refused = one.devbox("up")
    assert refused.returncode == 1
    assert "saved by QEMU 1" in refused.stderr
    assert "devbox up --discard-memory" in refused.stderr
    hardware.write_text(right)
    memory = folder(one) / "memory.state"
    memory.rename(f"{memory}.right")
    memory.write_bytes(b"not memory")
    refused = one.devbox("resume")
    assert "QEMU could not take it" in refused.stderr
    assert status(one)["state"] == "suspended"
    assert qemus(person) == []
    Path(f"{memory}.right").rename(memory)
    assert one.devbox("resume").returncode == 0
    is_whole(one, before)


# Where devbox is killed: the function before whose work, or after whose work, it ends as by SIGKILL.
POINTS = {
    "suspend": [
        ("plug", "unplug", "before"),
        ("plug", "unplug", "after"),
        ("memory", "save", "before"),
        ("memory", "_until_over", "before"),
        ("memory", "save", "after"),
        ("saved", "write", "after"),
        ("stop", "stop", "after"),
    ],
    "resume": [
        ("start", "start", "after"),
        ("memory", "load", "after"),
        ("dormant", "forget", "after"),
        ("plug", "plug", "before"),
        ("plug", "plug", "after"),
    ],
}
KILLED = """
import importlib, os, signal, sys
module = importlib.import_module("devbox.machine.{module}")
real = module.{name}
def killed(*arguments, **named):
    if "{when}" == "after":
        real(*arguments, **named)
    os.kill(os.getpid(), signal.SIGKILL)
module.{name} = killed
sys.argv = ["devbox", "{verb}"]
from devbox.launch import main
main()
"""


def killed_at(checkout: Checkout, verb: str, module: str, name: str, when: str) -> None:
    script = KILLED.format(verb=verb, module=module, name=name, when=when)
    words = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(words, cwd=checkout.root, env=checkout.env, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize(("verb", "point"), [(verb, point) for verb, points in POINTS.items() for point in points])
def test_kill(one: Checkout, person: dict[str, str], verb: str, point: tuple[str, str, str]) -> None:
    if status(one)["state"] != "running":
        assert one.devbox("up").returncode == 0
    before = count(one)
    if verb == "resume":
        assert one.devbox("suspend").returncode == 0
    killed_at(one, verb, *point)
    state = status(one)["state"]
    assert state in {"running", "paused", "suspended"}
    assert (len(qemus(person)) == 0) == (state == "suspended")
    assert one.devbox("up").returncode == 0
    is_whole(one, before)


def test_kill_of_qemu_in_between(one: Checkout, person: dict[str, str]) -> None:
    """While the memory is complete but QEMU still there: it is suspended. Once it has gone on, it is not any more."""
    before = count(one)
    killed_at(one, "suspend", "saved", "write", "after")
    (qemu,) = qemus(person)
    os.kill(qemu, signal.SIGKILL)
    wait_until(lambda: status(one)["state"] == "suspended")
    assert one.devbox("resume").returncode == 0
    is_whole(one, before)
    assert one.devbox("suspend").returncode == 0
    killed_at(one, "resume", "dormant", "forget", "after")
    (qemu,) = qemus(person)
    os.kill(qemu, signal.SIGKILL)
    wait_until(lambda: status(one)["state"] == "stopped")
    assert one.devbox("up").returncode == 0, "the disk boots, and it is the only truth"
    assert guest(one, "cat /shared/file") == "from the host"


def test_halt_shuts_a_suspended_machine_down_in_good_order(one: Checkout, person: dict[str, str]) -> None:
    guest(one, "echo kept >~/unsynced")
    assert one.devbox("suspend").returncode == 0
    assert one.devbox("halt").returncode == 0
    assert (qemus(person), status(one)["state"]) == ([], "stopped")
    assert one.devbox("up").returncode == 0
    assert guest(one, "cat ~/unsynced") == "kept"
    assert one.devbox("suspend").returncode == 0
    assert "given up" in one.devbox("halt", "--force").stderr
    assert status(one)["state"] == "stopped"
    assert one.devbox("up").returncode == 0
    assert one.devbox("suspend").returncode == 0
    assert one.devbox("up", "--discard-memory").returncode == 0
    assert int(guest(one, "cut -d. -f1 /proc/uptime")) < 1000
    assert guest(one, "ls /dev/shm") == ""


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
