"""The whole engine over a local shell: channels, outcomes, resuming, triggers, crashes."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from devbox.config.model import StepSpec, When
from devbox.errors import DevboxError
from devbox.provision import journal
from devbox.provision.apply import Options, Report, provision
from devbox.provision.bind import bind
from devbox.provision.plan import Status
from tests.unit.provision.fake import FakeGuest, Go, step


def statuses(report: Report) -> list[str]:
    return [str(outcome.status) for outcome in report.outcomes]


def until(holds: Callable[[], bool]) -> None:
    for _ in range(1200):
        if holds():
            return
        time.sleep(0.05)
    raise AssertionError("it never came to hold")


def test_a_no_op_is_one_channel_and_a_change_two(guest: FakeGuest, go: Go) -> None:
    target = guest.path('etc/a "file", it\'s $odd')
    steps = (step("file", {"path": str(target), "content": "hello\n", "mode": "0640"}),)
    assert statuses(go(*steps)) == ["changed"]
    assert guest.channels == 2
    assert target.read_text() == "hello\n"
    assert target.stat().st_mode & 0o7777 == 0o640
    assert statuses(go(*steps)) == ["same"]
    assert guest.channels == 3
    target.chmod(0o600)
    report = go(*steps)
    assert [(c.field, c.old, c.new) for c in report.outcomes[0].changes] == [("mode", "0600", "0640")]
    assert target.stat().st_mode & 0o7777 == 0o640
    assert not list(guest.path("run/devbox").glob("*/")), "a run leaves its files"


def test_many_steps_are_one_script(guest: FakeGuest, go: Go) -> None:
    steps = [step("directory", str(guest.path(f"d{n}")), f"d{n}") for n in range(200)]
    assert go(*steps).changed == 200
    assert go(*steps).count(Status.SAME) == 200
    assert guest.channels == 3


def test_a_command_runs_once_and_again_when_it_is_edited(guest: FakeGuest, go: Go) -> None:
    count = guest.path("count")
    assert statuses(go(step("run", f"echo x >>{count}", "one"))) == ["changed"]
    assert statuses(go(step("run", f"echo x >>{count}", "one"))) == ["same"]
    assert count.read_text() == "x\n"
    assert statuses(go(step("run", f"echo y >>{count}", "one"))) == ["changed"]
    assert count.read_text() == "x\ny\n"


def test_output_is_kept_as_a_private_log(guest: FakeGuest, go: Go) -> None:
    go(step("run", "echo out; echo err >&2; printf 'no end'", "say"))
    log = guest.path(f"var/log/devbox/{journal.slug('say')}.log")
    assert log.read_text() == "out\nerr\nno end"
    assert log.stat().st_mode & 0o777 == 0o600


def test_a_failure_stops_the_run_and_the_next_resumes_there(
    guest: FakeGuest, go: Go, capsys: pytest.CaptureFixture[str]
) -> None:
    count, flag = guest.path("count"), guest.path("flag")
    steps = (
        step("run", f"echo x >>{count}", "first"),
        step("run", f"echo why; test -e {flag} || exit 7", "second"),
        step("run", "true", "third", needs=("second",)),
        step("run", "true", "fourth"),
    )
    with pytest.raises(DevboxError) as failure:
        go(*steps)
    assert failure.value.id == "provision.failed"
    assert "`second` (Devboxfile:7) failed: exit status 7" in failure.value.message
    assert failure.value.details == f"$ echo why; test -e {flag} || exit 7"[:82].rstrip() + "\nwhy"
    assert "1 same" not in capsys.readouterr().err
    flag.touch()
    assert statuses(go(*steps)) == ["same", "changed", "changed", "changed"]
    assert count.read_text() == "x\n"


def test_what_needs_a_failed_step_is_blocked_and_the_rest_not_reached(
    go: Go, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DevboxError):
        go(step("run", "exit 1", "a"), step("run", "true", "b", needs=("a",)), step("run", "true", "c"))
    assert "0 same, 0 changed, 1 failed, 1 blocked, 1 not reached" in capsys.readouterr().err


def test_a_change_runs_what_needs_it(guest: FakeGuest, go: Go) -> None:
    conf, count = guest.path("conf"), guest.path("count")

    def steps(text: str) -> tuple[StepSpec, ...]:
        conf_step = step("file", {"path": str(conf), "content": text}, "conf")
        return conf_step, step("run", f"echo x >>{count}", "reload", needs=("conf",))

    go(*steps("one"))
    assert count.read_text() == "x\n"
    assert statuses(go(*steps("one"))) == ["same", "same"]
    assert statuses(go(*steps("two"))) == ["changed", "changed"]
    assert count.read_text() == "x\nx\n"
    conf.write_text("drifted")
    assert statuses(go(*steps("two"), check=True)) == ["would change", "would change"]
    assert statuses(go(*steps("two"))) == ["changed", "changed"]


def test_a_trigger_survives_a_failure_in_between(guest: FakeGuest, go: Go) -> None:
    conf, count, flag = guest.path("conf"), guest.path("count"), guest.path("flag")
    middle = step("run", f"test -e {flag}", "middle", when=When.ALWAYS)
    last = step("run", f"echo x >>{count}", "last", needs=("conf",))
    flag.touch()
    go(step("file", {"path": str(conf), "content": "1"}, "conf"), middle, last)
    flag.unlink()
    with pytest.raises(DevboxError):
        go(step("file", {"path": str(conf), "content": "2"}, "conf"), middle, last)
    flag.touch()
    report = go(step("file", {"path": str(conf), "content": "2"}, "conf"), middle, last)
    assert statuses(report) == ["same", "changed", "changed"]
    assert count.read_text() == "x\nx\n"


def test_a_crash_between_the_change_and_its_receipt_still_counts_as_a_change(guest: FakeGuest, go: Go) -> None:
    conf, count = guest.path("conf"), guest.path("count")
    steps = (
        step("file", {"path": str(conf), "content": "1"}, "conf"),
        step("run", f"echo x >>{count}", "last", needs=("conf",)),
    )
    go(*steps)
    # As a run leaves it that was cut off right after its work.
    guest.path(f"var/lib/devbox/journal/{journal.key('conf')}.pending").write_text("some-run.0\n")
    assert statuses(go(*steps)) == ["changed", "changed"]
    assert count.read_text() == "x\nx\n"
    assert statuses(go(*steps)) == ["same", "same"]


def test_a_command_that_was_cut_off_runs_again(guest: FakeGuest, go: Go) -> None:
    one = step("run", "true", "one")
    go(one)
    pending = guest.path(f"var/lib/devbox/journal/{journal.key('one')}.pending")
    pending.write_text("")  # torn by a power loss
    assert statuses(go(one)) == ["changed"]
    assert not pending.exists()
    assert statuses(go(one)) == ["same"]


def test_a_time_limit_ends_the_whole_group(guest: FakeGuest, go: Go) -> None:
    pid = guest.path("pid")
    with pytest.raises(DevboxError, match=r"time limit of 1\.0 s"):
        go(step("run", f"sleep 300 & echo $! >{pid}; wait", "slow", timeout=1.0))
    until(lambda: not _lives(int(pid.read_text())))


def _lives(pid: int) -> bool:
    """Not counting a process that has ended and that nobody reaps in this container."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_step_that_ends_in_time_leaves_no_watchdog(guest: FakeGuest, go: Go) -> None:
    assert statuses(go(step("run", "true", "quick", timeout=4321.0))) == ["changed"]
    sleeping = [p for p in Path("/proc").glob("[0-9]*/cmdline") if b"4321" in _read(p)]
    assert not sleeping


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_retries(guest: FakeGuest, go: Go) -> None:
    count = guest.path("count")
    text = f"echo x >>{count}; test $(wc -l <{count}) -ge 2"
    assert statuses(go(step("run", text, "flaky", retries=2))) == ["changed"]
    assert count.read_text() == "x\nx\n"


def test_when(guest: FakeGuest, go: Go) -> None:
    kept = guest.path("kept")
    steps = (
        step("run", "true", "always", when=When.ALWAYS),
        step("file", {"path": str(kept), "content": "a"}, "once", when=When.ONCE),
        step("run", "true", "manual", when=When.MANUAL),
    )
    assert statuses(go(*steps)) == ["changed", "changed", "skipped"]
    kept.write_text("mine now")
    assert statuses(go(*steps)) == ["changed", "same", "skipped"]
    assert statuses(go(*steps, only=("manual",))) == ["changed"]
    assert statuses(go(*steps, start_from="once")) == ["same", "skipped"]
    assert statuses(go(*steps, only=("once",), force=("once",))) == ["changed"]
    assert kept.read_text() == "a"


def test_a_state_that_is_always_applied_is_reported_the_same(guest: FakeGuest, go: Go) -> None:
    steps = (
        step("directory", str(guest.path("d")), "d", when=When.ALWAYS),
        step("run", "true", "after", needs=("d",)),
    )
    assert statuses(go(*steps)) == ["changed", "changed"]
    assert statuses(go(*steps)) == ["same", "same"]


def test_an_unknown_name_is_refused_with_a_guess(guest: FakeGuest, go: Go) -> None:
    with pytest.raises(DevboxError) as refusal:
        go(step("run", "true", "install nginx"), only=("install ngnix",))
    assert (refusal.value.id, refusal.value.hint) == ("provision.no-step", "Did you mean `install nginx`?")
    assert guest.channels == 0


def test_guards(guest: FakeGuest, go: Go) -> None:
    made, count = guest.path("made"), guest.path("count")
    creates = step("run", {"run": f"echo x >>{count}; touch {made}", "creates": str(made)}, "creates")
    assert statuses(go(creates)) == ["changed"]
    assert statuses(go(creates)) == ["same"]
    made.unlink()
    assert statuses(go(creates)) == ["changed"]
    unless = step("run", {"run": "true", "unless": f"test -e {made}"}, "unless")
    assert statuses(go(unless)) == ["same"]
    made.unlink()
    assert statuses(go(unless)) == ["changed"]
    onlyif = step("run", {"run": "true", "onlyif": f"test -e {made}"}, "onlyif")
    report = go(onlyif)
    assert (statuses(report), report.outcomes[0].reason) == (["skipped"], "`onlyif` does not hold")
    made.touch()
    assert statuses(go(onlyif)) == ["changed"]
    with pytest.raises(DevboxError, match="what it `creates` is not there"):
        go(step("run", {"run": "true", "creates": str(guest.path("never"))}))


def test_conditions(guest: FakeGuest, go: Go) -> None:
    flag = guest.path("flag")
    report = go(
        step("run", "true", "other arch", condition={"arch": "riscv64"}),
        step("run", "true", "other os", condition={"os": ["plan9", "beos"]}),
        step("run", "true", "failing", condition={"test": f"test -e {flag}"}),
    )
    assert [outcome.reason for outcome in report.outcomes][0].startswith("it is for riscv64, and this guest is ")
    assert [outcome.reason for outcome in report.outcomes][2] == f"`test -e {flag}` does not succeed"
    assert statuses(report) == ["skipped"] * 3
    steps = (step("run", f"touch {flag}", "flag"), step("run", "true", "then", condition={"test": f"test -e {flag}"}))
    assert statuses(go(*steps, check=True)) == ["would change", "unknown"]
    assert statuses(go(*steps)) == ["changed", "changed"]


def test_what_an_earlier_step_makes_is_decided_in_its_turn(guest: FakeGuest, go: Go) -> None:
    target = guest.path("made")
    steps = (
        step("run", f"echo 'made by a command' >{target}", "run"),
        step("file", {"path": str(target), "content": "made by a command\n"}, "file"),
    )
    assert statuses(go(*steps, check=True)) == ["would change", "would change"]
    assert statuses(go(*steps)) == ["changed", "same"]


def test_a_preview_changes_nothing_and_says_so(guest: FakeGuest, go: Go, capsys: pytest.CaptureFixture[str]) -> None:
    target = guest.path("conf")
    target.write_text("one\ntwo\n")
    conf = step("file", {"path": str(target), "content": "one\n2\x1b[31m\n"}, "conf")
    report = go(conf, step("run", "false", "command"), check=True, diff=True)
    assert (statuses(report), guest.channels) == (["would change", "would change"], 1)
    assert target.read_text() == "one\ntwo\n"
    assert not guest.path("var/lib/devbox").exists()
    shown = capsys.readouterr().out
    assert "~ conf: would change" in shown
    assert "    -two\n    +2\n" in shown
    assert "~ command: would change (it has not run yet)" in shown
    assert "This is a preview, nothing was changed: 0 same, 2 would change." in shown


def test_sensitive_content_is_shown_nowhere(guest: FakeGuest, go: Go, capsys: pytest.CaptureFixture[str]) -> None:
    target = guest.path("secret")
    target.write_text("0ld-pass")
    steps = (
        step("file", {"path": str(target), "content": "n3w-pass"}, "conf", sensitive=True),
        step("run", "echo n3w-pass; exit 1", "command", sensitive=True),
    )
    go(*steps, check=True, diff=True)
    with pytest.raises(DevboxError) as failure:
        go(*steps, diff=True)
    shown = "".join(capsys.readouterr()) + failure.value.message + failure.value.details
    assert "pass" not in shown
    assert "withheld" in shown
    kept = [path.read_text() for path in guest.path("var").rglob("*") if path.is_file()]
    assert not any("pass" in text for text in kept)


def test_a_lost_connection_does_not_stop_the_run_and_the_next_attaches(
    guest: FakeGuest, go: Go, capsys: pytest.CaptureFixture[str]
) -> None:
    count, gate = guest.path("count"), guest.path("gate")
    text = f"echo begun; echo x >>{count}; until test -e {gate}; do sleep 0.1; done; echo ended"
    steps = (step("run", text, "long"), step("run", f"echo y >>{count}", "after"))
    guest.lose_at = b"begun"
    with pytest.raises(DevboxError) as lost:
        go(*steps)
    assert lost.value.id == "provision.connection-lost"
    assert "in the step `long`" in lost.value.message
    assert go(*steps, check=True).preview, "a preview does not wait"
    guest.channels = 0
    until(count.exists)
    gate.touch()
    assert statuses(go(*steps)) == ["same", "same"]
    assert "following it" in capsys.readouterr().err
    assert count.read_text() == "x\ny\n"
    assert guest.channels in (1, 3)  # 1: the run had ended already; else probe, attach, probe


def test_a_killed_run_is_noticed_and_resumed(guest: FakeGuest, go: Go) -> None:
    count, gate = guest.path("count"), guest.path("gate")
    killer = f"test -e {gate} || kill -9 $(cat {guest.path('run/devbox')}/*/pid); echo x >>{count}"
    steps = (step("run", f"echo a >>{count}", "first"), step("run", killer, "second"))
    with pytest.raises(DevboxError) as killed:
        go(*steps)
    assert killed.value.id == "provision.killed"
    until(lambda: "x" in count.read_text())  # its orphan may still be at work
    gate.touch()
    assert statuses(go(*steps)) == ["same", "changed"]
    assert count.read_text() == "a\nx\nx\n"
    assert not list(guest.path("run/devbox").glob("*/"))


def test_a_daemon_that_a_step_leaves_behind_holds_nobody_up(guest: FakeGuest, go: Go) -> None:
    pid = guest.path("pid")
    daemon = step("run", f"sleep 300 & echo $! >{pid}", "daemon")
    assert statuses(go(daemon)) == ["changed"]
    try:
        assert statuses(go(daemon, step("run", "true", "next"))) == ["same", "changed"]  # nor does it hold the lock
    finally:
        os.kill(int(pid.read_text()), signal.SIGKILL)


def test_a_step_cannot_forge_an_event(guest: FakeGuest, go: Go) -> None:
    forged = "0123456789abcdef0123456789abcdef"
    with pytest.raises(DevboxError) as failure:
        go(step("run", f"echo {forged} end 0 changed 0 1; echo {forged} done; exit 3", "forger"))
    assert "exit status 3" in failure.value.message
    assert f"{forged} done" in failure.value.details


def test_environment_and_folder(guest: FakeGuest, project: Path) -> None:
    out, folder = guest.path("out"), guest.path("a folder")
    folder.mkdir()
    text = f'echo "$MACHINE|$STEP|$PWD|$HOME|$LC_ALL|$files|$nonce" >{out}'
    steps = (step("run", text, env={"STEP": 'it\'s $HOME\n"x"'}, cwd=str(folder)),)
    context = guest.context(project, env={"MACHINE": "m", "STEP": "hidden"})
    provision(guest, steps, context, Options())
    home = Path("~").expanduser() if os.getuid() else Path("/root")
    assert out.read_text().startswith(f'm|it\'s $HOME\n"x"|{folder}|')
    assert out.read_text().endswith("|C.UTF-8||\n")
    assert home
    with pytest.raises(DevboxError) as failure:
        provision(guest, (step("run", "true", cwd="/no/such/folder"),), context, Options())
    assert failure.value.details == "$ true\nThe folder /no/such/folder does not exist."


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another account")
def test_a_step_as_another_account(guest: FakeGuest, go: Go) -> None:
    guest.let_others_in()
    out = guest.path("out")
    out.mkdir(mode=0o777)
    out.chmod(0o777)
    steps = (
        step("run", f"id -un >{out}/who; id -gn >>{out}/who; echo $USER >>{out}/who", "run", user="nobody"),
        step("file", {"path": f"{out}/mine", "content": "x"}, "file", user="nobody"),
        step("run", {"run": "false", "unless": "test $(id -un) = nobody"}, "guard", user="nobody"),
    )
    assert statuses(go(*steps)) == ["changed", "changed", "same"]
    assert (out / "who").read_text().split() == ["nobody", "nogroup", "nobody"]
    assert (out / "mine").owner() == "nobody"
    with pytest.raises(DevboxError) as failure:
        go(step("run", "true", user="no-such-account"))
    assert failure.value.details == "$ true\nThe account no-such-account does not exist."


def test_a_command_with_an_interpreter_of_its_own(guest: FakeGuest, project: Path, go: Go) -> None:
    out = guest.path("out")
    (project / "setup.sh").write_text(f'#!/usr/bin/env sh\nprintf "%s|" "$@" >{out}\n')
    steps = (
        step("run", f'#!/usr/bin/awk -f\nBEGIN {{ print 6 * 7 >"{out}.awk" }}', "awk"),
        step("script", {"src": "setup.sh", "args": ["a b", "-c", "it's"]}, "script"),
    )
    assert statuses(go(*steps)) == ["changed", "changed"]
    assert guest.path("out.awk").read_text() == "42\n"
    assert out.read_text() == "a b|-c|it's|"
    (project / "setup.sh").write_text("true\n")
    assert statuses(go(*steps)) == ["same", "changed"]


def test_inputs_enter_the_digest(project: Path, go: Go) -> None:
    (project / "tree").mkdir()
    (project / "tree/a").write_text("1")
    steps = (step("run", {"run": "true", "inputs": ["tree"]}),)
    assert statuses(go(*steps)) == ["changed"]
    (project / "tree/a").touch()
    assert statuses(go(*steps)) == ["same"]
    (project / "tree/a").write_text("2")
    assert statuses(go(*steps)) == ["changed"]


def test_somebody_without_sudo_is_told(guest: FakeGuest, project: Path) -> None:
    guest.program("sudo", "echo 'sudo: a password is required' >&2; exit 1")
    context = replace(guest.context(project), run_user="dev")
    with pytest.raises(DevboxError) as refusal:
        provision(guest, (step("directory", "/x"),), context, Options())
    assert refusal.value.id == "provision.no-root"


def test_all_mistakes_of_the_steps_are_listed_at_once(project: Path) -> None:
    (project / "bad.j2").write_text("{% if %}")
    steps = (
        step("file", {"path": "/x", "src": "missing"}, "a"),
        step("file", {"path": "/x/../y", "content": ""}, "b"),
        step("file", {"path": "/x", "src": "../outside"}, "c"),
        step("template", {"path": "/x", "src": "bad.j2"}, "d"),
        step("directory", {"path": "/x", "mode": "0999"}, "e"),
        step("packages", ["git", "git"], "f"),
        step("run", " \n", "g"),
        step("run", "#!perl\n", "h"),
    )
    with pytest.raises(DevboxError) as mistakes:
        bind(steps, project, "dev")
    title, *lines = mistakes.value.message.splitlines()
    assert title == "There are mistakes in the steps:"
    assert len(lines) == len(steps)
    assert lines[0].strip() == "Devboxfile:7: a: there is no missing in the project"
