"""Every test gets cache, state and runtime folders of its own, and the filter of secrets as a new process has it."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from devbox import redact


@pytest.fixture(autouse=True)
def devbox_dirs(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("home")
    # A socket path is 107 bytes at most, and pytest's own folders are long.
    runtime = Path(tempfile.mkdtemp(prefix="dbx-", dir=os.environ.get("TMPDIR", "/tmp")))
    monkeypatch.setenv("HOME", os.fspath(home))
    for name in ("CACHE", "STATE", "CONFIG"):
        monkeypatch.setenv(f"DEVBOX_{name}_DIR", os.fspath(home / name.lower()))
    monkeypatch.setenv("DEVBOX_RUNTIME_DIR", os.fspath(runtime))
    for name in ("XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "CI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(redact, "_installed", {})
    monkeypatch.setattr(redact, "_known", redact._Known({}))
    yield home
    shutil.rmtree(runtime, ignore_errors=True)
