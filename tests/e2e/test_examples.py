"""The LAMP example, as somebody uses it who has just cloned it: right at once, nothing to do, then one edit."""

import json
import os
import re
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checkout import Checkout

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        not os.environ.get("DEVBOX_TEST_SLOW"), reason="builds a box of its own: set DEVBOX_TEST_SLOW=1 to run it"
    ),
]

LAMP = Path(__file__).parent.parent.parent / "examples/lamp"


@pytest.fixture(scope="module")
def lamp(tmp_path_factory: pytest.TempPathFactory, person: dict[str, str]) -> Iterator[Checkout]:
    root = tmp_path_factory.mktemp("examples") / "lamp"
    shutil.copytree(LAMP, root)
    checkout = Checkout(root, person)
    # Installed into the box, natively and once: under emulation the same packages take ten minutes. The step sees them.
    packages = re.findall(r"^    packages: (\[.*\])", (root / "Devboxfile").read_text(), re.MULTILINE)
    edit(checkout, "recipe: debian-12}", f"recipe: debian-12, packages: {packages[0]}}}")
    yield checkout
    checkout.devbox("destroy", "--yes")


def page(checkout: Checkout, path: str = "/") -> str:
    ports = {port["name"]: port["host"] for port in json.loads(checkout.devbox("ports", "--json").stdout)}
    with urllib.request.urlopen(f"http://{ports['web']}{path}", timeout=60) as answer:
        text: str = answer.read().decode()
    return text


def provision(checkout: Checkout) -> dict[str, str]:
    """What became of each step, by its name."""
    done = checkout.devbox("provision", "--json")
    assert done.returncode == 0
    events = [json.loads(line) for line in done.stdout.splitlines()]
    return {event["step"]: event["status"] for event in events if event["event"] == "step-end"}


def edit(checkout: Checkout, old: str, new: str, name: str = "Devboxfile") -> None:
    text = (checkout.root / name).read_text()
    assert text.count(old) == 1
    (checkout.root / name).write_text(text.replace(old, new))


def changed(outcomes: dict[str, str]) -> set[str]:
    assert set(outcomes.values()) <= {"same", "changed", "skipped"}
    return {name for name, status in outcomes.items() if status == "changed"}


PAGE = "Hello from lamp.test on debian 12\nUploads up to {size}\nGuest: Ada\nGuest: Grace\n"


def test_the_first_run_is_right(lamp: Checkout) -> None:
    assert lamp.devbox("up").returncode == 0
    assert page(lamp) == page(lamp, "/guests") == PAGE.format(size="32M")


def test_the_second_run_changes_nothing(lamp: Checkout) -> None:
    outcomes = provision(lamp)
    assert len(outcomes) >= 15
    assert changed(outcomes) == set()


def test_one_line_edited_changes_one_step_and_what_needs_it(lamp: Checkout) -> None:
    edit(lamp, "upload_max_filesize = 32M", "upload_max_filesize = 48M")
    assert changed(provision(lamp)) == {"size of uploads", "apache"}
    assert page(lamp) == PAGE.format(size="48M")
    edit(lamp, "'Guest: '", "'Our guest: '", "site/public/index.php")
    assert changed(provision(lamp)) == {"the site"}
    assert page(lamp) == PAGE.format(size="48M").replace("Guest", "Our guest")
    assert changed(provision(lamp)) == set()
