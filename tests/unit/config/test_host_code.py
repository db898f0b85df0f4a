"""Which files are a step's code on this computer, and that another byte in them is other code."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from devbox.config import host_code, trust
from devbox.config.model import StepSpec
from devbox.errors import DevboxError
from tests.unit.config.test_trust import Load, load

__all__ = ["load"]  # a fixture

Files = Callable[..., set[str]]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """The files of a step's code, after these were written."""

    def found(kind: str, options: Any, written: dict[str, str] | None = None) -> set[str]:
        for name, text in (written or {}).items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return set(host_code.of_step(StepSpec("x", kind, options), tmp_path).files)

    return found


def test_a_playbook_takes_in_ansibles_folders_beside_it(files: Files) -> None:
    taken = {"p/site.yml", "p/roles/a/tasks/main.yml", "p/library/module.py", "p/filter_plugins/f.py", "p/ansible.cfg"}
    left = {"p/other/x", "roles/b/x", "p/roles/__pycache__/x", "ansible.cfg"}
    assert files("ansible", "p/site.yml", dict.fromkeys(taken | left, "")) == taken


def test_files_that_it_names_are_found_through_others(files: Files) -> None:
    site = "- import_playbook: next.yml\n- x: '{{ playbook_dir }}/../conf/app.ini'\n- x: /etc/passwd\n- missing.yml\n"
    taken = {
        "p/site.yml": site,
        "p/next.yml": "vars_files: ['../shared/v.yml']\nsrc: ../..\n",
        "shared/v.yml": "beside.yml",
        "shared/beside.yml": "",
        "conf/app.ini": "p/word.yml",
    }
    assert files("ansible", "p/site.yml", {**taken, "p/word.yml": "", "p/word": ""}) == set(taken)


def test_links_stay_within_the_project(files: Files, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "real").write_text("1")
    (tmp_path / "files/link").symlink_to("../real")
    assert files("ansible", "site.yml", {"site.yml": ""}) == {"site.yml", "files/link"}
    for target in ("/etc/hostname", "../../x", str(tmp_path / "real")):
        (tmp_path / "files/link").unlink()
        (tmp_path / "files/link").symlink_to(target)
        with pytest.raises(DevboxError, match="leads out of the project's folder"):
            files("ansible", "site.yml")


def test_too_much_is_refused(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_code, "LIMIT", 100)
    with pytest.raises(DevboxError, match="larger than"):
        files("ansible", "site.yml", {"site.yml": "x" * 60, "files/a": "y" * 60})


def test_a_task_takes_in_what_it_imports_beside_it(files: Files) -> None:
    taken = {
        "t/tasks.py": "import one, os\nfrom pack.sub import y\ndef x(c):\n    import late.deep\n",
        "t/one.py": "from two import z\n",
        "t/two.py": "",
        "t/pack/__init__.py": "",
        "t/pack/sub.py": "",
        "t/late.py": "",
    }
    left = {"t/unused.py": "", "one.py": "", "t/os/x.py": ""}
    assert files("python", {"src": "t/tasks.py", "task": "x"}, {**taken, **left}) == set(taken)


def test_each_byte_option_variable_and_right_to_run_counts(tmp_path: Path) -> None:
    def digest(options: Any = "site.yml", **common: Any) -> str:
        return host_code.of_step(StepSpec("x", "ansible", options, **common), tmp_path).digest

    (tmp_path / "site.yml").write_text("")
    (tmp_path / "library").mkdir()
    (tmp_path / "library/m").write_text("")
    seen = [digest(), digest({"playbook": "site.yml", "tags": ["a"]}), digest(env={"LD_PRELOAD": "x"})]
    (tmp_path / "library/m").chmod(0o755)
    seen.append(digest())
    (tmp_path / "library/m").write_text("1")
    seen.append(digest())
    assert len(set(seen)) == len(seen)
    assert digest(timeout=3.0, retries=2, needs=("y",)) == seen[-1], "when and how often is no code"


PLAY = "provision: [{ansible: site.yml}, {python: {src: tasks.py, task: setup}}]"


def test_code_that_runs_here_is_asked_and_asked_again_when_it_changed(load: Load, tmp_path: Path) -> None:
    root = tmp_path / "project"
    (root / "site.yml").write_text("")
    (root / "tasks.py").write_text("def setup(c): ...\n")
    asked = trust.missing(load(PLAY))
    assert [str(one) for one in asked] == [
        "`site.yml` of the project runs on this computer as you (Ansible playbook)",
        "`tasks.py` of the project runs on this computer as you (Fabric task setup)",
    ]
    trust.approve(load(PLAY))
    assert trust.missing(load(PLAY)) == ()
    assert trust.is_approved(root, asked[0].id)
    assert trust.missing(load("cpus: 1")) == ()
    (root / "tasks.py").write_text("def setup(c): print()\n")
    assert [one.id.split(":")[:3] for one in trust.missing(load(PLAY))] == [["code", "python", "tasks.py"]]
    (root / "roles/x").mkdir(parents=True)
    (root / "roles/x/new").touch()
    assert len(trust.missing(load(PLAY))) == 2


def test_a_playbook_in_the_machine_needs_no_approval(load: Load, tmp_path: Path) -> None:
    (tmp_path / "project/site.yml").write_text("")
    assert trust.missing(load("provision: [{ansible: {playbook: site.yml, local: true}}]")) == ()


def test_requirements_are_named(load: Load, tmp_path: Path) -> None:
    for name in ("site.yml", "r.yml"):
        (tmp_path / "project" / name).write_text("")
    (asked,) = trust.missing(load("provision: [{ansible: {playbook: site.yml, requirements: r.yml}}]"))
    assert "with what r.yml downloads" in str(asked)


def test_a_missing_file_is_left_to_the_step(load: Load) -> None:
    assert trust.missing(load(PLAY)) == ()
