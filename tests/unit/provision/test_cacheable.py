"""The rule for what may be in a layer, as a table."""

from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from devbox.config.model import Arch, BoxRef, Folder, MachineSpec, User, When
from devbox.provision import bind, cacheable
from devbox.provision.step import Step
from tests.unit.provision.fake import step

MACHINE = MachineSpec(
    "default",
    {Arch.X86_64: BoxRef(name="x")},
    Arch.X86_64,
    user=User("dev"),
    folders=(
        Folder(Path("/p"), PurePosixPath("/workspace")),
        Folder(Path("/p/in"), PurePosixPath("/home/dev/code")),
    ),
)


def bound(kind: str, options: Any, root: Path, **common: Any) -> Step[Any]:
    return bind.bind((replace(step(kind, options, "it"), **common),), root, "dev")[0]


@pytest.mark.parametrize(
    ("kind", "options", "common", "reason"),
    [
        ("run", "make", {}, ""),
        ("run", "make", {"when": When.ONCE}, ""),
        ("packages", ["git"], {}, ""),
        ("file", {"path": "/etc/x", "content": "text"}, {}, ""),
        ("wait", {"port": 80}, {}, ""),
        ("run", "make", {"when": When.ALWAYS}, "each time"),
        ("run", "make", {"when": When.BOOT}, "every boot"),
        ("run", "make", {"when": When.MANUAL}, "asked for"),
        ("run", "make", {"layer": False}, "layer: false"),
        ("run", "make", {"secrets": ("TOKEN",)}, "secrets"),
        ("file", {"path": "/etc/x", "content": "text"}, {"sensitive": True}, "sensitive"),
        ("reboot", None, {}, "this computer"),
        ("run", "make", {"cwd": "/workspace"}, "/workspace"),
        ("run", "make", {"cwd": "/workspace/deep"}, "/workspace"),
        ("run", "cd /workspace && make", {}, "/workspace"),
        ("run", {"run": "make", "creates": "/workspace/out"}, {}, "/workspace"),
        ("run", {"run": "make", "unless": "test -e '/workspace'"}, {}, "/workspace"),
        ("run", "make", {"condition": {"test": "test -e /workspace/flag"}}, "/workspace"),
        ("run", "make", {"env": {"HERE": "/workspace/x"}}, "/workspace"),
        ("file", {"path": "/etc/x", "content": "root=/workspace\n"}, {}, "/workspace"),
        ("link", {"path": "/opt/x", "target": "/workspace/x"}, {}, "/workspace"),
        ("run", "ls /workspaces /srv/workspace /workspace.old", {}, ""),
        ("run", "ls ~/code", {}, "/home/dev/code"),
        ("run", "ls $HOME/code/x", {}, "/home/dev/code"),
        ("run", "ls code", {}, "/home/dev/code"),
        ("run", "ls code", {"user": "root"}, ""),
        ("run", "ls code", {"cwd": "/srv"}, ""),
        ("run", "echo $DEVBOX_PORT_WEB", {}, "port"),
        ("run", "make", {"env": {"A": "$DEVBOX_PORT_WEB"}}, "port"),
    ],
)
def test_one_step(tmp_path: Path, kind: str, options: Any, common: dict[str, Any], reason: str) -> None:
    found = cacheable.why_not(bound(kind, options, tmp_path, **common), MACHINE)
    assert (reason in found) if reason else found == ""


def test_a_files_content_counts_as_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "setup.sh").write_text("cp -r /workspace/conf /etc\n")
    assert "/workspace" in cacheable.why_not(bound("script", {"src": "setup.sh"}, tmp_path), MACHINE)


def test_nothing_behind_the_first_that_may_not(tmp_path: Path) -> None:
    steps = [bound("run", text, tmp_path) for text in ("one", "two", "ls /workspace", "four")]
    assert cacheable.prefix(steps, MACHINE) == (2, "`it`: it works with the synced folder /workspace")
    assert cacheable.prefix(steps[:2], MACHINE) == (2, "")
    assert cacheable.prefix((), MACHINE) == (0, "")
