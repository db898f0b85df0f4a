import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from devbox.commands import logs, session
from devbox.errors import DevboxError
from devbox.machine import started
from devbox.provision import journal
from tests.unit.disk import machines


class EnoughError(Exception):
    """Ends the following, which has no end of its own."""


def test_what_the_guest_writes_cannot_paint_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    console = tmp_path / "serial.log"
    console.write_bytes(b"one\n\x1b[31mtwo\x1b[0m\n")
    rounds = iter([b"three \x1b]0;title\x07\n", b"short\n"])

    def meanwhile(_seconds: float) -> None:
        text = next(rounds, None)
        if text is None:
            raise EnoughError
        if text == b"short\n":
            console.write_bytes(text)  # the machine was started again
        else:
            with console.open("ab") as file:
                file.write(text)

    monkeypatch.setattr("devbox.commands.logs.time.sleep", meanwhile)
    with pytest.raises(EnoughError):
        logs._console(console, 0, follow=True)
    assert capsys.readouterr().out == "one\ntwo\nthree \nshort\n"


class Machine:
    """One whose SSH is a shell of this computer, with the programs that a test gives it."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: str) -> None:
        self.record, _ = machines.record(tmp_path)
        self.record = dataclasses.replace(self.record, user="dev")
        self.bin = tmp_path / "bin"
        self.bin.mkdir()
        words = shell.split()
        for name in ("cat", "tail"):
            (self.bin / name).symlink_to(str(shutil.which(name)))
        (self.bin / "sh").write_text(f'#!/bin/sh\nexec {shutil.which(words[0])} {" ".join(words[1:])} "$@"\n')
        (self.bin / "sh").chmod(0o755)
        self.logs = tmp_path / "guest/var/log/devbox"
        self.logs.mkdir(parents=True)
        places = journal.Places(prefix=str(tmp_path / "guest"))
        monkeypatch.setattr(journal, "Places", lambda: places)
        run = lambda remote, **_: ["/usr/bin/env", f"PATH={self.bin}", f"{self.bin}/sh", "-c", remote]  # noqa: E731
        monkeypatch.setattr(session, "current", lambda: SimpleNamespace(argv=run))
        monkeypatch.setattr(started, "load", lambda _: SimpleNamespace(mounts=(), disks=()))

    def sudo(self, text: str) -> None:
        (self.bin / "sudo").write_text(f"#!{shutil.which('dash')}\n{text}\n")
        (self.bin / "sudo").chmod(0o755)

    def devboxfile(self, *names: str) -> None:
        steps = "".join(f"  - {{name: {name}, run: 'true'}}\n" for name in names)
        text = f"version: 1\nname: x\nbox: {{recipe: debian-12}}\nprovision:\n{steps}"
        (self.record.project / "Devboxfile").write_text(text)

    def refusal(self, step: str) -> DevboxError:
        with pytest.raises(DevboxError) as refused:
            logs._step_log(self.record, step, 0)
        return refused.value


SUDO = '[ "$1" = -n ] || exit 2; shift; exec "$@"'


@pytest.fixture(params=["dash", "busybox sh", "bash"])
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Machine:
    return Machine(tmp_path, monkeypatch, request.param)


def test_a_steps_log_is_shown(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.sudo(SUDO)
    Path(journal.log_path("it's one")).write_text("first\nlast\n")
    logs._step_log(machine.record, "it's one", 0)
    logs._step_log(machine.record, "it's one", 1)
    logs._step_log(machine.record, journal.slug("it's one"), 1)  # as it is listed where the Devboxfile cannot be read
    assert capsys.readouterr().out == "first\nlast\nlast\nlast\n"


def test_root_needs_no_sudo(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.record = dataclasses.replace(machine.record, user="root")
    Path(journal.log_path("one")).write_text("said\n")
    logs._step_log(machine.record, "one", 0)
    assert capsys.readouterr().out == "said\n"


@pytest.mark.parametrize("sudo", ["", "echo 'sudo: a password is required' >&2; exit 1", "echo sudo: no >&2; exit 99"])
def test_what_keeps_a_log_from_us_is_not_its_absence(machine: Machine, sudo: str) -> None:
    if sudo:
        machine.sudo(sudo)
    Path(journal.log_path("one")).write_text("said\n")
    refused = machine.refusal("one")
    assert refused.id == "logs.unreadable"
    assert "sudo" in refused.details
    assert "let `sudo -n true` succeed for dev" in refused.hint


def test_a_step_without_a_log_is_told_from_a_wrong_name(machine: Machine) -> None:
    machine.sudo(SUDO)
    machine.devboxfile("install nginx", "site", "never ran")
    Path(journal.log_path("install nginx")).write_text("said\n")
    assert machine.refusal("instal ngnx").hint == "Did you mean `install nginx`?"
    refused = machine.refusal("quite another")
    assert (refused.id, refused.message) == ("logs.no-step", "There is no log of a step named `quite another`.")
    assert refused.hint == "There are: machine settings, install nginx, site, never ran."
    assert machine.refusal("never ran").message == "The step `never ran` has left no log in this machine yet."


def test_without_a_devboxfile_the_logs_there_are_named(machine: Machine) -> None:
    machine.sudo(SUDO)
    assert machine.refusal("one").hint == "No step has left one."
    Path(journal.log_path("install nginx")).write_text("said\n")
    (machine.logs / "-n $(oops).log").touch()
    slug = journal.slug("install nginx")
    assert machine.refusal("zzz").hint == f"There are: {slug}."
    assert machine.refusal("install-nginx").hint == f"Did you mean `{slug}`?"
