"""The JSON Schemas: in one piece for editors, and a document checked against one of them.

A document goes in, the problems come out. Importing this costs what jsonschema costs (90 ms): do it in a function.
"""

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

from devbox import paths
from devbox.config import mistakes
from devbox.config.problems import Document, Place, Problem


@cache
def bundled(name: str) -> dict[str, Any]:
    """`schemas/<name>.schema.json` with every other file that it refers to moved into its `$defs`."""
    schema: dict[str, Any] = _read(f"{name}.schema.json")
    moved: dict[str, Any] = {}
    schema = _moved_in(schema, moved, "#")
    schema.setdefault("$defs", {}).update(moved)
    return schema


def _read(file: str) -> Any:
    return json.loads((paths.resource_dir("schemas") / file).read_text(encoding="utf-8"))


def _moved_in(part: Any, moved: dict[str, Any], here: str) -> Any:
    if isinstance(part, list):
        return [_moved_in(item, moved, here) for item in part]
    if not isinstance(part, dict):
        return part
    found = {}
    for key, value in part.items():
        if key == "$ref" and isinstance(value, str):
            found[key] = _moved_ref(value, moved, here)
        elif here == "#" or key not in {"$id", "$schema"}:
            found[key] = _moved_in(value, moved, here)
    return found


def _moved_ref(target: str, moved: dict[str, Any], here: str) -> str:
    if target.startswith("#"):
        return here + target[1:]
    name = target.removesuffix(".schema.json").replace("/", "-")
    if name not in moved:
        moved[name] = {}  # Reserved before it is read: files may refer to each other.
        moved[name] = _moved_in(_read(target), moved, f"#/$defs/{name}")
    return f"#/$defs/{name}"


def check(document: Document, name: str) -> list[Problem]:
    """What is wrong with the document by `schemas/<name>.schema.json`, one sentence for each mistake."""
    found: list[Problem] = []
    wrong_type: set[Place] = set()
    for error in _Validator(bundled(name)).iter_errors(document.data):
        place: Place = tuple(error.absolute_path)
        if place in wrong_type:
            continue  # Whatever else is asked of it, it is another thing altogether.
        told = list(mistakes.explain(error, document, bundled(name)))
        if error.validator == "type":
            wrong_type.add(place)
            found = [one for one in found if one.place != place or one.message.endswith(mistakes.NOT_YET)]
        found += told
    not_yet = {problem.place for problem in found if problem.message.endswith(mistakes.NOT_YET)}
    unread = {problem.place for problem in document.problems if problem.place}
    return [
        problem
        for problem in found
        if not _within(problem.place, unread)
        and not (_within(problem.place, not_yet) and not problem.message.endswith(mistakes.NOT_YET))
        and not (document.incomplete and not problem.place)  # what is missing may be in the part that is no YAML
    ]


def _within(place: Place, places: set[Place]) -> bool:
    return any(place[:length] in places for length in range(1, len(place) + 1))


def _pattern(_validator: Any, pattern: str, instance: Any, _schema: Any) -> Iterator[ValidationError]:
    # Python's `$` also matches before a final newline; that of JSON Schema's expressions does not.
    strict = re.sub(r"(?<!\\)\$(?=[)|]|\Z)", r"\\Z", pattern)
    if isinstance(instance, str) and not re.search(strict, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _not_yet(_validator: Any, value: Any, _instance: Any, _schema: Any) -> Iterator[ValidationError]:
    if value:
        yield ValidationError("not carried out yet")


_Validator: Any = extend(Draft202012Validator, {"pattern": _pattern, "x-not-yet": _not_yet})  # type: ignore[no-untyped-call]
