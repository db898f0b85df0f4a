"""Runs in several rounds: steps that this computer carries out, steps of each boot, steps that changed nothing."""

import json
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from devbox.config.model import StepSpec, When
from devbox.errors import DevboxError
from devbox.guest.openssh import Endpoint
from devbox.provision import bind
from devbox.provision.apply import Options, Report, provision
from devbox.provision.kinds import run
from devbox.provision.step import HostResult, HostSide
from tests.unit.provision.fake import FakeGuest, Go, step
from tests.unit.provision.test_apply import statuses


class Here:
    """The host side of a kind of the tests: does what its option says, and counts."""

    def __init__(self, guest: FakeGuest) -> None:
        self.guest = guest
        self.calls: list[str] = []
        self.connections = 0

    def connect(self) -> FakeGuest:
        self.connections += 1
        return self.guest

    def host(self, options: run.Run, side: HostSide) -> HostResult:
        word = options.script.decode().strip()
        self.calls.append(word)
        side.output(b"from here\n")
        if word == "fail":
            raise DevboxError("reboot.refused", "It was refused.")
        if word == "flaky" and len(self.calls) < 2:
            raise DevboxError("reboot.refused", "Not yet.")
        return HostResult(changed=word != "idle")


@pytest.fixture
def here(guest: FakeGuest, monkeypatch: pytest.MonkeyPatch) -> Here:
    made = Here(guest)
    monkeypatch.setattr(bind, "KINDS", MappingProxyType({**bind.KINDS, "here": replace(run.KIND, host=made.host)}))
    return made


@pytest.fixture
def go(guest: FakeGuest, project: Path, here: Here) -> Go:
    def provision_with(*steps: StepSpec, **options: Any) -> Report:
        endpoint = Endpoint(1, "root", project, project)
        context = replace(guest.context(project), connect=here.connect, endpoint=endpoint)
        return provision(guest, steps, context, Options(**options))

    return provision_with


def test_a_step_of_this_computer_parts_the_run_and_has_its_receipt(guest: FakeGuest, go: Go, here: Here) -> None:
    order = guest.path("order")
    steps = (
        step("run", f"echo 1 >>{order}", "before"),
        step("here", "work", "here"),
        step("run", f"cat {guest.path('var/log/devbox')}/here-*.log >>{order}", "after", needs=("here",)),
        step("run", f"echo always >>{order}", "always", when=When.ALWAYS),
    )
    assert statuses(go(*steps, check=True)) == ["would change"] * 4
    assert here.calls == []
    assert statuses(go(*steps)) == ["changed"] * 4
    assert order.read_text() == "1\nfrom here\nalways\n"
    assert here.calls == ["work"]
    assert statuses(go(*steps)) == ["same", "same", "same", "changed"]
    before = guest.channels
    assert statuses(go(*steps[:3])) == ["same"] * 3
    assert guest.channels == before + 1
    assert statuses(go(*steps[:3], force=("here",))) == ["same", "changed", "changed"], "what needs it runs again"
    assert here.calls == ["work"] * 2


def test_a_step_here_that_changed_nothing_triggers_nothing(guest: FakeGuest, go: Go, here: Here) -> None:
    count = guest.path("count")
    steps = (step("here", "idle", "here", when=When.ALWAYS), step("run", f"echo x >>{count}", "after", needs=("here",)))
    assert statuses(go(*steps)) == ["same", "changed"]
    assert statuses(go(*steps)) == ["same", "same"]
    assert here.calls == ["idle"] * 2
    assert count.read_text() == "x\n"


def test_a_step_here_that_fails_is_told_like_any_other(go: Go, here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    steps = (
        step("run", "true", "before"),
        step("here", "fail", "here"),
        step("run", "true", "after", needs=("here",)),
        step("run", "true", "last"),
    )
    with pytest.raises(DevboxError) as failure:
        go(*steps)
    assert failure.value.message == "The step `here` (Devboxfile:7) failed: It was refused."
    assert failure.value.details == "from here"
    assert "1 changed, 1 failed, 1 blocked, 1 not reached" in capsys.readouterr().err
    with pytest.raises(DevboxError):
        go(*steps)
    assert here.calls == ["fail"] * 2, "a failed step has no receipt"


def test_a_step_here_is_tried_again(go: Go, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("devbox.provision.host_step.time.sleep", lambda seconds: None)
    assert statuses(go(step("here", "flaky", "here", retries=1))) == ["changed"]
    assert here.calls == ["flaky"] * 2


def test_a_step_here_is_looked_at_again_behind_a_step_that_acts(guest: FakeGuest, go: Go, here: Here) -> None:
    flag = guest.path("flag")
    wanted = step("here", {"run": "work", "unless": f"test ! -e {flag}"}, "here")
    assert statuses(go(wanted)) == ["same"]
    assert statuses(go(step("run", f"touch {flag}", "flag"), wanted)) == ["changed", "changed"]
    assert here.calls == ["work"]


def test_what_a_step_here_needs_must_not_fail(go: Go, here: Here) -> None:
    with pytest.raises(DevboxError):
        go(step("run", "exit 1", "before"), step("here", "work", "here"))
    assert here.calls == []


def test_boot_steps_run_once_in_each_boot(guest: FakeGuest, go: Go) -> None:
    count = guest.path("count")
    steps = (
        step("run", f"echo x >>{count}", "command", when=When.BOOT),
        step("file", {"path": str(guest.path("f")), "content": "1"}, "state", when=When.BOOT),
        step("run", f"echo y >>{count}", "after", needs=("state",)),
    )
    assert statuses(go(*steps)) == ["changed"] * 3
    assert statuses(go(*steps)) == ["same"] * 3
    for receipt in guest.path("var/lib/devbox/journal").iterdir():
        lines = receipt.read_text().splitlines()
        receipt.write_text("\n".join("boot=an-earlier-one" if line[:5] == "boot=" else line for line in lines) + "\n")
    preview = go(*steps, check=True)
    assert [outcome.reason for outcome in preview.outcomes] == ["it has not run since this boot", "", ""]
    assert statuses(go(*steps)) == ["changed", "same", "same"]
    assert count.read_text() == "x\ny\nx\n"
    before = guest.channels
    assert statuses(go(*steps)) == ["same"] * 3
    assert guest.channels == before + 1


def test_steps_are_chosen_by_tag_and_left_out_by_name(go: Go) -> None:
    steps = (
        step("run", "true", "a", tags=("web",)),
        step("run", "true", "b", tags=("web", "db")),
        step("run", "true", "c"),
    )
    assert [outcome.name for outcome in go(*steps, tags=("web",), check=True).outcomes] == ["a", "b"]
    assert [outcome.name for outcome in go(*steps, tags=("web",), skip=("a",), check=True).outcomes] == ["b"]
    assert [outcome.name for outcome in go(*steps, skip=("b",), check=True).outcomes] == ["a", "c"]
    docs = step("run", "true", "docs", tags=("docs",), when=When.MANUAL)
    assert statuses(go(*steps[:1], docs, check=True)) == ["would change", "skipped"]
    assert statuses(go(*steps[:1], docs, tags=("docs",), check=True)) == ["would change"]
    with pytest.raises(DevboxError) as unknown:
        go(*steps, tags=("wbe",))
    assert (unknown.value.message, unknown.value.hint) == (
        "There is no step with the tag `wbe`.",
        "Did you mean `web`?",
    )
    with pytest.raises(DevboxError, match="no step named `x`"):
        go(*steps, skip=("x",))


def test_events_are_json_lines(go: Go, capsys: pytest.CaptureFixture[str]) -> None:
    steps = (
        step("run", "echo hello", "say"),
        step("run", "echo hidden", "quiet", sensitive=True),
        step("here", "work", "here"),
        step("run", "exit 3", "bad"),
        step("run", "true", "rest"),
    )

    def told() -> list[dict[str, Any]]:
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    with pytest.raises(DevboxError):
        go(*steps, events=True)
    events = told()
    assert [(one["event"], one.get("step"), one.get("status")) for one in events if one["event"] != "running"] == [
        ("step-start", "say", None),
        ("output", "say", None),
        ("step-end", "say", "changed"),
        ("step-start", "quiet", None),
        ("step-end", "quiet", "changed"),
        ("step-start", "here", None),
        ("output", "here", None),
        ("step-end", "here", "changed"),
        ("step-start", "bad", None),
        ("step-end", "bad", "failed"),
        ("step-end", "rest", "not reached"),
        ("end", None, None),
    ]
    assert events[-1]["counts"] == {"changed": 3, "failed": 1, "not reached": 1}
    assert events[-1]["ok"] is False
    go(*steps[:3], events=True)
    assert [one["status"] for one in told()[:-1]] == ["same"] * 3
    go(*steps, events=True, check=True)
    assert [one["status"] for one in told()[:-1]] == ["same", "same", "same", "would change", "would change"]
