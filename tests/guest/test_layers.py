"""Layers on the tiny guest, by the installed command: made live, used by the next machine, and cut off half-way."""

import json
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.checkout import Checkout, a_person
from tests.tiny import default_cache, tiny_image

pytestmark = pytest.mark.guest

SECRET, PRIVATE, OURS = "planted-secret-6f1d2c", "planted-private-93ab77", "planted-project-file-5e0c41"
DEVBOXFILE = """\
version: 1
name: lay
box: {path: IMAGE, sha256: SHA256}
cpus: 1
memory: 256MiB
disk: 2GiB
folders: [".:/workspace"]
ports: [{guest: 8080, name: web}]
secrets: [{name: TOKEN, env: TOKEN}]
provision:
  - name: slow
    run: sleep 6; echo run >>~/count
  - name: quick
    file: {path: /etc/thing, content: hello}
  - name: with a secret
    run: printf %s "$TOKEN" >~/token
    secrets: [TOKEN]
  - name: private
    file: {path: /etc/private, content: PRIVATE, mode: "0600"}
    sensitive: true
  - name: project
    run: cp /workspace/ours ~/ours
"""

# The installed command with one function of ours replaced by a kill -9 of itself.
KILLED = """
import importlib, os, signal, sys
module, name = sys.argv.pop(1), sys.argv.pop(1)
def die(*words, **named):
    os.kill(os.getpid(), signal.SIGKILL)
setattr(importlib.import_module(module), name, die)
from devbox.launch import main
main()
"""


@pytest.fixture
def person() -> Iterator[dict[str, str]]:
    with a_person() as env:
        yield {**env, "TOKEN": SECRET}


def checkout(name: str, env: dict[str, str], *, text: str = DEVBOXFILE) -> Checkout:
    image, sha256 = tiny_image(default_cache())
    root = Path(env["HOME"]) / name
    root.mkdir()
    text = text.replace("IMAGE", json.dumps(str(image))).replace("SHA256", sha256).replace("PRIVATE", PRIVATE)
    (root / "Devboxfile").write_text(text)
    (root / "ours").write_text(OURS)
    return Checkout(root, env)


def up(made: Checkout, *options: str) -> str:
    done = made.devbox("up", "--approve", "all", *options)
    assert done.returncode == 0
    return done.stdout + done.stderr


def says(made: Checkout, command: str) -> str:
    return made.devbox("run", "--", "sh", "-c", command).stdout


def found_layers(env: dict[str, str]) -> list[dict[str, Any]]:
    metas = Path(env["DEVBOX_CACHE_DIR"]).glob("layers/*/meta.json")
    return sorted((json.loads(meta.read_text()) for meta in metas), key=lambda meta: len(meta["steps"]))


def blob(env: dict[str, str], layer: dict[str, Any]) -> bytes:
    return (Path(env["DEVBOX_CACHE_DIR"]) / "blobs/sha256" / str(layer["sha256"])).read_bytes()


def verified(made: Checkout) -> bool:
    return made.devbox("box", "verify").returncode == 0


IDENTITY = "cat /etc/machine-id ~/.ssh/authorized_keys /etc/ssh/ssh_host_ed25519_key.pub; hostname"


def test_the_next_machine_begins_where_the_first_ones_layer_ends(person: dict[str, str]) -> None:
    one = checkout("one", person)
    first = up(one)
    assert first.count("Kept as a layer") == 2
    layers = found_layers(person)
    assert [layer["steps"] for layer in layers] == [["slow"], ["slow", "quick"]]
    assert layers[1]["parent"] == layers[0]["sha256"]
    assert says(one, "cat ~/count ~/token ~/ours") == f"run\n{SECRET}{OURS}"
    mine = says(one, IDENTITY).splitlines()
    held = b"".join(blob(person, layer) for layer in layers)
    assert b"hello" in held, "this way of looking finds what is there"
    assert [planted for planted in (SECRET, PRIVATE, OURS) if planted.encode() in held] == []
    assert b"/workspace" not in held, "no folder, and no mount of one"
    for memory in Path(person["DEVBOX_CACHE_DIR"]).glob("templates/*/ram"):
        kept = memory.read_bytes()
        assert [planted for planted in (SECRET, PRIVATE, OURS) if planted.encode() in kept] == []

    two = checkout("two", person)
    second = up(two)
    assert "Start from the layer of 2 steps, made" in second
    assert "Kept as a layer" not in second
    assert says(two, "cat ~/count ~/token ~/ours") == f"run\n{SECRET}{OURS}", "`slow` did not run again"
    assert not set(mine[:3]) & set(says(two, IDENTITY).splitlines()), "they share an identity"
    for made in (one, two):
        assert not logs_in(made, layers), "the layer's key still opens a machine"
    assert verified(one)

    assert one.devbox("destroy", "--yes").returncode == 0
    assert "Start from the layer of 2 steps" in up(one), "destroy and up"
    edited = (two.root / "Devboxfile").read_text().replace("content: hello", "content: other")
    assert two.devbox("destroy", "--yes").returncode == 0
    two.write(edited)
    third = up(two, "--no-layers")
    assert "layer" not in third
    assert len(found_layers(person)) == 2
    assert two.devbox("destroy", "--yes").returncode == 0
    fourth = up(two)
    assert "Start from the layer of one step" in fourth, "the longest prefix that fits"
    assert fourth.count("Kept as a layer") == 1
    assert says(two, "cat ~/count /etc/thing") == "run\nother"
    for made in (one, two):
        made.devbox("destroy", "--yes")


def logs_in(made: Checkout, layers: list[dict[str, Any]]) -> bool:
    status = json.loads(made.devbox("status", "--json").stdout)
    folder = Path(made.env["DEVBOX_CACHE_DIR"]) / "layers" / layers[-1]["sha256"]
    options = ["BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null"]
    words = ["ssh", "-F", "none", "-i", str(folder / "id_ed25519"), "-p", str(status["ssh"]["port"])]
    words += [word for option in options for word in ("-o", option)]
    return subprocess.run([*words, "dev@127.0.0.1", "true"], check=False, capture_output=True).returncode == 0


def test_two_at_once_from_an_empty_store(person: dict[str, str]) -> None:
    both = [checkout(name, person) for name in ("one", "two")]
    started = [made.start("up", "--approve", "all") for made in both]
    ended = [process.communicate() for process in started]
    assert [process.returncode for process in started] == [0, 0], ended
    layers = found_layers(person)
    assert [layer["steps"] for layer in layers] == [["slow"], ["slow", "quick"]]
    assert verified(both[0])
    assert [says(made, "cat ~/count") for made in both] == ["run\n"] * 2
    for made in both:
        made.devbox("destroy", "--yes")
    assert "Start from the layer of 2 steps" in up(both[0])
    both[0].devbox("destroy", "--yes")


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("devbox.disk.overlay", "put_above"),
        ("devbox.machine.cut", "_snapshot"),  # the disk has its new top, and QEMU does not know it
        ("devbox.machine.cut", "settle"),
        ("devbox.disk.layers", "publish"),
        ("devbox.disk.layers", "_put_beside"),
    ],
)
def test_a_kill_while_a_layer_is_made(person: dict[str, str], module: str, name: str) -> None:
    made = checkout("one", person)
    words = [sys.executable, "-c", KILLED, module, name, "up", "--approve", "all"]
    done = subprocess.run(words, cwd=made.root, env=person, check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, f"{shlex.join(words)}\n{done.stdout}{done.stderr}"
    assert json.loads(made.devbox("status", "--json").stdout)["state"] == "running"
    assert made.devbox("halt", "--force").returncode == 0, "a power cut, for the guest"
    up(made)
    assert set(says(made, "cat ~/count").splitlines()) == {"run"}
    assert says(made, "cat ~/token ~/ours") == f"{SECRET}{OURS}"
    assert verified(made)
    assert made.devbox("destroy", "--yes").returncode == 0
    again = up(made)
    assert "Kept as a layer" in again or "Start from the layer" in again
    assert verified(made)
    assert made.devbox("destroy", "--yes").returncode == 0


STEPS = """\
  - name: quick
    file: {path: /etc/thing, content: hello}
"""


def test_a_memory_that_is_missing_or_spoilt_is_made_again(person: dict[str, str]) -> None:
    head, _, _ = DEVBOXFILE.partition("secrets:")
    made = checkout("one", person, text=f"{head}provision:\n{STEPS}")
    templates = Path(person["DEVBOX_CACHE_DIR"]) / "templates"

    def anew() -> bool:
        """Whether another machine of the file goes on from a memory; its step holds whichever way."""
        assert made.devbox("destroy", "--yes").returncode == 0
        warm = "Go on from the memory" in up(made)
        assert says(made, "cat /etc/thing") == "hello"
        return warm

    up(made)
    assert anew()
    shutil.rmtree(templates)
    assert not anew()
    assert anew()
    for state in templates.glob("*/state"):
        state.chmod(0o600)
        state.write_bytes(b"spoilt")
    assert made.devbox("destroy", "--yes").returncode == 0
    assert "could not be used" in up(made)
    assert anew()
    assert verified(made)
