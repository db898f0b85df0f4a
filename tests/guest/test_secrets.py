"""Twenty secrets of all sources and shapes, used and printed on purpose, and then looked for everywhere: 0 found.

Every value has a random core of 24 letters. Looking for cores is looking for more than for values: a line, a quoted or
an escaped form holds the core as well. Base64 is looked for apart. Two that are planted show that the search can find.
"""

import base64
import hashlib
import json
import os
import secrets
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.checkout import DEVBOX, Checkout, a_person
from tests.tiny import default_cache, tiny_image

pytestmark = pytest.mark.guest

# Shape → the value; @ is where its core goes.
SHAPES = {
    "PLAIN": "ghp_@",
    "QUOTES": "it's a \"@\" ''x''",
    "DOLLAR": "$HOME $(id) `id` ${X} @",
    "BACKSLASH": "back\\slash\\n @\\",
    "PERCENT": "100%s %d %% %2F@",
    "UNICODE": "pässwörd→鍵 @ é",
    "SPACES": "  before @ and after  ",
    "KEY": "-----BEGIN PRIVATE KEY-----\nMIIE@\n@AB\n-----END PRIVATE KEY-----",
    "BASE64": "dGhpcyBpcyBub3Qg@Zm9v+/==",
    "TRACED": "traced 'with' $quotes @",
    "TAIL": "in the tail @",
    "LATE": "too late @",
    "OTHERS": "of another account @",
    "ENCODED": "printed in base64 @ to its end",
    "PIECES": "in pieces @ of it",
    "JSON": '{"key": "@",\n "path": "a/b\\\\c"}',
    "LONG": "\n".join(["a line of many, the same each time", "@"] * 40),
    "URL": "user:p@ss/w?rd&@=1",
    "RING": "of the keyring @",
    "RING_TAB": "tab\tand bell @",
}
SOURCES = {
    "env": ("PLAIN", "QUOTES", "SPACES", "UNICODE", "TAIL", "LATE"),
    "file": ("KEY", "BASE64", "TRACED", "JSON", "LONG"),
    "command": ("DOLLAR", "BACKSLASH", "PERCENT", "OTHERS", "ENCODED", "PIECES", "URL"),
    "keyring": ("RING", "RING_TAB"),
}
KEYRING = """
import json, pathlib
from . import errors
def get_password(service, username):
    return json.loads(pathlib.Path(service).read_text()).get(username)
"""
# What every step does with what it sees: proves it by digests, and says what the folder is like.
SEE = r"""
for name in NAMES; do
  eval "value=\$$name"
  echo "$name $(printf %s "$value" | sha256sum) $(sha256sum <"$DEVBOX_SECRETS/$name")" >>/tmp/seen
  echo "plain: $value"
done
echo "$(id -un) $(stat -c '%a %U' "$DEVBOX_SECRETS" "$DEVBOX_SECRETS"/* | sort -u | tr '\n' ' ')" >>/tmp/folders
"""


@dataclass
class Vault:
    """The values, and the files and programs that give them out; none of the searched folders is in it."""

    folder: Path
    cores: dict[str, str] = field(default_factory=lambda: {name: secrets.token_hex(12) for name in SHAPES})

    def __post_init__(self) -> None:
        values = self.values
        for name in (*SOURCES["file"], *SOURCES["command"]):
            (self.folder / name).write_text(values[name] + "\n")
        (self.folder / "ring.json").write_text(json.dumps({name: values[name] for name in SOURCES["keyring"]}))
        (self.folder / "lib/keyring").mkdir(parents=True)
        (self.folder / "lib/keyring/__init__.py").write_text(KEYRING)
        (self.folder / "lib/keyring/errors.py").write_text("class KeyringError(Exception): pass\n")

    @property
    def values(self) -> dict[str, str]:
        return {name: shape.replace("@", self.cores[name]) for name, shape in SHAPES.items()}

    def declared(self) -> list[dict[str, Any]]:
        ring = str(self.folder / "ring.json")
        return [
            *({"name": name, "env": f"MY_{name}"} for name in SOURCES["env"]),
            *({"name": name, "file": str(self.folder / name)} for name in SOURCES["file"]),
            *({"name": name, "command": ["cat", str(self.folder / name)]} for name in SOURCES["command"]),
            *({"name": name, "keyring": {"service": ring, "username": name}} for name in SOURCES["keyring"]),
        ]

    def environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(self.folder / "lib"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        return {"PYTHONPATH": path, **{f"MY_{name}": self.values[name] for name in SOURCES["env"]}}

    def found(self, where: str, data: bytes) -> list[str]:
        return [f"{name} in {where}" for name, core in self.cores.items() if any(n in data for n in needles(core))]


def needles(core: str) -> list[bytes]:
    """The core, and its base64 in the three ways in which it can be aligned, without the letters at its ends."""
    coded = [base64.b64encode(b"x" * before + core.encode())[4:-4] for before in range(3)]
    return [core.encode(), *coded]


def step(name: str, *names: str, more: str = "", **common: Any) -> dict[str, Any]:
    return {
        "name": name,
        "run": f"#!/bin/sh\nset -e\n{SEE.replace('NAMES', ' '.join(names))}{more}",
        "secrets": [*names],
        **common,
    }


def steps(control: str) -> list[dict[str, Any]]:
    gate = f"sh -c 'until test -e /tmp/gate; do sleep 0.2; done' {control}"
    first, second = ('$(printf %s "$PIECES" | cut -c1-20)', '$(printf %s "$PIECES" | cut -c21-)')
    return [
        {"user": {"name": "app", "uid": 1500, "shell": "/bin/sh"}},
        {"run": ": >/tmp/seen; : >/tmp/folders; chmod 666 /tmp/seen /tmp/folders", "name": "begin", "when": "once"},
        step("all sorts", "PLAIN", "QUOTES", "DOLLAR", "BACKSLASH", "PERCENT", "UNICODE", "SPACES", "RING", "RING_TAB"),
        step("key", "KEY", "LONG", "JSON", "BASE64", more='cat "$DEVBOX_SECRETS/KEY"; printf "%s" "$LONG" | tail -n 5'),
        step("traced", "TRACED", more='set -x; : "$TRACED"; x=$TRACED; echo "x${TRACED}y"; set +x; env | grep TRACED'),
        step("encoded", "ENCODED", more='for x in "" a ab; do printf "%s%s" "$x" "$ENCODED" | base64 -w0; echo; done'),
        step("url", "URL", more="printf '%s' \"$URL\" | sed 's/:/%3A/;s/@/%40/;s|/|%2F|;s/?/%3F/;s/&/%26/;s/=/%3D/'"),
        step("pieces", "PIECES", more=f'printf %s "{first}"; sleep 1; printf %s "{second}"; echo'),
        step("others", "OTHERS", **{"as": "app"}),
        step("roots", "PLAIN", more="touch /root/root", **{"as": "root"}),
        step("gate", *(name for name in SHAPES if name not in {"TAIL", "LATE"}), more=f"touch /tmp/at-gate; {gate}"),
        step("tail", "TAIL", more='echo "tail: $TAIL" >&2; test -e /tmp/flag || exit 3'),
        step("late", "LATE", more='printf "no end $LATE"; test -e /tmp/flag2 || sleep 300', timeout=25),
        {"name": "without", "run": 'test -z "${PLAIN-}${DEVBOX_SECRETS-}"; ! ls /run/devbox 2>/dev/null'},
    ]  # fmt: skip


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Vault:
    return Vault(tmp_path_factory.mktemp("vault"))


@pytest.fixture(scope="module")
def checkout(vault: Vault, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    with a_person() as env:
        yield Checkout(tmp_path_factory.mktemp("project"), {**env, **vault.environment()})


def process_lists(guest: str) -> dict[str, bytes]:
    found = b""
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += process.read_bytes()
        except OSError:
            continue
    return {"the host's process list": found, "the guest's process list": guest.encode()}


def wait_for_gate(checkout: Checkout, running: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 900
    while checkout.devbox("run", "--", "test", "-e", "/tmp/at-gate").returncode != 0:
        assert running.poll() is None, running.communicate()[1].decode()
        assert time.monotonic() < deadline, "it never came to the gate"
        time.sleep(1)


def files(env: Mapping[str, str], root: Path) -> Iterator[tuple[str, bytes]]:
    for folder in (env["DEVBOX_STATE_DIR"], env["DEVBOX_CACHE_DIR"], env["DEVBOX_RUNTIME_DIR"], str(root)):
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file() and not path.is_symlink():
                yield str(path), path.read_bytes()


def devboxfile(vault: Vault, control: str) -> str:
    image, sha256 = tiny_image(default_cache())
    machine = {
        "version": 1, "name": "vault", "box": {"path": str(image), "sha256": sha256}, "cpus": 1, "memory": "256MiB",
        "disk": "2GiB", "folders": [], "secrets": vault.declared(), "provision": steps(control),
    }  # fmt: skip
    return json.dumps(machine, indent=1, ensure_ascii=False)


def up_and_look_while_it_runs(checkout: Checkout, vault: Vault, control: str) -> bytes:
    """What `up` said until the step `tail` failed. Looks at both process lists while a step has all secrets."""
    with checkout.start("up", "--approve=all") as running:
        wait_for_gate(checkout, running)
        lists = process_lists(checkout.devbox("run", "--", "sh", "-c", "sudo cat /proc/[0-9]*/cmdline").stdout)
        look = "stat -f -c %T /run/devbox; sudo sh -c 'ls /run/devbox/*/'"
        there = checkout.devbox("run", "--", "sh", "-c", look).stdout.splitlines()
        assert checkout.devbox("run", "--", "touch", "/tmp/gate").returncode == 0
        said = b"".join(running.communicate())
    assert running.returncode == 1, said.decode()
    assert "tail: ‹TAIL›" in said.decode()
    for where, data in lists.items():
        assert vault.found(where, data) == []
    assert control.encode() in lists["the guest's process list"], "the search in process lists finds nothing at all"
    assert there[0] == "tmpfs"
    left = [line.rpartition(".")[2] for line in there if line.endswith((".secrets", ".forms"))]
    assert sorted(left) == ["forms"] * 3 + ["secrets"] * 3, "those of this step, and of the two that come after it"
    return said


def all_seen(vault: Vault, lines: str) -> None:
    """Whether each step saw the right values, by the digests that it wrote."""
    seen = dict(line.split(" ", 1) for line in lines.splitlines())
    for name, value in vault.values.items():
        digest = hashlib.sha256(value.encode()).hexdigest()
        assert seen[name].split() == [digest, "-", digest, "-"], f"the step saw another {name}"


def test_twenty_secrets_are_used_and_none_is_found(checkout: Checkout, vault: Vault) -> None:
    assert len(SHAPES) == 20 == sum(map(len, SOURCES.values()))
    in_argv, on_disk = secrets.token_hex(12), secrets.token_hex(12)
    checkout.write(devboxfile(vault, in_argv))
    said = [("what `up` said", up_and_look_while_it_runs(checkout, vault, in_argv))]

    def devbox(*words: str, status: int = 0) -> str:
        done = checkout.devbox(*words)
        assert done.returncode == status, done.stderr
        said.append((f"what `devbox {' '.join(words)}` said", (done.stdout + done.stderr).encode()))
        return done.stdout + done.stderr

    def guest(command: str) -> str:
        return devbox("run", "--", "sudo", "sh", "-c", command)

    guest("touch /tmp/flag")
    assert "stopped after its time limit" in devbox("provision", status=1)
    guest("touch /tmp/flag2")
    assert "2 changed" in devbox("provision")
    assert " 0 changed" in devbox("provision")
    assert "would change" not in devbox("provision", "--check", "--diff")
    checkout.env["MY_PLAIN"] = "another value altogether"
    preview = devbox("provision", "--check")
    changed = [line.split(":")[0].strip(" ~") for line in preview.splitlines() if "would change (" in line]
    assert changed == ["all sorts", "roots", "gate"]
    checkout.env["MY_PLAIN"] = vault.values["PLAIN"]
    told = devbox("provision", "--json", "--diff", "--force", "pieces", "--force", "encoded", "--force", "key")
    assert told.count("‹PIECES›") >= 1
    assert "‹KEY›" in told

    all_seen(vault, guest("cat /tmp/seen"))
    folders = set(guest("cat /tmp/folders").splitlines())
    assert folders == {f"{user} 600 {user} 700 {user} " for user in ("dev", "app", "root")}
    for name in ("all sorts", "key", "traced", "encoded", "url", "pieces", "others", "roots", "gate", "tail", "late"):
        assert "‹" in devbox("logs", name)
    for words in (("logs",), ("logs", "--serial"), ("status", "--json"), ("list", "--json"), ("ports",)):
        devbox(*words)
    guest("cat /proc/[0-9]*/cmdline /etc/profile.d/* /var/lib/devbox/*/* /var/log/devbox/*; true")
    assert guest("find /run/devbox -mindepth 1") == "/run/devbox/lock\n"

    plant = [str(DEVBOX), "run", "--", "sh", "-c", "cat >~/planted; sync"]
    subprocess.run(plant, cwd=checkout.root, env=checkout.env, input=on_disk.encode(), check=True)
    devbox("halt")
    searched = dict([*said, *files(checkout.env, checkout.root)])
    names = {Path(where).name for where, data in searched.items() if data}
    assert {"seed.iso", "serial.log", "log.jsonl", "outcome.json", "Devboxfile"} <= names
    holders = [Path(where).name for where, data in searched.items() if on_disk.encode() in data]
    assert [name.partition("-")[0] for name in holders] == ["disk"], "the search does not find what is on the disk"
    assert [found for where, data in searched.items() for found in vault.found(where, data)] == []
    print(f"20 secrets: 0 found in {len(searched)} places, {sum(map(len, searched.values())) >> 20} MiB")
    devbox("destroy", "--yes")
