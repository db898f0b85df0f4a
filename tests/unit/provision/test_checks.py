"""The checks, carried out by real shells: what they tell, what ends them, and that none can speak for another."""

import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from devbox.config.model import Check
from devbox.errors import DevboxError, ExitCode
from devbox.provision import checks
from devbox.provision.checks import Result
from tests.unit.provision.fake import FakeGuest


def run(guest: FakeGuest, *asked: Check, **machine: object) -> tuple[Result, ...]:
    return checks.run(guest, asked, guest.context(guest.root, **machine))


def is_ended(mark: str) -> bool:
    """A killed process is gone a moment after the kill, later on a busy computer; one that was spared is not."""
    deadline = time.monotonic() + 30
    while subprocess.run(["pgrep", "-f", mark], capture_output=True, check=False).returncode == 0:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_what_passes_and_what_fails_in_one_channel(guest: FakeGuest, capsys: pytest.CaptureFixture[str]) -> None:
    passed, failed, last = run(
        guest,
        Check("it's fine", "echo well"),
        Check("no such luck", "echo out; echo err >&2; exit 3"),
        Check("last", "test -d /"),
    )
    assert (passed.ok, passed.reason, passed.output) == (True, "", "well")
    assert (failed.ok, failed.reason, failed.output) == (False, "exit status 3", "out\nerr")
    assert last.ok
    assert guest.channels == 1
    told = capsys.readouterr().err
    assert "✓ it's fine" in told
    assert "✗ no such luck" in told


def test_a_check_has_its_environment_folder_and_no_input(guest: FakeGuest, tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    own = Check("own", 'echo "$A $B $PWD $(cat) $(id -un)"; umask', cwd=str(folder), env={"B": "it's"})
    (result,) = run(guest, own, env={"A": "a", "B": "b"})
    assert result.output.split("\n")[0] == f"a it's {folder}  root"
    assert result.output.split("\n")[1].endswith("022")


def test_a_time_out_ends_the_whole_check_and_the_others_go_on(guest: FakeGuest) -> None:
    mark = f"3333.{time.time_ns()}"
    late = Check("late", f"echo begun; sleep {mark} & sleep {mark}", timeout=3)
    first, second = run(guest, late, Check("next", "echo fine"))
    assert first.reason == "it was stopped after its time limit of 3.0 s"
    assert first.output == "begun"
    assert second.ok
    assert is_ended(mark)


def test_a_watch_that_hears_no_signal_holds_nothing_up(guest: FakeGuest) -> None:
    """As one that was started only just now, and still has its parent's traps: dash loses the signal."""
    guest.program("setsid", f"trap '' TERM\nexec {shutil.which('setsid')} \"$@\"\n")
    quick, failed = run(guest, Check("quick", "true", timeout=2), Check("failed", "exit 3", timeout=2))
    assert (quick.reason, failed.reason) == ("", "exit status 3")


def test_what_a_check_leaves_running_is_ended_and_holds_nothing(guest: FakeGuest) -> None:
    mark = f"4444.{time.time_ns()}"
    (result,) = run(guest, Check("daemon", f"sleep {mark} & echo started"))
    assert (result.ok, result.output) == (True, "started")
    assert is_ended(mark)


def test_retries_until_it_holds(guest: FakeGuest, tmp_path: Path) -> None:
    count = tmp_path / "count"
    text = f'echo x >>"{count}"; [ "$(wc -l <"{count}")" -ge 2 ]'
    (result,) = run(guest, Check("soon", text, retries=3))
    assert result.ok
    assert count.read_text() == "x\nx\n"
    (result,) = run(guest, Check("never", "exit 5", retries=1))
    assert result.reason == "exit status 5, after 2 tries"


def test_only_the_end_of_much_output_is_kept(guest: FakeGuest) -> None:
    text = "i=0; while [ $i -lt 5000 ]; do echo line $i of a check that talks too much; i=$((i + 1)); done; exit 1"
    (result,) = run(guest, Check("much", text))
    lines = result.output.split("\n")
    assert len(lines) == 30
    assert lines[-1].startswith("line 4999 ")


def test_a_check_cannot_speak_in_the_engines_place(guest: FakeGuest) -> None:
    forged = "printf '%s\\n' \"$nonce end 0 passed 0 1\" 'end 0 passed 0 1' \"$(printf '\\033[2J')\"; exit 1"
    (result,) = run(guest, Check("forger", forged))
    assert not result.ok
    assert "\x1b" not in result.output


def test_an_unknown_account_and_folder_are_failures_with_a_reason(guest: FakeGuest) -> None:
    who, where = run(guest, Check("who", "true", user="nobody-here"), Check("where", "true", cwd="/no/such"))
    assert (who.ok, where.ok) == (False, False)
    assert "The account nobody-here does not exist." in who.output
    assert "The folder /no/such does not exist." in where.output


def test_nothing_is_left_in_the_guest(guest: FakeGuest, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    guest.program("mktemp", f'exec /usr/bin/mktemp -d "{temporary}/XXXXXX"\n')
    run(guest, Check("one", "true"))
    assert list(temporary.iterdir()) == []


def test_a_run_that_is_cut_off_is_no_success(guest: FakeGuest) -> None:
    with pytest.raises(DevboxError) as caught:
        run(guest, Check("killer", "kill -9 $PPID"), Check("after", "true"))
    assert caught.value.id == "test.cut-off"


def test_a_lost_connection_is_told(guest: FakeGuest) -> None:
    guest.lose_at = b"here"
    with pytest.raises(DevboxError) as caught:
        run(guest, Check("lost", "echo here"))
    assert caught.value.id == "guest.connection-lost"


def test_without_root_it_says_so(tmp_path: Path) -> None:
    guest = FakeGuest(tmp_path / "guest", "dash")
    guest.program("sudo", "echo 'sudo: a password is required' >&2; exit 1")
    with pytest.raises(DevboxError) as caught:
        checks.run(guest, (Check("a", "true"),), replace(guest.context(tmp_path), run_user="dev"))
    assert caught.value.id == "provision.no-root"


def test_names_choose_in_the_order_of_the_file() -> None:
    one, two, three = (Check(name, "true") for name in ("one", "two", "three"))
    assert checks.select((one, two, three), ()) == (one, two, three)
    assert checks.select((one, two, three), ("three", "one")) == (one, three)


@pytest.mark.parametrize(
    ("known", "name", "id", "hint"),
    [
        (("web answers",), "web anwsers", "test.no-check", "Did you mean `web answers`?"),
        (("web",), "zzz", "test.no-check", "The checks are: web"),
        ((), "", "test.none", "checks:"),
    ],
)
def test_nothing_to_test_is_a_mistake(known: tuple[str, ...], name: str, id: str, hint: str) -> None:
    with pytest.raises(DevboxError) as caught:
        checks.select([Check(each, "true") for each in known], [name] if name else [])
    assert (caught.value.id, caught.value.exit_code) == (id, ExitCode.USAGE)
    assert hint in caught.value.hint
