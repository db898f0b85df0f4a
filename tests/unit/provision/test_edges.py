"""What a hard look at the engine has found, each as a case that failed before."""

import json
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from devbox.config import build
from devbox.config.model import StepSpec, When
from devbox.config.values import Host
from devbox.errors import DevboxError
from devbox.guest.openssh import Endpoint
from devbox.provision import bind, journal
from devbox.provision.apply import Options, Report, provision
from devbox.provision.kinds import run
from devbox.provision.step import Action, HostResult, HostSide, Kind
from tests.unit.provision.fake import FakeGuest, Go, step
from tests.unit.provision.test_apply import statuses

HEAD = "version: 1\nbox: debian-12\nprovision:\n"


def written(root: Path, steps: str) -> tuple[StepSpec, ...]:
    (root / "Devboxfile").write_text(HEAD + steps)
    return build.load(root, Host("x86_64", 4, 8 << 30)).machine.steps


def test_a_command_that_is_put_between_runs_alone(guest: FakeGuest, go: Go, project: Path) -> None:
    order = guest.path("order")

    def block(word: str) -> str:
        return f"  - run: |\n      set -eu\n      echo {word} >>{order}\n"

    twice = f"  - run: echo twice >>{order}\n" * 2
    assert statuses(go(*written(project, block("A") + block("B") + twice))) == ["changed"] * 4
    edited = written(project, block("N") + block("A") + block("B") + twice)
    assert statuses(go(*edited)) == ["changed"] + ["same"] * 4
    assert order.read_text().split() == ["A", "B", "twice", "twice", "N"]
    assert [one.name.partition(":")[2][:6] for one in edited[:3]] == ["echo N", "echo A", "echo B"]


def test_a_step_that_is_chosen_alone_still_sees_what_it_needs(guest: FakeGuest, go: Go) -> None:
    count = guest.path("count")

    def steps(content: str) -> tuple[StepSpec, ...]:
        conf = step("file", {"path": str(guest.path("conf")), "content": content}, "conf")
        return conf, step("run", f"echo x >>{count}", "after", needs=("conf",))

    go(*steps("1"))
    assert statuses(go(*steps("2"), only=("conf",))) == ["changed"]
    assert statuses(go(*steps("2"), only=("after",), check=True)) == ["would change"]
    assert statuses(go(*steps("2"), only=("after",))) == ["changed"]
    assert statuses(go(*steps("2"))) == ["same", "same"]
    assert count.read_text() == "x\nx\n"


def test_what_was_cut_off_in_a_state_step_is_done_again(
    guest: FakeGuest, go: Go, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its state may show the first half of its work only."""
    made, told = guest.path("made"), guest.path("told")
    half: Kind[Any] = Kind(
        parse=lambda raw, source: raw,  # noqa: ARG005
        probe=lambda options: f"[ ! -e {made} ] || field made yes",  # noqa: ARG005
        desired=lambda options, facts: (("made", "yes"),),  # noqa: ARG005
        apply=lambda options, facts: Action(f"touch {made}; test -e {guest.path('well')}; touch {told}\n".encode()),  # noqa: ARG005
    )
    monkeypatch.setattr(bind, "KINDS", MappingProxyType({**bind.KINDS, "half": half}))
    with pytest.raises(DevboxError):
        go(step("half", {}, "two effects"))
    guest.path("well").touch()
    assert statuses(go(step("half", {}, "two effects"))) == ["changed"]
    assert told.exists()
    assert statuses(go(step("half", {}, "two effects"))) == ["same"]


def test_once_is_noted_for_what_was_so_already(guest: FakeGuest, go: Go) -> None:
    target = guest.path("conf")
    target.write_text("mine")
    wanted = step("file", {"path": str(target), "content": "mine"}, "conf", when=When.ONCE)
    assert statuses(go(wanted, check=True)) == ["same"]
    assert statuses(go(wanted)) == ["same"]
    target.write_text("edited by hand")
    before = guest.channels
    assert statuses(go(wanted)) == ["same"]
    assert (target.read_text(), guest.channels) == ("edited by hand", before + 1)


def test_our_own_scripts_keep_their_names_and_their_path(guest: FakeGuest, go: Go) -> None:
    hostile = {name: "/no/such" for name in ("files", "state", "etc", "manager", "run", "path", "PATH", "journal")}
    target = guest.path("conf")
    steps = (
        step("file", {"path": str(target), "content": "x", "mode": "0640"}, "conf", env=hostile),
        step("run", f'echo "$files $PATH" >{guest.path("seen")}', "command", env={**hostile, "PATH": "/mine:/usr/bin"}),
    )
    assert statuses(go(*steps)) == ["changed", "changed"]
    assert target.read_text() == "x"
    assert guest.path("seen").read_text() == "/no/such /mine:/usr/bin\n"


def test_choices_that_leave_nothing_or_forget_something_are_mistakes(go: Go) -> None:
    steps = (step("run", "true", "a"), step("run", "true", "b"))
    with pytest.raises(DevboxError, match="`a` is forced, but not among the chosen"):
        go(*steps, force=("a",), only=("b",))
    with pytest.raises(DevboxError, match="No step is left"):
        go(*steps, only=("a",), skip=("a",))
    assert statuses(go(step("run", "true", "m", when=When.MANUAL), force=("m",))) == ["changed"]


def test_a_sensitive_step_shows_digests_of_what_differs(go: Go, guest: FakeGuest) -> None:
    target = guest.path("a link")
    wanted = step("link", {"path": str(target), "target": "/hunter2"}, "link", sensitive=True)
    for report in (go(wanted, check=True), go(wanted)):
        shown = str(report.outcomes)
        assert "hunter2" not in shown
        assert "target" in shown


def test_an_old_log_of_a_step_that_became_sensitive_goes(guest: FakeGuest, go: Go) -> None:
    log = guest.path(f"var/log/devbox/{journal.slug('say')}.log")
    go(step("run", "echo open", "say"))
    assert log.read_text() == "open\n"
    go(step("run", "echo closed", "say", sensitive=True))
    assert not log.exists()


def test_a_letter_that_comes_in_two_pieces_is_whole(go: Go) -> None:
    with pytest.raises(DevboxError) as failure:
        go(step("run", "printf '\\303'; sleep 1; printf '\\274bung\\n'; exit 1", "say"))
    assert failure.value.details.endswith("\nübung")


def test_hints_can_be_pasted(go: Go) -> None:
    with pytest.raises(DevboxError) as failure:
        go(step("run", "exit 1", "say 'a b'"))
    assert """devbox logs 'say '"'"'a b'"'"''""" in str(failure.value.hint)


def test_reasons_are_those_of_the_end(go: Go, guest: FakeGuest, capsys: pytest.CaptureFixture[str]) -> None:
    flag = guest.path("flag")
    first = step("run", "true", "first")
    report = go(first, step("run", "true", "guarded", condition={"test": f"test -e {flag}"}))
    assert report.outcomes[1].reason == f"`test -e {flag}` does not succeed"
    with pytest.raises(DevboxError):
        go(step("run", "exit 2", "bad"), step("run", "true", "after", needs=("bad",)), events=True)
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    (blocked,) = [event for event in events if event.get("status") == "blocked"]
    assert (blocked["reason"], blocked["changes"]) == ("it needs `bad`", [])


class TestHere:
    """Steps of this computer."""

    @pytest.fixture
    def here(self, guest: FakeGuest, project: Path, monkeypatch: pytest.MonkeyPatch) -> Go:
        self.calls = 0

        def host(options: run.Run, side: HostSide) -> HostResult:  # noqa: ARG001
            self.calls += 1
            side.output(b"hunter2\n")
            if b"fail" in options.script:
                raise DevboxError("reboot.refused", "hunter2 was refused.")
            return HostResult()

        def fetch(options: run.Run) -> None:
            if b"missing" in options.script:
                raise DevboxError("download.not-found", "It is not there.")

        kinds = {"here": replace(run.KIND, host=host), "fetched": replace(run.KIND, fetch=fetch)}
        monkeypatch.setattr(bind, "KINDS", MappingProxyType({**bind.KINDS, **kinds}))

        def provision_with(*steps: StepSpec, **options: Any) -> Report:
            endpoint = Endpoint(1, "root", project, project)
            context = replace(guest.context(project), connect=lambda: guest, endpoint=endpoint)
            return provision(guest, steps, context, Options(**options))

        return provision_with

    def test_its_receipt_does_not_depend_on_its_account_and_folder(self, here: Go) -> None:
        wanted = step("here", "work", "here", cwd="/no/such", user="nosuch", env={"PATH": "/nowhere", "files": "x"})
        assert statuses(here(wanted)) == ["changed"]
        assert statuses(here(wanted)) == ["same"]
        assert self.calls == 1

    def test_a_sensitive_one_says_nothing(self, here: Go, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(DevboxError) as failure:
            here(step("here", "fail", "here", sensitive=True))
        shown = "".join(capsys.readouterr()) + failure.value.message + failure.value.details
        assert "hunter2" not in shown
        assert "The step `here` (Devboxfile:7) failed: it failed." in shown

    def test_what_cannot_be_fetched_fails_its_own_step(self, here: Go, capsys: pytest.CaptureFixture[str]) -> None:
        steps = (step("run", "true", "one"), step("fetched", "missing", "two"), step("run", "true", "three"))
        with pytest.raises(DevboxError) as failure:
            here(*steps)
        assert failure.value.message == "The step `two` (Devboxfile:7) failed: It is not there."
        assert "1 changed, 1 failed, 1 not reached" in capsys.readouterr().err

    def test_a_run_of_somebody_else_does_not_lose_its_receipt(self, here: Go, guest: FakeGuest) -> None:
        real = guest.run
        lost: list[str] = []

        def busy_once(command: str, **options: Any) -> Any:
            if "tar -xf" in command and not lost:
                lost.append(command)
                holder = guest.path("run/devbox/lock")
                holder.parent.mkdir(parents=True, exist_ok=True)
                return real(f"exec 9>>{holder}; flock -n 9; {command.replace('exec ', '', 1)}", **options)
            return real(command, **options)

        guest.run = busy_once  # type: ignore[method-assign]
        assert statuses(here(step("here", "work", "here"))) == ["changed"]
        assert (self.calls, len(lost)) == (1, 1)
