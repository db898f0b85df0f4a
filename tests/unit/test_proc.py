"""`proc.follow`: the output as it comes, and an end for all that was started."""

import os
import sys
import time
from pathlib import Path

import pytest

from devbox import proc
from devbox.errors import DevboxError


def follow(tmp_path: Path, script: str, timeout: float | None = None) -> tuple[int, str]:
    said = bytearray()
    status = proc.follow(
        ["/bin/sh", "-c", script], cwd=tmp_path, env={"WORD": "it's"}, on_output=said.extend, timeout=timeout
    )
    return status, said.decode()


def _ended(pid: int) -> bool:
    """A signal that was sent takes a moment to be acted on."""
    for _ in range(200):
        try:
            if "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text():
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


def test_status_output_folder_and_environment(tmp_path: Path) -> None:
    status, said = follow(tmp_path, 'echo "$WORD"; pwd -P >&2; cat; exit 7')
    assert (status, said) == (7, f"it's\n{tmp_path.resolve()}\n")


def test_output_is_told_as_it_comes(tmp_path: Path) -> None:
    """The program waits for what only its own output makes happen."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    def answer(data: bytes) -> None:
        if b"ready" in data:
            fifo.write_text("go\n")

    assert proc.follow(["/bin/sh", "-c", "echo ready; cat fifo"], cwd=tmp_path, env={}, on_output=answer) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_its_time_limit_ends_what_it_started_too(tmp_path: Path) -> None:
    with pytest.raises(DevboxError) as late:
        follow(tmp_path, "sleep 600 & echo $! >pid; wait", timeout=0.5)
    assert (late.value.id, late.value.message) == ("tool.timeout", "`sh` did not end within 0 s and was stopped.")
    assert _ended(int((tmp_path / "pid").read_text()))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_it_leaves_running_does_not_hold_us_and_is_ended(tmp_path: Path) -> None:
    assert follow(tmp_path, "sleep 600 & echo $! >pid; exit 3")[0] == 3
    assert _ended(int((tmp_path / "pid").read_text()))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_interruption_ends_it(tmp_path: Path) -> None:
    def interrupt(data: bytes) -> None:
        raise KeyboardInterrupt

    words = ["/bin/sh", "-c", "echo $$ >pid; echo x; exec sleep 600"]
    with pytest.raises(KeyboardInterrupt):
        proc.follow(words, cwd=tmp_path, env={}, on_output=interrupt)
    assert _ended(int((tmp_path / "pid").read_text()))
