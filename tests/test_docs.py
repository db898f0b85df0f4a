"""Every Devboxfile and every list of steps that the documentation shows is valid."""

import re
from pathlib import Path

import pytest

from devbox.commands import steps
from devbox.config import build

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
HEAD = "version: 1\nbox: debian-12\n"


def examples() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)):
            found.append((f"{page.name}-{number}", block if block.startswith("version:") else HEAD + block))
    return found


def test_there_are_examples() -> None:
    assert len(examples()) >= 6


@pytest.mark.parametrize(("text"), [text for _, text in examples()], ids=[name for name, _ in examples()])
def test_example_is_valid(text: str, tmp_path: Path) -> None:
    for name in re.findall(r"src: ([\w./-]+)", text) + re.findall(r"inputs: \[([\w./-]+)\]", text):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("#!/bin/sh\n")
    (tmp_path / "Devboxfile").write_text(text)
    project = build.load(tmp_path)
    steps.check(project)
    assert project.machine.steps
