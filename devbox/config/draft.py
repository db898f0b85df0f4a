"""A document while it becomes values: hands out the parts that are right so far and collects what is wrong.

So the rules between fields can be checked in a file whose other half has mistakes, and all are reported together.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from devbox.config.problems import Document, Place, Problem
from devbox.config.values import Mistake

T = TypeVar("T")


class Draft:
    def __init__(self, document: Document, problems: Iterable[Problem]) -> None:
        self.document = document
        self.problems = list(problems)
        self._bad: set[Place] = set()  # the places of the problems, and all that is around them
        self._roots: set[Place] = set()  # the places of the problems: nothing in them is right
        for problem in self.problems:
            self._mark(problem.place)

    def _mark(self, place: Place) -> None:
        if place:
            self._roots.add(place)
        self._bad.update(place[:length] for length in range(1, len(place) + 1))

    def problem(self, place: Place, message: str) -> None:
        self.problems.append(self.document.problem(place, message))

    def good(self, place: Place) -> bool:
        """Whether no problem is known at this place, within it, or with something around it."""
        return place not in self._bad and not any(place[:length] in self._roots for length in range(1, len(place)))

    def _at(self, place: Place) -> Any:
        value = self.document.data
        for part in place:
            if isinstance(value, list) and isinstance(part, int):
                value = value[part]
            else:
                value = value.get(part) if isinstance(value, dict) else None
        return value

    def get(self, place: Place, default: Any = None) -> Any:
        """The value written at this place; the default when there is none, or when it is wrong."""
        value = self._at(place) if self.good(place) else None
        return default if value is None else value

    def make(self, place: Place, convert: Callable[[Any], T], default: T) -> T:
        """The value at this place, converted; a `Mistake` becomes a problem."""
        value = self.get(place)
        if value is None:
            return default
        try:
            return convert(value)
        except Mistake as mistake:
            self.problem(place, str(mistake))
            return default

    def each(self, place: Place, convert: Callable[[Any], T]) -> Iterator[tuple[Place, T]]:
        """The right ones among the entries of the list or mapping at this place, converted, with their places."""
        whole = self._at(place)
        entries: Iterable[tuple[str | int, Any]] = (
            enumerate(whole) if isinstance(whole, list) else whole.items() if isinstance(whole, dict) else ()
        )
        for part, value in entries:
            inner = (*place, part)
            if self.good(inner):
                try:
                    yield inner, convert(value)
                except Mistake as mistake:
                    self.problem(inner, str(mistake))
