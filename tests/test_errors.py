"""docs/errors.md lists exactly the error ids that the code can raise."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
ID = re.compile(r"[a-z]+\.[a-z]+(-[a-z]+)*")
AREAS = frozenset(
    re.findall(
        r"\w+",
        """
    box clone config destroy disk download folder guest host init layer lock logs machine port project provision qemu
    reboot recipe record runtime secret seed snapshot step store template test tool trust undo verify
""",
    )
)
FILE_ENDINGS = frozenset(
    {"json", "jsonl", "log", "sock", "pid", "iso", "img", "sh", "tar", "vfat", "mod", "xml", "txt", "yaml"}
)


def ids_in_code() -> set[str]:
    """Every string constant that has an id's shape: they stand in calls of several names and in tables."""
    found = set()
    for file in (ROOT / "devbox").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and ID.fullmatch(node.value):
                area, _, what = node.value.partition(".")
                if area in AREAS and what not in FILE_ENDINGS:
                    found.add(node.value)
    return found


def test_every_first_argument_of_an_error_is_such_an_id() -> None:
    known = ids_in_code()
    for file in (ROOT / "devbox").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "DevboxError":
                first = node.args[0]
                if isinstance(first, ast.Constant):
                    assert first.value in known, f"{file.name}:{node.lineno}: {first.value!r}"


def test_the_page_lists_them_all_and_no_other() -> None:
    listed = re.findall(r"^\| `([a-z.-]+)` \|", (ROOT / "docs/errors.md").read_text(), re.MULTILINE)
    assert sorted(listed) == listed, "in alphabetical order"
    assert set(listed) == ids_in_code()
