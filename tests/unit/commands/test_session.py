"""The remote command lines, run by a real shell: what sshd's shell would do with them."""

import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

from devbox.commands import session

SHELLS = ["dash", "bash"]


def shell(name: str, text: str, **kwargs: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([name, "-c", text], capture_output=True, check=False, timeout=30, **kwargs)  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize("name", SHELLS)
@pytest.mark.parametrize(
    "words",
    [
        ["printf", "%s|", "a b", "", "it's", '"', "$HOME", "*", "é", "\\n", "-x"],
        ["printf", "%s|", "line\nbreak", ";", "&&"],
    ],
)
def test_arguments_arrive_as_typed(name: str, words: list[str]) -> None:
    result = shell(name, session.remote_script(words, None))
    assert result.stdout.decode() == "".join(f"{word}|" for word in words[2:])


@pytest.mark.parametrize("name", SHELLS)
@pytest.mark.parametrize("ticket", ["", "devbox-run-test"])
def test_exit_status_passes(name: str, ticket: str) -> None:
    assert shell(name, session.remote_script(["sh", "-c", "exit 41"], None, ticket=ticket)).returncode == 41


def test_lands_in_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a 'quoted' folder"
    folder.mkdir()
    assert shell("dash", session.remote_script(["pwd"], str(folder))).stdout.decode().strip() == str(folder)


def test_a_missing_folder_is_a_failure_not_another_folder(tmp_path: Path) -> None:
    result = shell("dash", session.remote_script(["pwd"], str(tmp_path / "nowhere")))
    assert result.returncode == 126
    assert result.stdout == b""


def test_input_passes_through_binary() -> None:
    data = bytes(range(256)) * 100
    assert shell("dash", session.remote_script(["cat"], None, ticket="devbox-run-pipe"), input=data).stdout == data


@pytest.mark.parametrize("name", SHELLS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_the_command_and_its_status_comes_back(
    name: str, number: signal.Signals, tmp_path: Path
) -> None:
    ticket = f"devbox-run-{os.getpid()}-{name}-{number}"
    started = tmp_path / "started"
    script = session.remote_script(
        ["sh", "-c", f"touch {shlex.quote(str(started))}; exec sleep 60"], None, ticket=ticket
    )

    def as_on_a_terminal() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored in what a shell starts in the background

    with subprocess.Popen([name, "-c", script], start_new_session=True, preexec_fn=as_on_a_terminal) as child:  # noqa: PLW1509
        deadline = time.monotonic() + 20
        while not started.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        sent = subprocess.run(["sh", "-c", session.signal_script(ticket, number)], check=False)
        assert sent.returncode == 0
        assert child.wait(timeout=20) == 128 + number
    assert not Path(f"/tmp/{ticket}").exists()
