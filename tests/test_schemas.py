"""The contracts: the schemas are valid and explain themselves, what we ship is valid, and each mistake gets its line.

A bad sample (tests/samples/*.yaml) says itself what must be said about it: `#> part of the sentence` at the end of a
line, once for each mistake of that line; `…` stands for what is left out. Nothing else may be said.
"""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from devbox.config import build, contract, document, steps
from devbox.config.values import Host
from devbox.errors import DevboxError, ExitCode

ROOT = Path(__file__).parent.parent
SCHEMAS = sorted((ROOT / "schemas").rglob("*.json"))
SAMPLES = sorted((ROOT / "tests" / "samples").glob("*.yaml"))
HOST = Host("x86_64", 4, 8 << 30)


def properties(part: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(part, dict):
        for key, value in part.items():
            if key == "properties":
                yield from ((f"{path}/{name}", schema) for name, schema in value.items())
            if key not in {"examples", "default", "if", "dependentSchemas"}:
                yield from properties(value, f"{path}/{key}")
    elif isinstance(part, list):
        for index, item in enumerate(part):
            yield from properties(item, f"{path}/{index}")


def resolved(found: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """`found` over what it refers to within its own file."""
    target: Any = schema
    if not found.get("$ref", "").startswith("#/"):
        return found
    for part in found["$ref"].split("/")[1:]:
        target = target[part]
    return {**target, **{key: value for key, value in found.items() if key != "$ref"}}


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.name)
def test_schemas_are_valid_and_explain_every_key(path: Path) -> None:
    schema = json.loads(path.read_text())
    Draft202012Validator.check_schema(schema)
    for name, written in properties(schema):
        found = resolved(written, schema)
        if "$ref" in found or "x-not-yet" in found:
            continue  # explained in the file that it refers to; shown when it is carried out
        assert found.get("title"), f"{name} has no title"
        assert found.get("description"), f"{name} has no description"
        assert found.get("examples") or "properties" in found, f"{name} has no examples"


@pytest.mark.parametrize("name", ["devboxfile", "lock", "box", "config"])
def test_examples_in_schemas_are_right(name: str) -> None:
    whole = contract.bundled(name)
    for where, schema in properties(whole):
        if "x-not-yet" not in schema:
            validator = Draft202012Validator({"$defs": whole.get("$defs", {}), **schema})
            for example in schema.get("examples", ()):
                assert [error.message for error in validator.iter_errors(example)] == [], where


def test_the_bundle_refers_to_nothing_outside() -> None:
    references = re.findall(r'"\$ref": "([^"]*)"', json.dumps(contract.bundled("devboxfile")))
    assert [reference for reference in references if not reference.startswith("#/")] == []
    assert "#/$defs/kinds-file" in references


def test_common_keys_are_those_of_the_schema() -> None:
    step = contract.bundled("devboxfile")["$defs"]["step"]
    kinds = {branch["required"][0] for branch in step["oneOf"]}
    assert step["properties"].keys() - kinds == steps.COMMON


@pytest.mark.parametrize("path", sorted((ROOT / "boxes").glob("*.yaml")), ids=lambda path: path.name)
def test_boxes_are_valid(path: Path) -> None:
    read = document.load_bytes(path.read_bytes(), path.name)
    assert [str(problem) for problem in (*read.problems, *contract.check(read, "box"))] == []


def test_the_example_is_valid_and_shows_every_key(tmp_path: Path) -> None:
    text = (ROOT / "Devboxfile.example").read_text()
    (tmp_path / "Devboxfile").write_text(text)
    assert build.load(tmp_path, HOST).name == "example"
    known = contract.bundled("devboxfile")["properties"]
    shown = set(re.findall(r"^(\w+):", text, re.MULTILINE))
    assert shown == {key for key, schema in known.items() if "x-not-yet" not in schema}


@pytest.mark.parametrize("folder", sorted((ROOT / "examples").iterdir()), ids=lambda folder: folder.name)
def test_examples_are_valid(folder: Path, tmp_path: Path) -> None:
    project = tmp_path / folder.name
    shutil.copytree(folder, project)
    build.load(project, HOST)


def expected(text: str) -> dict[int, list[str]]:
    marked = ((number, line.split("#>")[1:]) for number, line in enumerate(text.split("\n"), 1))
    return {number: [part.strip() for part in parts] for number, parts in marked if parts}


def said(error: DevboxError) -> dict[int, list[str]]:
    lines: dict[int, list[str]] = {}
    for text in error.message.split("\n")[1:]:
        found = re.fullmatch(r"  Devboxfile:([0-9]+):[0-9]+: (.*)", text)
        assert found, text
        lines.setdefault(int(found[1]), []).append(found[2])
    return lines


def fits(sentence: str, pattern: str) -> bool:
    return bool(re.search(".*".join(re.escape(part.strip()) for part in pattern.split("…")), sentence))


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_every_mistake_of_a_bad_sample_is_told_with_its_line(path: Path, tmp_path: Path) -> None:
    text = path.read_text()
    (tmp_path / "Devboxfile").write_text(text)
    with pytest.raises(DevboxError) as caught:
        build.load(tmp_path, HOST)
    assert caught.value.id == "config.invalid"
    assert caught.value.exit_code is ExitCode.USAGE
    want, got = expected(text), said(caught.value)
    assert sorted(got) == sorted(want), caught.value.message
    for line, patterns in want.items():
        assert len(got[line]) == len(patterns), got[line]
        for pattern in patterns:
            assert any(fits(sentence, pattern) for sentence in got[line]), (pattern, got[line])
