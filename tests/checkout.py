"""A person with a checkout: the installed `devbox` command as a subprocess, in folders of its own."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEVBOX = Path(sys.executable).parent / "devbox"
FIRST_BOOT = 1500  # seconds: a busy build machine without hardware virtualisation


@dataclass(frozen=True)
class Checkout:
    """A project folder and the environment of the person who works in it."""

    root: Path
    env: dict[str, str]

    def devbox(self, *arguments: str, timeout: float = FIRST_BOOT, **options: Any) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [DEVBOX, *arguments],
            cwd=self.root,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            stdin=None if "input" in options else subprocess.DEVNULL,
            **options,
        )
        print(f"$ devbox {' '.join(arguments)}\n{done.stdout}{done.stderr}[exit status {done.returncode}]")
        return done

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [DEVBOX, *arguments],
            cwd=self.root,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=_hear_interrupts,  # noqa: PLW1509 - it only sets a signal
        )

    def write(self, text: str) -> None:
        (self.root / "Devboxfile").write_text(text)


def _hear_interrupts() -> None:
    """Whoever starts the tests in the background has told them to ignore Ctrl-C, which devbox would inherit."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def a_person(cache: Path | None = None) -> Iterator[dict[str, str]]:
    """The environment of somebody with folders of their own. A `cache` that is given outlives them."""
    base = Path(tempfile.mkdtemp(prefix="devbox-e2e-"))
    runtime = Path(tempfile.mkdtemp(prefix="dbx-"))
    env = {name: value for name, value in os.environ.items() if name not in {"CI", "XDG_RUNTIME_DIR", "NO_COLOR"}}
    env |= {
        "HOME": str(base),
        "DEVBOX_CACHE_DIR": str(cache or base / "cache"),
        "DEVBOX_STATE_DIR": str(base / "state"),
        "DEVBOX_CONFIG_DIR": str(base / "config"),
        "DEVBOX_RUNTIME_DIR": str(runtime),
    }
    yield env
    for pidfile in runtime.glob("*/qemu.pid"):
        _end(pidfile, runtime)
    shutil.rmtree(base, ignore_errors=True)
    shutil.rmtree(runtime, ignore_errors=True)


def _end(pidfile: Path, runtime: Path) -> None:
    """End a machine that a failed test left behind, and only that: its command line names our runtime folder."""
    try:
        pid = int(pidfile.read_text())
        if str(runtime).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
    except (OSError, ValueError):
        pass
