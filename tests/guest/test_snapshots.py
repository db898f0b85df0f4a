"""`devbox snapshot` on the tiny guest: back to what it was, running or stopped, from whatever it is.

Nothing is left over, and no kill costs the machine.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.checkout import Checkout
from tests.guest.test_suspend import (
    COUNT,
    KILLED,
    SERVE,
    begin,
    count,
    folder,
    guest,
    is_whole,
    made,
    status,
)
from tests.guest.test_verbs import qemus

pytestmark = pytest.mark.guest


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, person: dict[str, str]) -> Iterator[Checkout]:
    checkout = Checkout(tmp_path_factory.mktemp("snapshots"), person)
    text = made(checkout)
    assert checkout.devbox("halt").returncode == 0
    assert checkout.devbox("snapshot", "save", "stopped").returncode == 0
    checkout.write(text)
    assert checkout.devbox("up", "--approve=all").returncode == 0
    begin(checkout, COUNT)
    begin(checkout, SERVE)
    guest(checkout, "echo one >~/word; sudo sync")
    yield checkout
    checkout.devbox("destroy", "--yes")


def names(checkout: Checkout) -> dict[str, str]:
    listed: list[dict[str, Any]] = json.loads(checkout.devbox("snapshot", "list", "--json").stdout)
    return {one["name"]: one["state"] for one in listed}


def inside(checkout: Checkout) -> list[str]:
    """The snapshots that the disk has, whoever made them."""
    words = ["qemu-img", "info", "-U", "--output=json", str(folder(checkout) / "disk.qcow2")]
    told = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)
    return [one["name"] for one in told.get("snapshots", [])]


def restore(checkout: Checkout, name: str) -> subprocess.CompletedProcess[str]:
    done = checkout.devbox("snapshot", "restore", "--yes", name)
    assert done.returncode == 0
    return done


def test_back_to_a_running_machine_from_whatever_it_is(one: Checkout, person: dict[str, str]) -> None:
    assert one.devbox("snapshot", "save", "live").returncode == 0
    at = is_whole(one, 1)
    assert names(one) == {"stopped": "stopped", "live": "running"}
    guest(one, "echo two >~/word; busybox killall busybox; rm -r /dev/shm/www")
    refused = one.devbox("snapshot", "restore", "live")
    assert refused.returncode == 2
    assert "--yes" in refused.stderr
    assert guest(one, "cat ~/word") == "two"
    for bring in ((), ("suspend",), ("halt",)):
        if bring:
            assert one.devbox(*bring).returncode == 0
        restore(one, "live")
        assert guest(one, "cat ~/word") == "one"
        assert is_whole(one, 1) < at + 10_000
        assert len(qemus(person)) == 1
        guest(one, "echo two >~/word")
    assert one.devbox("up").returncode == 0, "the journal is that of the disk"


def test_back_to_a_stopped_machine_and_forward_again(one: Checkout, person: dict[str, str]) -> None:
    restore(one, "stopped")
    assert (status(one)["state"], qemus(person)) == ("stopped", [])
    assert one.devbox("up").returncode == 0
    assert guest(one, "ls ~/word 2>&1 || :").startswith("ls: ")
    restore(one, "live")
    assert guest(one, "cat ~/word") == "one"
    is_whole(one, 1)


def test_a_suspended_machine_has_its_memory_twice_then(one: Checkout) -> None:
    before = count(one)
    assert one.devbox("suspend").returncode == 0
    assert one.devbox("snapshot", "save", "asleep").returncode == 0
    assert status(one)["state"] == "suspended"
    assert one.devbox("resume").returncode == 0
    now = is_whole(one, before)
    guest(one, "echo three >~/word; sudo sync")
    restore(one, "asleep")
    assert guest(one, "cat ~/word") == "one"
    is_whole(one, before)
    assert now >= before


def test_names(one: Checkout) -> None:
    assert one.devbox("snapshot", "save", "live").returncode == 2
    for name in ("", "-x", "../up", "a b", "x" * 65):
        assert one.devbox("snapshot", "save", "--", name).returncode == 2
    assert one.devbox("snapshot", "restore", "--yes", "other").returncode == 1
    before = inside(one)
    assert one.devbox("snapshot", "save", "--force", "live").returncode == 0
    assert len(inside(one)) == len(before)
    assert set(inside(one)) != set(before)
    is_whole(one, 1)


def test_a_memory_that_does_not_fit_leaves_the_disk(one: Checkout) -> None:
    described = folder(one) / "snapshots" / "live.json"
    right = described.read_text()
    described.write_text(right.replace('"qemu": "', '"qemu": "1'))
    guest(one, "echo four >~/word; sudo sync")
    done = restore(one, "live")
    assert "Only the disk came back" in done.stderr
    assert "saved by QEMU 1" in done.stderr
    described.write_text(right)
    assert status(one)["state"] == "stopped"
    assert one.devbox("up").returncode == 0
    assert guest(one, "cat ~/word") == "one"
    restore(one, "live")
    is_whole(one, 1)


def test_a_disk_that_has_grown_since_is_small_again_and_grows_again(one: Checkout) -> None:
    text = (one.root / "Devboxfile").read_text()
    one.write(text.replace("disk: 2GiB", "disk: 3GiB"))
    assert one.devbox("reload").returncode == 0
    assert guest(one, "cat /sys/block/vda/size") == str(3 << 21)
    restore(one, "live")
    is_whole(one, 1)
    assert status(one)["disk"]["size"] == 2 << 30
    assert guest(one, "cat /sys/block/vda/size") == str(2 << 21)
    assert one.devbox("reload").returncode == 0
    assert guest(one, "cat /sys/block/vda/size") == str(3 << 21)
    one.write(text)
    restore(one, "live")


POINTS = [
    ("memory", "save", "before", "save cut"),
    ("memory", "save", "after", "save cut"),
    ("snapshots", "_publish", "after", "save cut"),
    ("dormant", "forget", "after", "restore --yes live"),
    ("snapshots", "_link", "after", "restore --yes live"),
    ("snapshots", "put_back", "after", "restore --yes live"),
    ("snapshots", "delete", "after", "delete cut"),
]


@pytest.mark.parametrize("point", POINTS)
def test_kill(one: Checkout, person: dict[str, str], point: tuple[str, str, str, str]) -> None:
    module, name, when, words = point
    if "delete" in words and "cut" not in names(one):
        assert one.devbox("snapshot", "save", "cut").returncode == 0
    if "save" in words and "cut" in names(one):
        assert one.devbox("snapshot", "delete", "cut").returncode == 0
    verb = '", "'.join(["snapshot", *words.split()])
    script = KILLED.format(verb=verb, module=module, name=name, when=when)
    argv = [sys.executable, "-c", script]
    done = subprocess.run(argv, cwd=one.root, env=one.env, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert status(one)["state"] in {"running", "paused", "suspended", "stopped"}
    assert len(qemus(person)) <= 1
    assert one.devbox("up").returncode == 0
    assert guest(one, "cat ~/word; cat /shared/file").split("\n") == ["one", "from the host"]
    restore(one, "live")
    is_whole(one, 1)


def test_deleting_frees_and_leaves_nothing(one: Checkout) -> None:
    for name in names(one):
        assert one.devbox("snapshot", "delete", name).returncode == 0
    assert names(one) == {}
    assert inside(one) == []
    assert list((folder(one) / "snapshots").iterdir()) == []
    is_whole(one, 1)


def test_a_full_disk_costs_the_snapshot_and_not_the_machine(one: Checkout) -> None:
    at = count(one)
    snapshots = folder(one) / "snapshots"
    snapshots.rmdir()
    small = Path(one.env["HOME"]) / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", small], check=False).returncode != 0:
        pytest.skip("no file system of our own can be mounted here")
    try:
        snapshots.symlink_to(small)
        refused = one.devbox("snapshot", "save", "toolarge")
        assert refused.returncode == 1
        assert "disk of this computer is full" in refused.stderr
        assert names(one) == {}
        assert inside(one) == []
        assert list(small.iterdir()) == []
        is_whole(one, at)
    finally:
        snapshots.unlink()
        subprocess.run(["umount", small], check=True)
