"""Time limits and retries, enforced in the guest: what is ended, what survives, and what holds nobody up."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from devbox.config.model import StepSpec
from devbox.errors import DevboxError
from devbox.provision import shell
from devbox.provision.apply import Options, Report, provision
from tests.unit.provision.fake import FakeGuest, step
from tests.unit.provision.test_apply import _lives, statuses, until

Go = Callable[..., Report]


@pytest.fixture
def go(guest: FakeGuest, project: Path) -> Go:
    def provision_with(*steps: StepSpec, **options: Any) -> Report:
        return provision(guest, steps, guest.context(project), Options(**options))

    return provision_with


@pytest.fixture
def pids(guest: FakeGuest) -> Iterator[Path]:
    """A file of process ids, all of which are gone after the test."""
    file = guest.path("pids")
    yield file
    for pid in map(int, file.read_text().split()):
        if _lives(pid):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """One second from TERM to KILL instead of ten."""
    real = shell.file

    def shortened(name: str) -> str:
        return real(name).replace("sleep 10;", "sleep 1;") if name == "limit" else real(name)

    assert "sleep 10;" in real("limit")
    monkeypatch.setattr(shell, "file", shortened)


def late(go: Go, *steps: StepSpec) -> None:
    with pytest.raises(DevboxError, match="time limit"):
        go(*steps)


def gone(pids: Path, count: int) -> None:
    found = list(map(int, pids.read_text().split()))
    assert len(found) == count
    until(lambda: not any(_lives(pid) for pid in found))


def test_grandchildren_end_with_the_step(go: Go, pids: Path) -> None:
    text = f"echo $$ >>{pids}; sh -c 'echo $$ >>{pids}; sh -c \"echo \\$\\$ >>{pids}; sleep 300; true\"; true'; true"
    late(go, step("run", text, timeout=1.0))
    gone(pids, 3)


@pytest.mark.usefixtures("brief")
def test_who_ignores_the_first_signal_is_killed(go: Go, pids: Path) -> None:
    late(go, step("run", f"trap '' TERM; echo $$ >>{pids}; while :; do sleep 0.2 || sleep 1; done", timeout=1.0))
    gone(pids, 1)


def test_a_grandchild_that_ignores_the_first_signal_is_killed(go: Go, pids: Path) -> None:
    child = f"(trap '' TERM; sh -c 'echo $$ >>{pids}; while :; do sleep 0.2; done') & echo $! >>{pids}; sleep 300"
    late(go, step("run", child, timeout=1.0))
    gone(pids, 2)


def test_a_step_may_tidy_up_when_its_time_is_over(guest: FakeGuest, go: Go) -> None:
    tidy = guest.path("tidy")
    late(go, step("run", f"trap 'echo yes >{tidy}; exit 1' TERM; sleep 300 & wait", timeout=1.0))
    assert tidy.read_text() == "yes\n"


def test_a_session_of_its_own_escapes_and_holds_nobody_up(go: Go, pids: Path) -> None:
    """So it is with any shell; runner.sh says so."""
    text = f"setsid sh -c 'echo $$ >>{pids}; exec sleep 300' & until test -s {pids}; do sleep 0.1; done; sleep 300"
    late(go, step("run", text, timeout=2.0))
    assert _lives(int(pids.read_text()))
    assert statuses(go(step("run", "true", "next"))) == ["changed"], "nor does it hold the lock"


def test_a_daemon_of_a_step_with_a_time_limit_stays(go: Go, pids: Path) -> None:
    daemon = step("run", f"nohup sleep 300 & echo $! >>{pids}", "daemon", timeout=30.0)
    assert statuses(go(daemon, step("run", "true", "next"))) == ["changed", "changed"]
    assert _lives(int(pids.read_text()))


def test_each_attempt_has_the_whole_time(guest: FakeGuest, go: Go) -> None:
    count = guest.path("count")
    text = f"echo x >>{count}; test $(wc -l <{count}) -ge 2 || sleep 300"
    assert statuses(go(step("run", text, timeout=1.0, retries=1))) == ["changed"]
    assert count.read_text() == "x\nx\n"


def test_retries_are_told_and_come_to_an_end(guest: FakeGuest, go: Go) -> None:
    count = guest.path("count")
    with pytest.raises(DevboxError) as failed:
        go(step("run", f"echo x >>{count}; exit 4", "flaky", retries=1))
    assert "exit status 4" in failed.value.message
    assert "(attempt 1 ended with 4; trying again)" in failed.value.details
    assert count.read_text() == "x\nx\n"


def test_the_output_of_every_attempt_is_kept(guest: FakeGuest, go: Go) -> None:
    count = guest.path("count")
    go(step("run", f"echo x >>{count}; echo try $(wc -l <{count}); test $(wc -l <{count}) -ge 2", retries=3))
    (log,) = guest.path("var/log/devbox").iterdir()
    assert log.read_text().split() == ["try", "1", "try", "2"]


def test_states_have_time_limits_and_retries_too(guest: FakeGuest, go: Go) -> None:
    late(go, step("wait", {"path": str(guest.path("never")), "interval": 0.1}, timeout=1.0))
    target = guest.path("a/b")
    steps = (
        step("file", {"path": str(target), "content": "x", "mode": "0600"}, timeout=30.0),
        step("directory", str(guest.path("d")), timeout=30.0, retries=2),
    )
    assert statuses(go(*steps)) == ["changed", "changed"]
    assert (target.read_text(), target.stat().st_mode & 0o777) == ("x", 0o600)
    assert statuses(go(*steps)) == ["same", "same"]


def test_a_guard_that_leaves_something_behind_does_not_hold_the_lock(go: Go, pids: Path) -> None:
    text = f"sleep 300 & echo $! >>{pids}; false"
    assert statuses(go(step("run", {"run": "true", "unless": text}))) == ["changed"]
    assert statuses(go(step("run", "true", "next"))) == ["changed"]
    assert all(_lives(pid) for pid in map(int, pids.read_text().split()))
