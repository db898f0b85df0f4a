"""The installed command on the tiny guest: two checkouts at once, kills at random moments, spoilt and missing files.

Whatever is done to it, `status` must tell the truth, the next `up` must work, and the disk must be the same disk.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.checkout import DEVBOX, Checkout
from tests.tiny import default_cache, tiny_image

pytestmark = pytest.mark.guest

DEVBOXFILE = """\
version: 1
name: NAME
box: {path: "IMAGE", sha256: SHA256}
cpus: 1
memory: 256MiB
disk: 2GiB
ports: [{guest: 8080, name: web}]
provision:
  - name: count
    run: echo run >> ~/count
"""

HOLD_A_PORT = """
import socket, sys
with socket.create_server(("127.0.0.1", 0)) as held:
    print(held.getsockname()[1], flush=True)
    sys.stdin.read()
"""


def project(folder: Path, env: dict[str, str]) -> Checkout:
    image, sha256 = tiny_image(default_cache())
    folder.mkdir(parents=True)
    text = DEVBOXFILE.replace("NAME", f"p-{folder.name[:1].lower()}").replace("IMAGE", str(image))
    (folder / "Devboxfile").write_text(text.replace("SHA256", sha256))
    return Checkout(folder, env)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, person: dict[str, str]) -> Iterator[Checkout]:
    checkout = project(tmp_path_factory.mktemp("verbs") / 'One, "two" 50% é', person)
    yield checkout
    checkout.devbox("destroy", "--yes")


def status(checkout: Checkout) -> dict[str, Any]:
    seen: dict[str, Any] = json.loads(checkout.devbox("status", "--json").stdout)
    return seen


def machines(env: dict[str, str]) -> list[str]:
    return [entry.name for entry in (Path(env["DEVBOX_STATE_DIR"]) / "machines").iterdir() if entry.name[0] != "."]


def qemus(env: dict[str, str]) -> list[int]:
    """The QEMUs of this person, by their command line; zombies have none."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            words = (process / "cmdline").read_bytes() if process.name.isdigit() else b""
        except OSError:
            continue
        if b"qemu-system" in words.split(b"\0")[0] and env["DEVBOX_RUNTIME_DIR"].encode() in words:
            found.append(int(process.name))
    return found


def test_kills_at_random_moments_of_the_first_up(one: Checkout, person: dict[str, str]) -> None:
    seed = int(os.environ.get("DEVBOX_TEST_SEED", "0")) or random.randrange(1, 10**6)
    print(f"replay with DEVBOX_TEST_SEED={seed}")
    chance = random.Random(seed)
    for _ in range(6):
        with one.start("up", "--approve=all") as running:
            time.sleep(chance.uniform(0.1, 7))
            running.send_signal(chance.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
            said = running.communicate()[1]
        if said:  # else it had not begun yet
            assert running.returncode in {0, -signal.SIGKILL, 130, 143}
        assert status(one)["state"] in {"not created", "stopped", "running"}
        assert len(qemus(person)) <= 1
    assert one.devbox("up").returncode == 0
    assert one.devbox("run", "--", "cat", "/home/dev/count").stdout == "run\n"
    assert len(machines(person)) == 1
    assert len(qemus(person)) == 1


def test_two_ups_at_once_make_one_machine(one: Checkout, person: dict[str, str]) -> None:
    assert one.devbox("halt").returncode == 0
    with one.start("up") as first, one.start("up") as second:
        assert one.devbox("status", "--json").returncode == 0
        print(first.communicate()[1].decode(), second.communicate()[1].decode())
    assert (first.returncode, second.returncode) == (0, 0)
    assert len(qemus(person)) == 1


def test_a_lost_runtime_folder_costs_a_restart_in_good_order(one: Checkout, person: dict[str, str]) -> None:
    shutil.rmtree(person["DEVBOX_RUNTIME_DIR"])
    assert (status(one)["state"], status(one)["next"]) == ("not answering", "devbox reload")
    assert "devbox reload" in one.devbox("up").stderr
    assert one.devbox("reload").returncode == 0
    assert "by=guest command" in one.devbox("logs").stdout
    assert len(qemus(person)) == 1


def test_run_is_a_command_like_any_other(one: Checkout) -> None:
    data = random.randbytes(3 << 20)
    words = [str(DEVBOX), "run", "--"]
    echoed = subprocess.run([*words, "cat"], cwd=one.root, env=one.env, input=data, capture_output=True, check=True)
    assert echoed.stdout == data
    assert one.devbox("run", "--", "sh", "-c", "exit 7").returncode == 7
    assert one.devbox("run", "--", "sh", "-c", "kill -9 $$").returncode == 137
    assert one.devbox("run", "--", "printf", "%s|", "a  b", "$HOME", "it's", "").stdout == "a  b|$HOME|it's||"
    waits = 'trap "echo heard; exit 5" TERM; echo ready; sleep 60 & wait'
    with one.start("run", "--", "sh", "-c", waits) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"ready\n"
        running.send_signal(signal.SIGTERM)
        assert running.communicate()[0] == b"heard\n"
    assert running.returncode == 5


def test_the_cache_may_go_while_a_machine_lives(one: Checkout, person: dict[str, str]) -> None:
    shutil.rmtree(person["DEVBOX_CACHE_DIR"])
    os.kill(qemus(person)[0], signal.SIGKILL)
    assert one.devbox("up").returncode == 0
    assert one.devbox("run", "--", "cat", "/home/dev/count").stdout == "run\n"


def test_a_moved_project_keeps_its_machine_and_a_copied_one_does_not_share_it(one: Checkout) -> None:
    before = status(one)
    moved = Checkout(one.root.with_name("moved"), one.env)
    one.root.rename(moved.root)
    assert status(moved)["id"] == before["id"]
    copy = Checkout(one.root.with_name("copy"), one.env)
    shutil.copytree(moved.root, copy.root)
    refused = copy.devbox("up", "--approve=all")
    assert refused.returncode == 1
    assert str(moved.root) in refused.stderr
    moved.root.rename(one.root)
    assert status(one)["id"] == before["id"]
    shutil.rmtree(one.root / ".devbox")  # as by `git clean -fdx`
    assert status(one)["id"] == before["id"]


def test_a_port_that_is_taken_names_its_holder(one: Checkout) -> None:
    assert one.devbox("halt").returncode == 0
    text = (one.root / "Devboxfile").read_text()
    with subprocess.Popen(
        ["python3", "-c", HOLD_A_PORT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        port = holder.stdout.readline().strip()
        (one.root / "Devboxfile").write_text(text.replace("{guest: 8080, name: web}", f"{port}:8080"))
        refused = one.devbox("up")
        holder.communicate("")
    assert refused.returncode == 1
    assert f"pid {holder.pid}" in refused.stderr
    (one.root / "Devboxfile").write_text(text)


def test_a_spoilt_image_is_never_used(tmp_path: Path, person: dict[str, str], one: Checkout) -> None:
    two = project(tmp_path / "two", person)
    blobs = Path(person["DEVBOX_CACHE_DIR"]) / "blobs/sha256"
    assert two.devbox("box", "add", str(tiny_image(default_cache())[0])).returncode == 0
    (blob,) = [entry for entry in blobs.iterdir() if len(entry.name) == 64]
    spoilt = bytearray(blob.read_bytes())
    spoilt[len(spoilt) // 2] ^= 1
    blob.chmod(0o600)
    blob.write_bytes(spoilt)
    assert two.devbox("box", "verify").returncode == 1
    assert two.devbox("up", "--approve=all").returncode == 0
    assert two.devbox("run", "--", "cat", "/home/dev/count").stdout == "run\n"
    assert two.devbox("destroy", "--yes").returncode == 0


def test_two_checkouts_at_once(tmp_path: Path, one: Checkout, person: dict[str, str]) -> None:
    two = project(tmp_path / "second", person)
    with one.start("up") as first, two.start("up", "--approve=all") as second:
        print(first.communicate()[1].decode(), second.communicate()[1].decode())
    assert (first.returncode, second.returncode) == (0, 0)
    seen = [status(one), status(two)]
    assert len({each["id"] for each in seen}) == 2
    assert len({each["ports"][0]["host"] for each in seen}) == 2
    listed = json.loads(one.devbox("list", "--json").stdout)
    assert {each["state"] for each in listed} == {"running"}
    assert two.devbox("destroy", "--yes").returncode == 0
    assert status(one)["state"] == "running"
    assert one.devbox("run", "--", "true").returncode == 0
