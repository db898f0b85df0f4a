"""The one filter that keeps secret values out of whatever is shown or kept: text, bytes, and streams of bytes.

It knows a value by the forms in which programs print it, and whoever shows or keeps something asks it: `errors`, `ui`,
`fs`, `bug`, and `provision.wire` for what the guest says. Before `install` it changes nothing.
"""

import base64
import json
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, TypeVar
from urllib.parse import quote, quote_plus

LEAST = 4  # characters; what is shorter stands in every other text, so it cannot be taken out of any
_LEAST_LINE = 6  # of a value's single lines: `EOF` and `}` are no secrets
_HEAD = 4  # bytes by which a place is told where a form may begin
_WIDTHS = (64, 76)  # at which OpenSSL and base64 break their lines
_HELD = 1 << 20  # bytes that a stream keeps back at most; only a value that repeats itself without end comes there

T = TypeVar("T")
Forms = tuple[tuple[bytes, bytes], ...]  # a form and what stands in for it, the longest form first


class _Known:
    """Forms in such an order that those at a place are found without a look at each: a key has a thousand lines."""

    def __init__(self, found: Mapping[bytes, bytes]) -> None:
        self.masks = found
        self.longest = max(map(len, found), default=0)
        self._forms = sorted(found)
        # For each form the longest other one that it begins with, or -1. They lie before it, one within the other.
        self._within: list[int] = []
        for at, form in enumerate(self._forms):
            shorter = at - 1
            while shorter >= 0 and not form.startswith(self._forms[shorter]):
                shorter = self._within[shorter]
            self._within.append(shorter)
        self._head = min(_HEAD, *map(len, found)) if found else 0
        self._heads = frozenset(form[: self._head] for form in found)
        letters = (sorted({head[at] for head in self._heads}) for at in range(self._head))
        self._likely = re.compile(b"(?=%s)" % b"".join(b"[%s]" % b"".join(map(_code, one)) for one in letters))

    def __bool__(self) -> bool:
        return bool(self.masks)

    def at(self, shown: bytes, start: int) -> bytes:
        """The longest form that stands there; empty if none does."""
        rest = shown[start : start + self.longest]
        at = bisect_right(self._forms, rest) - 1
        while at >= 0 and not rest.startswith(self._forms[at]):
            at = self._within[at]
        return self._forms[at] if at >= 0 else b""

    def begun(self, shown: bytes, start: int) -> bool:
        """Whether all that stands from there on is the beginning of a form, and not a whole one."""
        rest = shown[start:]
        at = bisect_right(self._forms, rest)
        return at < len(self._forms) and self._forms[at].startswith(rest)

    def places(self, shown: bytes, start: int = 0) -> Iterator[int]:
        """Where a form may begin that is not cut off within its first letters."""
        for found in self._likely.finditer(shown, start):
            at = found.start()
            if shown[at : at + self._head] in self._heads:
                yield at

    def torn_places(self, shown: bytes) -> range:
        """Where it may begin and be cut off so."""
        return range(max(0, len(shown) - self._head + 1), len(shown))


def _code(byte: int) -> bytes:
    return b"\\x%02x" % byte


_installed: dict[bytes, bytes] = {}
_known = _Known({})


def install(values: Mapping[str, str]) -> None:
    """From now on these values, by their names, are taken out of everything that this process shows or keeps."""
    global _known  # noqa: PLW0603 - one filter for the whole process is the point: nobody can forget to be handed it
    _installed.update(forms(values))
    _known = _Known(dict(_installed))


def forms(values: Mapping[str, str]) -> Forms:
    """All forms of all values. A form is bytes without NUL."""
    found: dict[bytes, bytes] = {}
    for name, value in values.items():
        for form in _forms_of(value):
            found.setdefault(form, f"‹{name}›".encode())
    telling = {mask for mask in set(found.values()) if any(form in mask for form in found)}
    shown = {form: b"***" if mask in telling else mask for form, mask in found.items()}
    return tuple(sorted(shown.items(), key=lambda item: (-len(item[0]), item[0])))


def text(shown: str) -> str:
    return data(shown.encode(errors="surrogatepass")).decode(errors="surrogatepass") if _known else shown


def data(shown: bytes) -> bytes:
    return _masked(shown, _spans(shown, _known))


def value(shown: T) -> T:
    """The same value of dicts, lists, tuples and text, with every text in it filtered."""
    made: Any = shown
    if not _known:
        return shown
    if isinstance(shown, str):
        made = text(shown)
    elif isinstance(shown, Mapping):
        made = {value(key): value(inner) for key, inner in shown.items()}
    elif isinstance(shown, list | tuple):
        made = type(shown)(value(inner) for inner in shown)
    return made  # type: ignore[no-any-return]


class Stream:
    """Bytes as they come. It keeps back what may be the beginning of a form until it is known whether it is one."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, shown: bytes) -> bytes:
        if not _known:
            return shown
        self._held += shown
        spans = _spans(self._held, _known)
        cut = _begun(self._held, _known) if len(self._held) < _HELD else len(self._held)
        cut = next((start for start, end, _ in spans if start < cut < end), cut)
        out = _masked(self._held[:cut], [span for span in spans if span[1] <= cut])
        self._held = self._held[cut:]
        return out

    def end(self) -> bytes:
        """What was kept back; the stream may go on with something else."""
        held, self._held = self._held, b""
        return data(held)


def _spans(shown: bytes, known: _Known) -> list[tuple[int, int, bytes]]:
    """Where forms stand, those that overlap as one: begin, end and what stands in for them."""
    merged: list[tuple[int, int, bytes]] = []
    for start in known.places(shown) if known else ():
        form = known.at(shown, start)
        if not form:
            continue
        end = start + len(form)
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]), merged[-1][2])
        else:
            merged.append((start, end, known.masks[form]))
    return merged


def _masked(shown: bytes, spans: list[tuple[int, int, bytes]]) -> bytes:
    parts, at = [], 0
    for start, end, mask in spans:
        parts += [shown[at:start], mask]
        at = end
    return b"".join((*parts, shown[at:]))


def _begun(shown: bytes, known: _Known) -> int:
    """The first place from which on the end of `shown` may be the beginning of a form; its length if there is none."""
    first = max(0, len(shown) - known.longest + 1)
    places = chain(known.places(shown, first), known.torn_places(shown))
    return next((start for start in places if known.begun(shown, start)), len(shown))


def _forms_of(whole: str) -> Iterator[bytes]:
    printed = _printed(whole).replace("\0", "")
    lines = [line.strip() for line in (*whole.splitlines(), *printed.splitlines())]
    parts = (whole, whole.strip(), printed, *(line for line in lines if len(line) >= _LEAST_LINE))
    for one in dict.fromkeys(parts):
        if len(one) < LEAST:
            continue
        yield from (spelling.encode() for spelling in _spellings(one))
    for one in (whole, whole.strip()):
        yield from _base64(one.encode())


def _printed(whole: str) -> str:
    """What `echo` of dash and BusyBox, and `printf %b`, make of a value with backslashes in it."""
    before_end = re.split(r"(?<!\\)(?:\\\\)*\\c", whole)[0]
    return re.sub(r"\\(?:0([0-7]{1,3})|([abfnrtv\\]))", lambda found: _escape(found[1], found[2]), before_end)


def _escape(octal: str | None, letter: str) -> str:
    return chr(int(octal, 8) & 0x7F) if octal else "\a\b\f\n\r\t\v\\"["abfnrtv\\".index(letter)]


def _spellings(one: str) -> Iterator[str]:
    """The text as it is, and as URLs, JSON, Python and the shells write it."""
    yield from (one, one.replace("\n", "\r\n"))
    for url in (quote(one, safe=""), quote(one), quote_plus(one), quote(one, safe="!'()*")):  # the last: JavaScript
        yield from (url, re.sub("%[0-9A-F]{2}", lambda code: code[0].lower(), url))
    for escaped in (json.dumps(one)[1:-1], json.dumps(one, ensure_ascii=False)[1:-1], repr(one)[1:-1]):
        yield from (escaped, escaped.replace("/", "\\/"))
    yield one.replace("'", "'\\''")
    yield one.replace("'", "'\"'\"'")
    runs = re.sub("'+", lambda quotes: f"'\"{quotes[0]}\"'", one)  # BusyBox; it opens no quotes around nothing
    yield runs[one.startswith("'") : len(runs) - one.endswith("'")]
    yield re.sub(r'([$`"\\])', r"\\\1", one)
    yield re.sub(r"([^\w@%+=:,./-])", r"\\\1", one)  # Bash's `printf %q`
    # $'…' of Bash, which in the C locale writes other letters as octal digits
    ansi = one.translate({ord("\\"): "\\\\", ord("'"): "\\'", ord("\n"): "\\n", ord("\t"): "\\t", ord("\r"): "\\r"})
    yield ansi
    yield "".join(letter if letter < "\x7f" else "".join(f"\\{byte:o}" for byte in letter.encode()) for letter in ansi)


def _base64(raw: bytes) -> Iterator[bytes]:
    """Those letters that depend on nothing but the value, for each of the three ways in which it can be aligned."""
    for before in range(3):
        first, last = -(-before * 8 // 6), (before + len(raw)) * 8 // 6
        letters = base64.b64encode(bytes(before) + raw)[first:last]
        pieces = [letters]
        if before == 0:
            pieces += [letters[at : at + width] for width in _WIDTHS for at in range(0, len(letters), width)]
        for piece in pieces:
            if len(piece) >= LEAST:
                yield from (piece, piece.translate(bytes.maketrans(b"+/", b"-_")))
