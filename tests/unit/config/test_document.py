import os
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devbox.config import document
from devbox.errors import DevboxError


@pytest.fixture(params=["C", "Python"])
def _parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's fast parser, and the one that is there where it was built without."""
    if request.param == "Python":
        monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    elif not hasattr(yaml, "CSafeLoader"):
        pytest.skip("PyYAML has no C parser here")


def mistakes(text: str) -> list[str]:
    return [str(problem) for problem in document.load_yaml(text, "F").problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", 10),
        ("-5", -5),
        ("0o17", 15),
        ("0x1F", 31),
        ("1e3", 1000.0),
        ("1.10", 1.1),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("on", "on"),
        ("yes", "yes"),
        ("No", "No"),
        ("8080:80", "8080:80"),
        ("12:30:45", "12:30:45"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("2001-01-01", "2001-01-01"),
        ("'5'", "5"),
        ('""', ""),
        ("=", "="),
    ],
)
@pytest.mark.usefixtures("_parser")
def test_scalars_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    read = document.load_yaml(f"a: {text}\n", "F")
    assert read.problems == ()
    assert read.data == {"a": value}
    assert type(read.data["a"]) is type(value)


def test_keys_are_text_as_written() -> None:
    assert document.load_yaml("010: a\ntrue: b\n'null': c\n", "F").data == {"010": "a", "true": "b", "null": "c"}


def test_the_text_of_numbers_is_kept_where_it_says_more() -> None:
    read = document.load_yaml("a: 1.10\nb: 010\nc: 5\nd: true\ne: True\nf: text\n", "F")
    assert read.written == {("a",): "1.10", ("b",): "010", ("e",): "True"}


@pytest.mark.usefixtures("_parser")
def test_positions_name_values_and_the_keys_of_collections() -> None:
    read = document.load_yaml("a:\n  b: [1, {c: 2}]\nd:\n- x\n-\n  y: 1\ne:\n", "F")
    at = {problem: str(read.where(problem)) for problem in read.values}
    assert at[("a",)] == "F:1:1"
    assert at[("a", "b")] == "F:2:3"
    assert at[("a", "b", 0)] == "F:2:7"
    assert at[("a", "b", 1, "c")] == "F:2:14"
    assert at[("d", 0)] == "F:4:3"
    assert at[("d", 1, "y")] == "F:6:6"
    assert at[("e",)] == "F:7:1"
    assert str(read.where(("a", "missing", 5))) == "F:1:1"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: b: c", "F:1:5: a value with `: ` in it must be put in quotes"),
        ("a:\n\tb: 1", "F:2:1: a tab is used for indentation; YAML allows spaces only"),
        ("a: 1\n b: 2", "F:2:3: this line is indented more than line 1, which has its value already"),
        ("a:b\nc: d", "F:1:1: this line has no `: ` after its key (the space belongs to it)"),
        ("a:\n  - 1\n  b: 2", "F:3:3: this line is in the place of a list's `- item`; check its indentation"),
        ("a:\n  b: 1\n c: 2", "F:3:2: this line's indentation fits none of the lines above it"),
        ("a: 'it's'", "F:1:8: text goes on after its closing quote"),
        ("a: `x", "F:1:4: text cannot begin with ``` unless it is in quotes"),
        ("a: *", "F:1:5: text cannot begin with `*` or `&` unless it is in quotes"),
        ("a: - b", "F:1:4: a list cannot begin in the line of its key"),
        ("a: | x\n  y", "F:1:6: after `|` or `>` the text begins on the next line"),
        (": x", "F:1:1: a key is missing before the `:`"),
        ("a: \x07", "F:1:4: the character U+0007 cannot be in this file"),
        ("%YAML 1.1\n---\na: 1", "F:1:1: lines that begin with `%` (YAML directives) are not used here"),
        ("a: " + "9" * 5000, "F:1:4: a: this number is too large, or none that can be used"),
        ("a: 1e999", "F:1:4: a: this number is too large, or none that can be used"),
    ],
)
@pytest.mark.usefixtures("_parser")
def test_a_mistake_is_told_once_with_its_place(text: str, told: str) -> None:
    found = mistakes(text)
    assert len(found) == 1
    assert found[0].startswith(told)


@pytest.mark.usefixtures("_parser")
def test_a_broken_part_does_not_hide_the_rest() -> None:
    read = document.load_yaml('a: "x\nb: 1\nc: [1\nd:\n- e: f: g\n- h\ni: 2\n', "F")
    assert read.data == {"b": 1, "i": 2}
    assert read.incomplete
    assert [problem.position.line for problem in read.problems] == [1, 3, 5]


@pytest.mark.parametrize("text", ["[" * 50_000, "{" * 50_000, "? " * 50_000, "- " * 50_000, "a: {" * 10_000])
@pytest.mark.usefixtures("_parser")
def test_nesting_is_bounded(text: str) -> None:
    assert any("nest deeper than 32" in told for told in mistakes(text))


@pytest.mark.usefixtures("_parser")
def test_the_number_of_values_is_bounded() -> None:
    assert mistakes("a: [" + "1," * 30_000 + "1]")[0].endswith("a file for devbox cannot hold more than 20000 values")


def test_what_is_not_utf_8_is_told_with_its_place() -> None:
    read = document.load_bytes("a: ü\nb: \xe9".encode("latin-1"), "F")
    assert [str(problem) for problem in read.problems] == ["F:1:4: this is not UTF-8 text; save the file as UTF-8"]
    assert document.load_bytes(b"\xef\xbb\xbfa: 1", "F").data == {"a": 1}


def test_only_ordinary_files_of_a_bounded_size_are_read(tmp_path: Path) -> None:
    pipe, large = tmp_path / "pipe", tmp_path / "large"
    os.mkfifo(pipe)
    large.write_bytes(b"#" * (document.MAX_BYTES + 1))
    for path in (pipe, large, tmp_path, tmp_path / "missing"):
        with pytest.raises(DevboxError) as caught:
            document.read_bytes(path)
        assert caught.value.id == "config.unreadable"


def test_load_plain_gives_data_or_every_mistake(tmp_path: Path) -> None:
    path = tmp_path / "box.yaml"
    path.write_text("a: 1\n")
    assert document.load_plain(path) == {"a": 1}
    path.write_text("a: &x 1\na: *x\n")
    with pytest.raises(DevboxError, match=r"There are 3 mistakes in box.yaml:\n  box.yaml:1:4: "):
        document.load_plain(path)


_BITS = ["a", "b: ", ": ", "- ", "\n", "\n  ", "\n    ", "\t", "[", "]", "{", "}", ",", "'", '"', "|", ">", "&x ", "*x"]
_BITS += [
    "!!str ",
    "? ",
    "#",
    "%",
    "---\n",
    "...",
    "\\",
    "<<: ",
    "0",
    "1e9",
    "\x00",
    "\ud800",
    "\u2028",
    "ü",
    "~",
    "=\r",
]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(_BITS), max_size=40).map("".join))
@pytest.mark.usefixtures("_parser")
def test_any_text_gives_a_document(text: str) -> None:
    read = document.load_yaml(text, "F")
    assert all(problem.position.line >= 1 and problem.position.column >= 1 for problem in read.problems)


def test_any_bytes_give_a_document() -> None:
    source = random.Random(1)
    for _ in range(200):
        document.load_bytes(source.randbytes(source.randrange(60)), "F")
