"""A person clones a machine, running and stopped, destroys one and takes it back; by the installed command."""

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.checkout import Checkout
from tests.guest.test_verbs import project, status

pytestmark = pytest.mark.guest


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, person: dict[str, str]) -> Iterator[Checkout]:
    checkout = project(tmp_path_factory.mktemp("clone") / "p", person)
    assert checkout.devbox("up", "--approve=all").returncode == 0
    yield checkout
    for name in ("default", "lab", "lab-2"):
        checkout.devbox("destroy", "--yes", "--machine", name)


def run(checkout: Checkout, command: str, *options: str) -> str:
    done = checkout.devbox("run", *options, "--", "sh", "-c", command)
    assert done.returncode == 0, done.stderr
    return done.stdout


def listed(checkout: Checkout) -> dict[str, dict[str, Any]]:
    return {row["machine"]: row for row in json.loads(checkout.devbox("list", "--json").stdout)}


WHO = """\
cat /etc/ssh/ssh_host_ed25519_key.pub ~/.ssh/authorized_keys /var/lib/cloud/data/instance-id
hostname
cat /etc/machine-id"""


def test_a_running_machine_is_cloned_and_both_go_on(one: Checkout) -> None:
    run(one, "echo before >~/work")
    done = one.devbox("clone", "lab")
    assert done.returncode == 0
    assert "devbox up --machine lab" in done.stderr
    assert one.devbox("clone", "lab").returncode == 1
    run(one, "echo after >~/work")
    assert status(one)["state"] == "running", "the parent went on meanwhile"
    assert listed(one)["lab"]["state"] == "stopped"

    # Killed while it gives the clone an identity, `up` says so and does it again.
    with one.start("up", "--machine", "lab") as running:
        assert running.stderr is not None
        for line in running.stderr:
            if b"identity of its own" in line:
                os.kill(running.pid, signal.SIGKILL)
                break
        running.communicate()
    told = json.loads(one.devbox("status", "--machine", "lab", "--json").stdout)
    if told["identity"] == "provisional":  # else it was quicker than the signal
        assert told["next"] == "devbox up --machine lab"
    run(one, "true", "--machine", "lab")
    assert one.devbox("up", "--machine", "lab").returncode == 0
    assert run(one, "cat ~/work", "--machine", "lab") == "before\n"
    assert run(one, "cat ~/count", "--machine", "lab") == run(one, "cat ~/count"), "no step ran again"
    assert run(one, "cat ~/work") == "after\n"
    own, others = run(one, WHO).splitlines(), run(one, WHO, "--machine", "lab").splitlines()
    assert set(own).isdisjoint(others)
    assert others[3].endswith("-lab")
    told = json.loads(one.devbox("status", "--machine", "lab", "--json").stdout)
    assert (told["identity"], told["machine"], told["state"]) == ("own", "lab", "running")
    assert told["ports"][0]["host"] != status(one)["ports"][0]["host"]
    assert one.devbox("provision", "--machine", "lab").returncode == 0


def test_a_stopped_machine_is_cloned(one: Checkout) -> None:
    run(one, "echo stopped >~/work; sync")
    assert one.devbox("halt").returncode == 0
    assert one.devbox("halt", "--machine", "lab").returncode == 0
    assert one.devbox("clone", "lab-2").returncode == 0
    assert one.devbox("up", "--machine", "lab-2", "--no-provision").returncode == 0
    assert run(one, "cat ~/work", "--machine", "lab-2") == "stopped\n"
    assert one.devbox("destroy", "--yes", "--machine", "lab-2").returncode == 0
    assert one.devbox("ssh", "--machine", "lab-2", "-c", "true").returncode == 1
    assert one.devbox("up").returncode == 0
    assert run(one, "cat ~/work") == "stopped\n"


def test_what_was_destroyed_comes_back(one: Checkout) -> None:
    run(one, "echo precious >~/work; sync")
    before = status(one)["id"]
    assert "devbox undo" in one.devbox("destroy", "--yes").stderr
    assert status(one)["state"] == "not created"
    one.root.rename(one.root.with_name("moved"))
    moved = Checkout(one.root.with_name("moved"), one.env)
    try:
        assert moved.devbox("undo").returncode == 0
        assert status(moved)["id"] == before
        assert moved.devbox("undo", "default").returncode == 1
        assert moved.devbox("up", "--approve", "all").returncode == 0  # what was approved goes by the place
        assert run(moved, "cat ~/work") == "precious\n"
    finally:
        moved.root.rename(one.root)
    assert status(one)["id"] == before
