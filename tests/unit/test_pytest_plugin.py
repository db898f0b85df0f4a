"""The plug-in where there is no machine: it is loaded into everybody's runs, so it must be cheap and quiet."""

import importlib.metadata
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from devbox import pytest_plugin
from devbox.disk.record import Record
from devbox.errors import DevboxError
from devbox.machine import lifecycle
from devbox.machine.lifecycle import Observation, State
from tests.unit.disk import machines

ROOT = Path(__file__).parent.parent.parent
REGISTERED = any(one.name == "devbox" for one in importlib.metadata.entry_points(group="pytest11"))
PLUGIN = () if REGISTERED else ("-p", "devbox.pytest_plugin")  # where devbox was not installed, only put on the path


def run(folder: Path, *words: str, plugin: tuple[str, ...] = PLUGIN) -> tuple[int, str]:
    strict = ("-W", "error", "--strict-config", "--strict-markers", "-p", "no:cacheprovider")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *strict, *plugin, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_it_is_registered_by_its_name() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert declared["entry-points"]["pytest11"] == {"devbox": "devbox.pytest_plugin"}
    assert any(one.startswith("pytest-testinfra") for one in declared["optional-dependencies"]["pytest"])


def test_unused_it_loads_nothing_else() -> None:
    text = (
        "import sys, devbox.pytest_plugin; print(sorted(n for n in sys.modules if n.startswith(('devbox', 'typer'))))"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", text], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "['devbox', 'devbox.pytest_plugin']\n"


def test_a_run_without_the_fixture_hears_nothing_of_it(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_it(): pass\n")
    status, said = run(tmp_path)
    assert (status, "devbox" in said) == (0, False)


def test_trouble_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_it(devbox_machine): pass\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\ndevbox_project = vm\n")
    (tmp_path / "vm").mkdir()
    (tmp_path / "other").mkdir()
    for words, folder in (((), "vm"), (("--devbox-project", "other"), "other")):
        status, said = run(tmp_path, *words)
        assert status == 1
        assert f"There is no Devboxfile in {tmp_path / folder} or above it." in said
        assert "Traceback" not in said


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("was", [State.STOPPED, State.RUNNING])
@pytest.mark.parametrize("trouble", [DevboxError("provision.failed", "The step failed."), KeyboardInterrupt(), None])
def test_a_machine_that_was_down_is_down_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: BaseException | None, was: State, *, keep: bool
) -> None:
    """Also where it was started, and then a step failed."""
    pytest.importorskip("testinfra")
    record, _ = machines.record(tmp_path)
    (record.project / "Devboxfile").touch()
    state = [was]

    def bring_up(folder: Path) -> None:
        assert folder == record.project
        state.append(State.RUNNING)
        if trouble:
            raise trouble

    def halt(of: Record, **_: object) -> None:
        assert of.id == record.id
        state.append(State.STOPPED)
        if trouble:
            raise DevboxError("machine.unkillable", "It does not end.")

    monkeypatch.setattr("devbox.commands.up.bring_up", bring_up)
    monkeypatch.setattr(lifecycle, "observe", lambda _: Observation(state[-1]))
    monkeypatch.setattr(lifecycle, "halt", halt)
    down_again = [State.STOPPED] if was is State.STOPPED and not keep else []
    if trouble:
        with pytest.raises(type(trouble)) as told:
            pytest_plugin._bring_up(record.project, keep=keep)
        assert told.value is trouble
    else:
        _, shut_down = pytest_plugin._bring_up(record.project, keep=keep)
        assert state == [was, State.RUNNING]
        if shut_down:
            shut_down()
    assert state == [was, State.RUNNING, *down_again]


@pytest.mark.skipif(not REGISTERED, reason="devbox is on the path here, and not installed")
def test_it_can_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_it(devbox_machine): pass\n")
    status, said = run(tmp_path, plugin=("-p", "no:devbox"))
    assert status == 1
    assert "fixture 'devbox_machine' not found" in said
