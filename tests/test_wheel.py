"""What a user gets: the built wheel, installed into an empty environment, works without the checkout around it."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def _must(*argv: str | Path) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd="/")
    if done.returncode != 0:
        pytest.fail(f"{' '.join(str(word) for word in argv)}\n{done.stdout}{done.stderr}", pytrace=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # The build's own requirement, fetched alone, tells whether there is an index at all: only that is a reason to skip.
    probe = ["-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder / "probe"), "hatchling"]
    if subprocess.run([sys.executable, *probe], capture_output=True, check=False, cwd="/").returncode != 0:
        pytest.skip("no Python package index answers, so nothing can be built and installed")
    _must(sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of an environment that holds the wheel and what it requires, and nothing else."""
    folder = tmp_path_factory.mktemp("installed") / "environment"
    venv.create(folder, with_pip=False)
    _must(sys.executable, "-m", "pip", "--python", folder / "bin/python", "install", "--quiet", wheel)
    return folder / "bin"


def _devbox(installed: Path, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        [installed / "devbox", *words], capture_output=True, text=True, check=False, cwd=cwd, env=environment
    )


def test_the_wheel_holds_what_is_read_at_run_time(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    data = {
        path.relative_to(ROOT).as_posix() for folder in ("schemas", "boxes") for path in (ROOT / folder).rglob("*.*")
    }
    assert data
    assert {f"devbox/{name}" for name in data} - packed == set()
    shell = {path.relative_to(ROOT).as_posix() for path in (ROOT / "devbox").rglob("*.sh")}
    assert "devbox/provision/kinds/managers/apt.sh" in shell
    assert shell - packed == set()
    assert [name for name in packed if name.startswith("tests/")] == []
    assert [name for name in packed if name.endswith("licenses/LICENSE")] != []


def test_the_installed_wheel_validates_a_file(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "Devboxfile").write_text("version: 1\nbox: debian-12\nprovision:\n  - packages: [git]\n")
    done = _devbox(installed, "validate", cwd=tmp_path)
    assert done.returncode == 0, done.stderr

    (tmp_path / "Devboxfile").write_text("version: 1\nbox: debian-12\nportz: []\n")
    done = _devbox(installed, "validate", cwd=tmp_path)
    assert done.returncode == 2
    assert "Devboxfile:3" in done.stderr


def test_the_installed_wheel_knows_its_boxes(installed: Path, tmp_path: Path) -> None:
    done = _devbox(installed, "box", "list", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "debian-12" in done.stdout
