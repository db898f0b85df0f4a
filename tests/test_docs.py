"""Every Devboxfile and every list of steps that we show is valid, and the README names all there is."""

import re
from pathlib import Path

import pytest

from devbox import cli
from devbox.box import recipe
from devbox.commands import steps
from devbox.config import build, contract
from tests import guide

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
HEAD = "version: 1\nbox: debian-12\n"


def examples() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)):
            text = f"provision:\n{block}" if block.startswith("- ") else block
            if "secrets: [API_TOKEN]" in text and "name: API_TOKEN" not in text:
                text = "secrets: [{name: API_TOKEN, env: TOKEN}]\n" + text
            found.append((f"{page.name}-{number}", text if text.startswith("version:") else HEAD + text))
    return found


def test_there_are_examples() -> None:
    assert len(examples()) >= 6


@pytest.mark.parametrize(("text"), [text for _, text in examples()], ids=[name for name, _ in examples()])
def test_example_is_valid(text: str, tmp_path: Path) -> None:
    guide.project(tmp_path)
    (tmp_path / "Devboxfile").write_text(text)
    project = build.load(tmp_path)
    steps.check(project)
    assert project.machine.steps


EXAMPLES = sorted(path.parent for path in (ROOT / "examples").glob("*/Devboxfile"))


def test_there_are_projects() -> None:
    assert len(EXAMPLES) >= 5


@pytest.mark.parametrize("folder", EXAMPLES, ids=lambda folder: folder.name)
def test_project_is_valid_and_says_what_it_is(folder: Path) -> None:
    project = build.load(folder)
    steps.check(project)
    assert len(project.machine.steps) >= 5
    first = (folder / "Devboxfile").read_text().splitlines()[0]
    assert first.startswith("# ")


def test_readme_names_every_box_verb_and_key() -> None:
    readme = (ROOT / "README.md").read_text()
    schema = contract.bundled("devboxfile")
    words = [
        *(path.stem for path in (ROOT / "boxes").glob("*.yaml")),
        *(f"{{recipe: {name}}}" for name in recipe.RECIPES),
        *schema["properties"],
        *schema["$defs"]["step"]["properties"],
        *cli.VERBS.keys() - cli.GROUPS,
    ]
    assert [word for word in words if not re.search(rf"`{re.escape(word)}[` ]", readme)] == []
