"""States as text, their difference, and what a step's digest sees."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devbox.config.model import When
from devbox.provision.bind import bind
from devbox.provision.facts import Facts
from devbox.provision.step import Change, State, difference, parse_state, render
from tests.unit.provision.fake import step

NAME = st.text(st.characters(categories=("L", "N"), include_characters="._:-"), min_size=1, max_size=8)
VALUE = st.text(st.characters(exclude_categories=("C", "Z")), max_size=12)
STATE = st.dictionaries(NAME, VALUE, max_size=6).map(lambda fields: tuple(fields.items()))


@given(STATE)
def test_text_and_state_are_the_same_thing(state: State) -> None:
    assert parse_state(render(state) + "\n" if state else "") == state
    assert difference(state, state) == ()


@given(STATE, STATE)
def test_applying_a_difference_gives_what_is_wanted(actual: State, desired: State) -> None:
    model = dict(actual)
    for change in difference(actual, desired):
        assert model.get(change.field) == change.old
        if change.new is None:
            del model[change.field]
        else:
            model[change.field] = change.new
    assert model == dict(desired)


@pytest.mark.parametrize("text", ["no equals sign", "=value", "a=1\na=2", "a=1\n\nb=2"])
def test_anything_else_is_unknown(text: str) -> None:
    assert parse_state(text) is None


def test_the_order_of_a_difference() -> None:
    found = difference((("x", "1"), ("b", "1")), (("a", "2"), ("b", "2")))
    assert found == (Change("a", None, "2"), Change("b", "1", "2"), Change("x", "1", None))


def digest(options: Any, kind: str = "run", **common: Any) -> str:
    (bound,) = bind((step(kind, options, **common),), Path("/"), "dev")
    return bound.digest(Facts())


def test_a_digest_sees_what_is_done_and_not_how_often() -> None:
    base = digest("make")
    same: tuple[Mapping[str, Any], ...] = (
        {"name": "other"},
        {"timeout": 5.0},
        {"retries": 3},
        {"when": When.ALWAYS},
        {"tags": ("x",)},
        {"needs": ("y",)},
        {"position": "Devboxfile:99"},
    )
    for common in same:
        (bound,) = bind((replace(step("run", "make"), **common),), Path("/"), "dev")
        assert bound.digest(Facts()) == base, common
    others = [
        digest("make all"),
        digest("make", env={"A": "1"}),
        digest("make", cwd="/x"),
        digest("make", user="root"),
        digest({"run": "make", "creates": "/x"}),
        digest("/x", kind="directory"),
    ]
    assert len({base, *others}) == len(others) + 1
