"""The moment before a cut, on a local shell: with and without the programs for it."""

import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from devbox.errors import DevboxError
from devbox.guest import quiesce
from devbox.guest.connection import Result


class Shell:
    """A guest that is a local shell, whose programs are stand-ins that write down their calls."""

    def __init__(self, root: Path, *programs: str) -> None:
        self.root, self.calls = root, root / "calls"
        (root / "bin").mkdir()
        (root / "run").mkdir()
        self.calls.touch()
        for name in ("sh", "rm", "mkdir", "sleep", "setsid"):
            (root / "bin" / name).symlink_to(str(shutil.which(name)))
        for name in ("sync", *programs):
            (root / "bin" / name).write_text(f'#!/bin/sh\necho "{name} $*" >>{self.calls}\n')
            (root / "bin" / name).chmod(0o755)

    def run(self, command: str, *, stdin: bytes, timeout: float) -> Result:
        assert command == "exec sh"
        text = stdin.decode().replace("/run/devbox-quiet", f"{self.root}/run/quiet")
        text = re.sub(r"^PATH=[^;\n]*", f"PATH={self.root}/bin", text, flags=re.MULTILINE)
        done = subprocess.run(["sh"], input=text.encode(), capture_output=True, timeout=60, check=False)
        return Result(done.returncode, done.stdout, done.stderr)

    @property
    def said(self) -> list[str]:
        return self.calls.read_text().split("\n")[:-1]


def quiet(shell: Any, **options: Any) -> bool:
    with quiesce.quiet(shell, "root", **options) as still:
        return still


def test_written_out_trimmed_still_and_thawed(tmp_path: Path) -> None:
    shell = Shell(tmp_path, "fstrim", "fsfreeze")
    assert quiet(shell)
    assert shell.said == ["sync ", "fstrim /", "fsfreeze -f /", "fsfreeze -u /"]


def test_nothing_stands_still_whose_memory_is_kept(tmp_path: Path) -> None:
    shell = Shell(tmp_path, "fstrim", "fsfreeze")
    assert not quiet(shell, still=False)
    assert shell.said == ["sync ", "fstrim /", "sync "]


def test_a_guest_without_the_programs_syncs(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    assert not quiet(shell)
    assert shell.said == ["sync ", "sync "]


def test_a_file_system_that_cannot_stand_still(tmp_path: Path) -> None:
    shell = Shell(tmp_path, "fsfreeze")
    (tmp_path / "bin/fsfreeze").write_text("#!/bin/sh\nexit 1\n")
    assert not quiet(shell)


def test_it_thaws_when_the_cut_fails_and_by_itself(tmp_path: Path) -> None:
    shell: Any = Shell(tmp_path, "fsfreeze")
    with pytest.raises(DevboxError), quiesce.quiet(shell, "root"):
        raise DevboxError("test.it", "no")
    assert shell.said[-1] == "fsfreeze -u /"
    deadline = time.monotonic() + 60
    while shell.said.count("fsfreeze -u /") < 2:  # the other one is its own, whatever becomes of us
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_guest_that_cannot_is_told(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    (tmp_path / "run").rmdir()
    (tmp_path / "run").touch()
    with pytest.raises(DevboxError) as caught:
        quiet(shell)
    assert caught.value.id == "guest.not-quiet"
