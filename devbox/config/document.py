"""Text of a YAML file in; plain data with the line and column of everything out, and all mistakes at once.

The YAML that is read is a strict part of it: the scalars of YAML 1.2's core schema, and no anchors, aliases, tags,
merge keys, directives, further documents or duplicate keys. This is the only module that touches the YAML library.
"""

import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from devbox.config import yaml_mistakes
from devbox.config.problems import Document, Place, Position, Problem, fail
from devbox.config.yaml_mistakes import MAX_DEPTH
from devbox.errors import DevboxError, ExitCode

MAX_BYTES = 256 * 1024
MAX_NODES = 20_000
MAX_BROKEN_BLOCKS = 10

_INT = re.compile(r"[-+]?[0-9]+\Z")
_OCTAL = re.compile(r"0o[0-7]+\Z")
_HEX = re.compile(r"0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_NO_NUMBER = re.compile(r"[-+]?\.(inf|Inf|INF)\Z|\.(nan|NaN|NAN)\Z")
_WORDS: Mapping[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_NO_KEY = "?"  # stands for a key that is a collection
_FORBIDDEN = re.compile("[\x00\ud800-\udfff]")


def read_bytes(path: Path) -> bytes:
    """The bytes of a regular file of at most MAX_BYTES. Raises `config.unreadable`."""
    try:
        # Never wait for a FIFO's writer: the repository chose what lies here.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError("it is not an ordinary file")
            raw = file.read(MAX_BYTES + 1)
    except OSError as trouble:
        raise DevboxError(
            "config.unreadable",
            f"{path} cannot be read: {trouble.strerror or trouble}.",
            exit_code=ExitCode.USAGE,
        ) from trouble
    if len(raw) > MAX_BYTES:
        raise DevboxError(
            "config.unreadable",
            f"{path} is larger than {MAX_BYTES // 1024} KiB, which is the most that devbox reads.",
            exit_code=ExitCode.USAGE,
        )
    return raw


def load_bytes(raw: bytes, name: str) -> Document:
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as wrong:
        line = raw.count(b"\n", 0, wrong.start) + 1
        column = wrong.start - (raw.rfind(b"\n", 0, wrong.start) + 1) + 1
        return _refused(name, line, column, "this is not UTF-8 text; save the file as UTF-8")
    return load_yaml(text, name)


def _refused(name: str, line: int, column: int, message: str) -> Document:
    problem = Problem(Position(name, line, column), (), message)
    return Document(name, None, {}, {}, problems=(problem,), incomplete=True)


def load_plain(path: Path) -> Any:
    """The data of a YAML file, read strictly but checked against no schema. Raises `config.invalid`."""
    document = load_bytes(read_bytes(path), path.name)
    if document.problems:
        fail(document.problems)
    return document.data


def load_yaml(text: str, name: str) -> Document:
    """Read `text`; the mistakes found are in the document's `problems`, and its `data` is what could be read.

    A part that is not YAML is set aside with everything under the same top-level key, and the rest is read without
    it, so that one forgotten quote does not hide the other mistakes.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if found := yaml_mistakes.unreadable(text):
        return _refused(name, *found)
    import yaml  # noqa: PLC0415 - 20 ms that a document from the cache does not need

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    broken: list[Problem] = []
    while True:
        reader = _Reader(name)
        try:
            data = reader.document(yaml.parse(text, Loader=loader))
            break
        except yaml.MarkedYAMLError as trouble:
            line, column, message = yaml_mistakes.explain(trouble, text)
            broken.append(Problem(Position(name, line, column), (), message))
            rest = yaml_mistakes.without_block(text, line)
            if rest is None or len(broken) >= MAX_BROKEN_BLOCKS:
                data = None
                break
            text = rest
        except _TooMuch as too_much:
            broken.append(too_much.problem)
            data = None
            break
    problems = (*broken, *reader.problems)
    return Document(name, data, reader.values, reader.keys, reader.written, problems, bool(broken))


class _TooMuch(Exception):
    """A limit is exceeded: reading ends here."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class _Reader:
    """Builds data from the parser's events. They are typed Any: the library's C parser has no types of its own."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.values: dict[Place, Position] = {}
        self.keys: dict[Place, Position] = {}
        self.written: dict[Place, str] = {}
        self.problems: list[Problem] = []
        self._nodes = 0

    def document(self, events: Iterator[Any]) -> Any:
        data, seen = None, False
        for event in events:
            kind = type(event).__name__
            if kind == "DocumentStartEvent":
                if event.version or event.tags:
                    self._problem(event, (), "lines that begin with `%` (YAML directives) are not used here")
                if seen:
                    self._problem(event, (), "a second document begins here (`---`); the file holds one only")
                    break
                seen = True
            elif kind not in {"StreamStartEvent", "StreamEndEvent", "DocumentEndEvent"}:
                data = self._node(event, events, ())
        return data

    def _position(self, event: Any) -> Position:
        return Position(self.name, event.start_mark.line + 1, event.start_mark.column + 1)

    def _problem(self, event: Any, place: Place, message: str) -> None:
        self.problems.append(Problem(self._position(event), place, message))

    def _node(self, event: Any, events: Iterator[Any], place: Place) -> Any:
        self._nodes += 1
        if self._nodes > MAX_NODES or len(place) > MAX_DEPTH:
            limit = f"hold more than {MAX_NODES} values" if self._nodes > MAX_NODES else f"nest deeper than {MAX_DEPTH}"
            raise _TooMuch(Problem(self._position(event), place[:1], f"a file for devbox cannot {limit}"))
        kind = type(event).__name__
        # A collection is known by its key and an empty value too; both may begin on a later line than it.
        at_key = place in self.keys and not (kind == "ScalarEvent" and (event.value or event.style))
        self.values[place] = self.keys[place] if at_key else self._position(event)
        if event.anchor is not None:
            sign = "*" if kind == "AliasEvent" else "&"
            self._problem(event, place, f"`{sign}{event.anchor}`: anchors and aliases are not used here; write it out")
            if kind == "AliasEvent":
                return None
        if event.tag is not None:
            self._problem(event, place, "tags such as `!!str` are not used here; leave it out")
        if kind == "ScalarEvent":
            return self._scalar(event, place)
        return self._sequence(events, place) if kind == "SequenceStartEvent" else self._mapping(events, place)

    def _sequence(self, events: Iterator[Any], place: Place) -> list[Any]:
        items: list[Any] = []
        for event in events:
            if type(event).__name__ == "SequenceEndEvent":
                break
            items.append(self._node(event, events, (*place, len(items))))
        return items

    def _mapping(self, events: Iterator[Any], place: Place) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for event in events:
            if type(event).__name__ == "MappingEndEvent":
                break
            key = self._key(event, events, place)
            inner = (*place, key)
            if key in found:
                first = self.keys[inner].line
                again = self._position(event)
                self.problems.append(
                    Problem(again, inner, f"this key is given twice, in line {first} and in line {again.line}")
                )
            else:
                self.keys[inner] = self._position(event)
            found[key] = self._node(next(events), events, inner)
        return found

    def _key(self, event: Any, events: Iterator[Any], place: Place) -> str:
        plain = type(event).__name__ == "ScalarEvent"
        if not plain:
            # `{{ name }}` without quotes is a mapping whose key is a mapping.
            if _NO_KEY not in place:
                message = "a key must be text here; put quotes round a value that begins with `{` or `[`"
                self._problem(event, place, message)
            self._node(event, events, (*place, _NO_KEY))
            return _NO_KEY
        key = str(event.value)
        if event.anchor is not None or event.tag is not None:
            self._problem(event, (*place, key), "anchors and tags are not used here")
        if key == "<<" and not event.style:
            self._problem(event, (*place, key), "merge keys (`<<`) are not used here; write the keys out")
        elif not key and not event.style:
            self._problem(event, place, "a key is missing before the `:`")
        elif _FORBIDDEN.search(key):
            self._problem(event, place, "the character U+0000 cannot be in a key")
        return key

    def _scalar(self, event: Any, place: Place) -> Any:
        text = str(event.value)
        if event.style or event.tag is not None:
            if _FORBIDDEN.search(text):
                self._problem(event, place, "the character U+0000 and halves of characters cannot be in text")
            return text
        value = plain_scalar(text)
        if value is _UNUSABLE:
            self._problem(event, place, "this number is too large, or none that can be used")
            return None
        if not isinstance(value, str) and text != _canonical(value):
            self.written[place] = text
        return value


_UNUSABLE = object()


def plain_scalar(text: str) -> Any:
    """The value of a scalar without quotes, by YAML 1.2's core schema (section 10.3.2)."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.match(text):
        return int(text) if len(text) <= 20 else _UNUSABLE
    if _OCTAL.match(text) or _HEX.match(text):
        return int(text, 0) if len(text) <= 20 else _UNUSABLE
    if _FLOAT.match(text):
        number = float(text) if len(text) <= 64 else float("inf")
        return number if abs(number) < float("inf") else _UNUSABLE
    return _UNUSABLE if _NO_NUMBER.match(text) else text


def _canonical(value: Any) -> str:
    return "true" if value is True else "false" if value is False else "" if value is None else str(value)
