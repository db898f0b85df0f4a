"""Time limits and retries, enforced in the guest: what is ended, what survives, and what holds nobody up."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from shlex import quote

import pytest

from devbox.config.model import StepSpec
from devbox.errors import DevboxError
from devbox.provision import shell
from tests.unit.provision.fake import FakeGuest, Go, step
from tests.unit.provision.test_apply import _lives, statuses, until


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


def guards_end_after(seconds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real = shell.prelude()
    assert "guard_limit=60" in real
    monkeypatch.setattr(shell, "prelude", lambda: real.replace("guard_limit=60", f"guard_limit={seconds}"))


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    guards_end_after(1, monkeypatch)


def hanging(pids: Path) -> str:
    """Neither ends by itself nor by TERM, nor does what it has started, in a session of its own."""
    child = f"trap '' TERM; echo $$ >>{pids}; while :; do sleep 0.3; done"
    return f'trap "" TERM; echo $$ >>{pids}; setsid sh -c {quote(child)}; true'


@pytest.mark.usefixtures("hasty")
def test_an_onlyif_that_hangs_is_ended_in_the_probe(go: Go, pids: Path) -> None:
    report = go(step("run", {"run": "true", "onlyif": hanging(pids)}), step("run", "true", "next"))
    assert statuses(report) == ["skipped", "changed"]
    assert report.outcomes[0].reason == "`onlyif` did not end within 1 s"
    gone(pids, 2)


@pytest.mark.usefixtures("hasty")
def test_a_guard_that_hangs_is_ended_in_the_apply_run(guest: FakeGuest, go: Go, pids: Path) -> None:
    """Each hangs only once an earlier step has run."""
    flag = guest.path("flag")
    text = f"test ! -e {flag} && exit 1; {hanging(pids)}"
    report = go(
        step("run", f"touch {flag}", "first"),
        step("run", {"run": "true", "onlyif": text}, "onlyif"),
        step("run", "true", "if", condition={"test": text}),
        step("run", {"run": "echo working", "unless": text}, "unless"),
    )
    assert statuses(report) == ["changed", "skipped", "skipped", "changed"]
    assert report.outcomes[1].reason == "`onlyif` did not end within 1 s"
    (log,) = guest.path("var/log/devbox").glob("unless*")
    assert log.read_text() == "`unless` did not end within 1 s, so it counts as not succeeding.\nworking\n"
    gone(pids, 6)


@pytest.mark.usefixtures("hasty")
def test_other_guards_that_hang_in_the_probe(go: Go, pids: Path) -> None:
    steps = (
        step("run", "true", "if", condition={"test": hanging(pids)}),
        step("run", {"run": "true", "unless": hanging(pids)}, "unless"),
        step("reboot", {"if": hanging(pids)}, "reboot"),
    )
    report = go(*steps, check=True)
    assert [outcome.reason for outcome in report.outcomes][0] == "its `if: test` did not end within its time limit"
    assert ("unless", "did not end within 1 s", None) in [
        (change.field, change.old, change.new) for change in report.outcomes[1].changes
    ]
    gone(pids, 6)


@pytest.mark.usefixtures("hasty")
def test_a_guard_of_another_account_is_ended_too(go: Go, pids: Path) -> None:
    pids.touch(0o666)
    pids.chmod(0o666)
    for folder in (pids.parent, *pids.parents):
        if folder.owner() == "root" and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    report = go(step("run", {"run": "true", "onlyif": hanging(pids)}, user="nobody"))
    assert report.outcomes[0].reason == "`onlyif` did not end within 1 s"
    gone(pids, 2)


def test_guards_that_end_are_not_confused_with_one_that_hangs(go: Go, monkeypatch: pytest.MonkeyPatch) -> None:
    """Together they take longer than one may."""
    guards_end_after(3, monkeypatch)
    steps = [step("run", {"run": "true", "unless": f"sleep 1; exit {n % 2}"}, f"step {n}") for n in range(4)]
    assert statuses(go(*steps)) == ["same", "changed", "same", "changed"]
    killed = step("run", {"run": "true", "onlyif": "kill -KILL $$"}, "killed")
    assert go(killed).outcomes[0].reason == "`onlyif` does not hold"


def test_one_watcher_for_all_guards_which_holds_nothing(guest: FakeGuest, pids: Path) -> None:
    """Not the connection, whose end `run` waits for; and it goes when it finds its shell gone."""
    text = f'{shell.prelude()}watcher="echo \\$\\$ >>{pids}$nl$watcher"\nlook() {{ guard root true; }}\n'
    text += "look 2>/dev/null\n" * 5
    assert guest.run(f"{text}until test -s {pids}; do :; done").status == 0
    (watcher,) = map(int, pids.read_text().split())
    assert _lives(watcher), "it waits for its next look, and nothing has waited for it"
    until(lambda: not _lives(watcher))
