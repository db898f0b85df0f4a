"""The command line starts quickly because it loads little: what each quick verb may not import."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# Measured to cost 2 to 230 ms each; a verb that needs one imports it inside its own function.
BANNED = (
    "asyncio",
    "fabric",
    "hashlib",
    "httpx",
    "jinja2",
    "jsonschema",
    "paramiko",
    "pycdlib",
    "pydantic",
    "qemu",
    "rich",
    "ssl",
    "tarfile",
    "yaml",
    "zstandard",
)

# Runs the command line as the installed `devbox` does and then tells, on file descriptor 3, what it has loaded.
PROBE = """
import os, sys
from devbox import cli
sys.argv = ["devbox", *sys.argv[1:]]
try:
    cli.main()
finally:
    os.write(int(os.environ["LOADED_FD"]), "\\n".join(sys.modules).encode())
"""


def _run(words: list[str], cwd: Path, extra: dict[str, str]) -> tuple[int, set[str], str]:
    reader, writer = os.pipe()
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", PROBE, *words],
            capture_output=True,
            text=True,
            check=False,
            cwd=cwd,
            env={**os.environ, **extra, "LOADED_FD": str(writer)},
            pass_fds=[writer],
        )
    finally:
        os.close(writer)
    with os.fdopen(reader) as pipe:
        loaded = pipe.read().split("\n")
    return done.returncode, {name.partition(".")[0] for name in loaded}, done.stdout + done.stderr


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "Devboxfile").write_text("version: 1\nbox: debian-12\n")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "extra", "says"),
    [
        (["--help"], {}, "provision"),
        (["--version"], {}, "devbox"),
        (["version"], {}, ""),
        (["up", "--help"], {}, "Usage"),
        (["status"], {}, "not created"),
        (["list"], {}, "no machines"),
        ([], {"_DEVBOX_COMPLETE": "complete_bash", "COMP_WORDS": "devbox sta", "COMP_CWORD": "1"}, "status"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_quick_verbs_load_little(words: list[str], extra: dict[str, str], says: str, project: Path) -> None:
    status, loaded, output = _run(words, project, extra)
    assert status == 0, output
    assert says in output
    assert "typer" in loaded  # the list was really read
    assert sorted(loaded & set(BANNED)) == []


@pytest.mark.parametrize("entries", [":", ".", ":/nowhere"])
def test_a_repository_supplies_no_module(entries: str, project: Path) -> None:
    for name in ("typer", "yaml", "fabric", "jsonschema"):
        (project / f"{name}.py").write_text("raise SystemExit('a file of the repository was imported')")
    devbox = Path(sys.executable).parent / "devbox"
    env = {**os.environ, "PYTHONPATH": entries}
    done = subprocess.run([devbox, "validate"], cwd=project, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, "Devboxfile is valid" in done.stderr) == (0, True), done.stderr


def test_an_interrupt_at_any_moment_shows_no_traceback(project: Path) -> None:
    devbox = Path(sys.executable).parent / "devbox"
    for step in range(24):
        with subprocess.Popen([devbox, "validate"], cwd=project, stderr=subprocess.PIPE, text=True) as running:
            time.sleep(0.05 + step * 0.01)
            running.send_signal(signal.SIGINT)
            said = running.communicate()[1]
        assert "cli.py" not in said, said  # while Python itself begins, a traceback is Python's
