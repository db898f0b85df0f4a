"""The steps of `provision`: mappings in, `StepSpec`s out, and the rules between steps. Kinds are not known here."""

import difflib
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from devbox.config import secrets, values
from devbox.config.draft import Draft
from devbox.config.model import StepSpec, When
from devbox.config.problems import MAX_SHOWN, Place, show

# What any step may have; every other key of a step is its kind.
COMMON = frozenset(
    ("name", "as", "when", "needs", "if", "tags", "layer", "refresh", "sensitive", "env", "secrets", "timeout")
    + ("retries", "cwd")
)
_COMMANDS = frozenset(("run", "script"))
_PREAMBLE = re.compile(r"#|set [-+]|cd |export ")
_PRIMARY = ("path", "name", "dest", "run", "src", "playbook")
_OCTAL = re.compile(r"(?:0o)?([0-7]{3,5})\Z")


def build(draft: Draft, place: Place = ("provision",)) -> tuple[StepSpec, ...]:
    written = draft.document.data.get("provision")
    if not isinstance(written, list):
        return ()
    names, identity = _names(draft, written, place), identities(written)
    secret_names = secrets.names(draft)
    made = []
    for index, step in enumerate(written):
        if isinstance(step, dict):
            _check_needs(draft, (*place, index, "needs"), index, names)
            secrets.check_names(draft, (*place, index), secret_names)
            if draft.good((*place, index)):
                one = _step(draft, (*place, index), step, names[index])
                made.append(replace(one, identity=identity[index]))
    return tuple(made)


def kind_of(step: Mapping[str, Any]) -> str:
    return next((key for key in step if key not in COMMON), "")


def default_name(kind: str, options: Any) -> str:
    """`kind:` and what the step is about: a path, a package list, the beginning of a command."""
    if isinstance(options, dict):
        about = next((options[key] for key in _PRIMARY if isinstance(options.get(key), str)), None)
        if about is None:
            signs = (("present", ""), ("latest", ""), ("absent", "-"))
            about = [f"{sign}{word}" for key, sign in signs for word in options.get(key) or ()]
    else:
        about = options
    text = ",".join(map(str, about)) if isinstance(about, list) else _telling_line(str(about))
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    limit = 40 if kind == "run" else 80
    return f"{kind}:{line[:limit].rstrip()}" if line else kind


def _telling_line(text: str) -> str:
    """The first line of a block that says what it is about; many begin alike."""
    lines = [line.strip() for line in text.strip().split("\n")]
    return next((line for line in lines if line and not _PREAMBLE.match(line)), lines[0])


def identities(steps: list[Any]) -> list[str]:
    """What receipts of commands without a name are kept by: their text, so that one put between them shifts none."""
    found: list[str] = []
    for step in steps:
        if not isinstance(step, dict) or "name" in step or kind_of(step) not in _COMMANDS:
            found.append("")
            continue
        text = json.dumps([kind_of(step), step[kind_of(step)]], sort_keys=True)
        identity = hashlib.sha256(text.encode()).hexdigest()
        found.append(f"{identity}#{sum(one.startswith(identity) for one in found)}")
    return found


def _names(draft: Draft, written: list[Any], place: Place) -> list[str]:
    """Each step's name; those that are made here are kept apart by `#2`, those that are written must differ."""
    given: dict[str, int] = {}
    for index, step in enumerate(written):
        name = step.get("name") if isinstance(step, dict) else None
        if isinstance(name, str) and name in given:
            line = draft.document.where((*place, given[name], "name")).line
            draft.problem((*place, index, "name"), f"the step in line {line} has the name {show(name)} already")
        elif isinstance(name, str):
            given[name] = index
    names: list[str] = []
    taken = set(given)
    for step in written:
        if isinstance(step, dict) and isinstance(step.get("name"), str):
            names.append(step["name"])
            continue
        base = name = default_name(kind_of(step), step.get(kind_of(step))) if isinstance(step, dict) else "?"
        number = 1
        while name in taken:
            number += 1
            name = f"{base}#{number}"
        taken.add(name)
        names.append(name)
    return names


def _check_needs(draft: Draft, place: Place, index: int, names: list[str]) -> None:
    for inner, need in draft.each(place, str):
        if need in names[:index]:
            continue
        if need in names:
            what = "is this step itself" if need == names[index] else "comes after this step"
            draft.problem(inner, f"{show(need)} {what}; a step can need an earlier one only")
            continue
        # A guess costs time, and a file with so many mistakes does not show them all.
        close = difflib.get_close_matches(need, names[:index], 1, 0.6) if len(draft.problems) < MAX_SHOWN else []
        guess = f"; did you mean `{close[0]}`?" if close else ""
        draft.problem(inner, f"no step before this one has the name {show(need)}{guess}")


def _step(draft: Draft, place: Place, step: dict[str, Any], name: str) -> StepSpec:
    kind = kind_of(step)
    at = draft.document.where(place)
    return StepSpec(
        name=name,
        kind=kind,
        options=_with_mode(draft, (*place, kind), step[kind]),
        user=step.get("as", ""),
        when=When(step.get("when", "changed")),
        needs=tuple(step.get("needs", ())),
        condition=MappingProxyType(dict(step.get("if", {}))),
        tags=tuple(step.get("tags", ())),
        sensitive=step.get("sensitive", False),
        secrets=tuple(step.get("secrets", ())),
        env=env(draft, (*place, "env")),
        timeout=draft.make((*place, "timeout"), values.duration, None),
        retries=int(step.get("retries", 0)),
        cwd=step.get("cwd", ""),
        position=f"{at.file}:{at.line}",
        layer=step.get("layer", True),
        epoch=epoch(step.get("refresh", "never"), datetime.now(UTC)),
    )


def epoch(refresh: str, now: datetime) -> str:
    """What stands for a time in which a cached result is good: the day, the week, or the user's own word."""
    if refresh == "never":
        return ""
    if refresh == "daily":
        return f"{now:%Y-%m-%d}"
    return f"{now:%G-W%V}" if refresh == "weekly" else refresh


def env(draft: Draft, place: Place) -> Mapping[str, str]:
    """Variables as text: numbers as they are written, since `1.10` is a version and not 1.1."""
    found = {}
    for inner, value in draft.each(place, lambda value: value):
        text = str(value).lower() if isinstance(value, bool) else str(value)
        found[str(inner[-1])] = draft.document.written.get(inner, text)
    return MappingProxyType(found)


def _with_mode(draft: Draft, place: Place, options: Any) -> Any:
    """A `mode` without quotes is a number to YAML; what counts is its digits, and they are octal."""
    if not isinstance(options, dict) or type(options.get("mode")) is not int:
        return options
    written = draft.document.written.get((*place, "mode"), str(options["mode"]))
    digits = _OCTAL.match(written)
    if digits is None:
        draft.problem((*place, "mode"), f'must be octal digits, such as "0644", not `{written}`')
        return options
    return {**options, "mode": digits[1] if digits[1].startswith("0") else f"0{digits[1]}"}
