"""Where each part of a document is written, and the mistakes found in it: all are shown together, by line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from devbox.errors import DevboxError, ExitCode

MAX_SHOWN = 60

# A value's place in the document: the keys and list indices that lead to it.
Place = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """Where something is written; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Problem:
    position: Position
    place: Place
    message: str

    def __str__(self) -> str:
        where = place_text(self.place)
        return f"{self.position}: {where}: {self.message}" if where else f"{self.position}: {self.message}"


@dataclass(frozen=True, slots=True)
class Document:
    """Plain data, and where each part of it is written.

    `values` and `keys` give positions by place. `written` has the source text of those numbers, booleans and nulls
    that would not come out again as they were written (`010`, `1.10`). `incomplete`: a part could not be read at
    all, so what is missing may have been there.
    """

    name: str
    data: Any
    values: Mapping[Place, Position]
    keys: Mapping[Place, Position]
    written: Mapping[Place, str] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    incomplete: bool = False

    def where(self, place: Place) -> Position:
        """The position to name for this place: a scalar's own, a collection's key; else that of what is around it."""
        for length in range(len(place), 0, -1):
            if place[:length] in self.values:
                return self.values[place[:length]]
        return Position(self.name, 1, 1)

    def problem(self, place: Place, message: str, *, at_key: bool = False) -> Problem:
        position = self.keys.get(place) if at_key else None
        return Problem(position or self.where(place), place, message)


def place_text(place: Place) -> str:
    """`("ports", 1, "host")` as people write it: `ports[1].host`."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{_short(part)}"
    return text.removeprefix(".")


def _short(text: str, limit: int = 40) -> str:
    """Text of the file as it can be shown: on one line, without control characters, not too long."""
    text = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def show(value: Any) -> str:
    """A value of the file as a sentence quotes it; a collection by its kind."""
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    return f"`{_short(str(value).lower() if isinstance(value, bool) else str(value), 60)}`"


def fail(problems: Sequence[Problem], hint: str = "") -> NoReturn:
    """Raise `config.invalid` with every problem, in the order of the file's lines."""
    ordered = sorted(set(problems), key=lambda problem: (problem.position, problem.message))
    names = " and ".join(dict.fromkeys(problem.position.file for problem in ordered))
    count = "a mistake" if len(ordered) == 1 else f"{len(ordered)} mistakes"
    lines = [f"  {problem}" for problem in ordered[:MAX_SHOWN]]
    if len(ordered) > MAX_SHOWN:
        lines.append(f"  … and {len(ordered) - MAX_SHOWN} more")
    raise DevboxError(
        "config.invalid",
        "\n".join((f"There is {count} in {names}:" if len(ordered) == 1 else f"There are {count} in {names}:", *lines)),
        hint=hint or f"Correct {'it' if len(ordered) == 1 else 'them'} and try again.",
        exit_code=ExitCode.USAGE,
    )
