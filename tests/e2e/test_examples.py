"""The LAMP example, as somebody uses it who has just cloned it: right at once, then nothing to do, then one edit."""

import json
import re
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checkout import Checkout

pytestmark = pytest.mark.e2e

LAMP = Path(__file__).parent.parent.parent / "examples/lamp"


@pytest.fixture(scope="module")
def lamp(tmp_path_factory: pytest.TempPathFactory, person: dict[str, str]) -> Iterator[Checkout]:
    root = tmp_path_factory.mktemp("examples") / "lamp"
    shutil.copytree(LAMP, root)
    checkout = Checkout(root, person)
    yield checkout
    checkout.devbox("destroy", "--yes")


def page(checkout: Checkout, path: str = "/") -> str:
    ports = {port["name"]: port["host"] for port in json.loads(checkout.devbox("ports", "--json").stdout)}
    with urllib.request.urlopen(f"http://{ports['web']}{path}", timeout=60) as answer:
        text: str = answer.read().decode()
    return text


def provision(checkout: Checkout) -> dict[str, str]:
    """Every step's outcome, by its name."""
    done = checkout.devbox("provision", "--json")
    assert done.returncode == 0
    events = [json.loads(line) for line in done.stdout.splitlines()]
    return {event["step"]: event["outcome"] for event in events if "outcome" in event}


def test_the_first_run_is_right(lamp: Checkout) -> None:
    assert lamp.devbox("up").returncode == 0
    answer = "Hello from lamp.test on debian 12\nUploads up to 32M\nGuest: Ada\nGuest: Grace\n"
    assert page(lamp) == answer
    assert page(lamp, "/guests") == answer
