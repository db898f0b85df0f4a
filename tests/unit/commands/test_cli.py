import errno
import importlib
import inspect
from pathlib import Path

import pytest

from devbox import cli
from devbox.errors import DevboxError, ExitCode
from devbox.version import __version__
from tests.unit.commands.invoke import invoke


@pytest.mark.parametrize("verb", [verb for verb in cli.VERBS if verb not in cli.GROUPS])
def test_help_says_the_same_at_both_places(verb: str) -> None:
    module = importlib.import_module(f"devbox.commands.{verb.replace('-', '_')}")
    documented = inspect.getdoc(getattr(module, verb.replace("-", "_"))) or ""
    assert documented.splitlines()[0] == cli.VERBS[verb]


def test_help_lists_every_verb() -> None:
    shown = invoke("--help")
    assert shown.status == 0
    listed = {line.split()[0] for line in shown.stdout.splitlines() if line.startswith("  ") and line.strip()}
    assert set(cli.VERBS) <= listed


@pytest.mark.parametrize("verb", list(cli.VERBS))
def test_every_verb_has_its_own_help(verb: str) -> None:
    shown = invoke(verb, "--help")
    assert shown.status == 0
    assert f"devbox {verb}" in shown.stdout


def test_version() -> None:
    assert invoke("--version").stdout == f"devbox {__version__}\n"
    assert invoke("version").stdout == f"devbox {__version__}\n"


@pytest.mark.parametrize(("typed", "meant"), [("stauts", "status"), ("provison", "provision")])
def test_a_mistyped_verb_is_a_usage_error_that_names_the_right_one(typed: str, meant: str) -> None:
    shown = invoke(typed)
    assert shown.status == ExitCode.USAGE
    assert meant in shown.stderr


@pytest.mark.parametrize(
    "verb", ["up", "status", "ssh", "halt", "provision", "ports", "ssh-config", "logs", "validate"]
)
def test_without_a_devboxfile(verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = invoke(verb)
    assert shown.status == ExitCode.USAGE
    assert "There is no Devboxfile" in shown.stderr
    assert "devbox init" in shown.stderr
    assert shown.stdout == ""


@pytest.mark.parametrize("verb", ["ssh", "halt", "ports", "ssh-config", "logs", "resume", "destroy"])
def test_before_the_first_up(verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Devboxfile").write_text("version: 1\nbox: debian-12\n")
    monkeypatch.chdir(tmp_path)
    shown = invoke(verb)
    assert shown.status == ExitCode.FAILED
    assert "does not exist yet" in shown.stderr
    assert "devbox up" in shown.stderr


def test_the_directory_option(tmp_path: Path) -> None:
    (tmp_path / "Devboxfile").write_text("version: 1\nbox: debian-12\n")
    assert invoke("-C", str(tmp_path), "validate").status == 0
    assert invoke("-C", str(tmp_path / "nowhere"), "validate").status == ExitCode.USAGE


def raising(error: BaseException) -> object:
    def verb() -> None:
        raise error

    return verb


def test_a_bug_leaves_a_report(monkeypatch: pytest.MonkeyPatch, devbox_dirs: Path) -> None:
    monkeypatch.setattr("devbox.commands.version.version", raising(ZeroDivisionError("1/0")))
    shown = invoke("version")
    assert shown.status == ExitCode.BUG
    (report,) = (devbox_dirs / "state" / "bugs").iterdir()
    assert "ZeroDivisionError" in report.read_text()
    assert str(report) in shown.stderr


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "disk is full"), (errno.EACCES, "Permission denied"), (errno.EROFS, "read-only, and")],
)
def test_what_the_system_refuses_is_no_bug(monkeypatch: pytest.MonkeyPatch, number: int, words: str) -> None:
    import os

    monkeypatch.setattr("devbox.commands.version.version", raising(OSError(number, os.strerror(number), "/some/file")))
    shown = invoke("version")
    assert shown.status == ExitCode.FAILED
    assert words in shown.stderr
    assert "/some/file" in shown.stderr


def test_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("devbox.commands.version.version", raising(KeyboardInterrupt()))
    shown = invoke("version")
    assert shown.status == ExitCode.INTERRUPTED
    assert "Interrupted" in shown.stderr


def test_what_is_not_ours_cannot_paint_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    trouble = DevboxError("some.id", "\x1b[31mred\x07", hint="\x1b]0;title\x07do", details="a\x1b[2Jb")
    monkeypatch.setattr("devbox.commands.version.version", raising(trouble))
    assert "\x1b" not in invoke("version").stderr
