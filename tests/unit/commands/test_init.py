import subprocess
from pathlib import Path

import pytest

from devbox.commands.init import FINDINGS, Finding, devboxfile_text
from devbox.config import build
from tests.unit.commands.invoke import invoke


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "My Project"
    root.mkdir()
    monkeypatch.chdir(root)
    return root


@pytest.mark.parametrize("finding", [None, *FINDINGS], ids=lambda finding: finding.marker if finding else "none")
def test_what_it_writes_is_valid(project: Path, finding: Finding | None) -> None:
    (project / "Devboxfile").write_text(devboxfile_text("some-name", "box: debian-12", finding))
    loaded = build.load(project)
    assert loaded.name == "some-name"
    assert [step.kind for step in loaded.machine.steps] == ["packages", "run"]


def test_names_the_project_and_says_what_it_found(project: Path) -> None:
    (project / "package.json").write_text("{}")
    result = invoke("init", "--box", "debian-13")
    assert result.status == 0
    assert "Node.js" in result.stderr
    loaded = build.load(project)
    assert loaded.name == "my-project"
    assert loaded.machine.box.name == "debian-13"


def test_ignore_lines_are_added_once(project: Path) -> None:
    subprocess.run(["git", "init", "-q"], check=True)
    (project / ".gitignore").write_text("node_modules")
    assert invoke("init").status == 0
    assert invoke("init", "--force").status == 0
    assert (project / ".gitignore").read_text().split() == ["node_modules", ".devbox/", "Devboxfile.local"]


def test_never_replaces_a_devboxfile(project: Path) -> None:
    (project / "Devboxfile").write_text("mine")
    result = invoke("init")
    assert result.status == 2
    assert (project / "Devboxfile").read_text() == "mine"
    assert "devbox init --force" in result.stderr
