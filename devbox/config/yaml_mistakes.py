"""The YAML parser's complaints in; a line, a column and a newcomer's sentence out. Text only, no parsing.

The C and the Python parser word their complaints differently; both are known here.
"""

import re
from typing import Any

_TOP = re.compile(r"[^\s#\-\]})]")
_HAS_VALUE = re.compile(r"\s*(- +)?[^\s#:]+: +[^\s#|>&!]")
# With those that the library, but not YAML 1.2, takes for the end of a line: the lines told would be other ones.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")
_MERGE = re.compile(r"^(<{7}|={7}|>{7})( .*)?$", re.MULTILINE)
MAX_DEPTH = 32  # of collections in one another
_LIST_ITEM = "this line is in the place of a list's `- item`; check its indentation"

# (in the complaint, in its context, what to say); the first that fits counts.
_SENTENCES = (
    # since PyYAML 6.0.4, whose scanner looks further ahead than what was read so far
    ("maximum nesting depth", "", f"a file for devbox cannot nest deeper than {MAX_DEPTH}"),
    (
        "sequence entries are not allowed",
        "",
        "a list cannot begin in the line of its key: each `- item` has its own line",
    ),
    ("'?'", "collection", _LIST_ITEM),
    ("'-' indicator", "", _LIST_ITEM),
    ("did not find expected key", "", "this line's indentation fits none of the lines above it"),
    ("expected <block end>", "", "this line's indentation fits none of the lines above it"),
    ("expected ':'", "", "a `: ` is missing after this key"),
    ("alphabetic or numeric", "", "text cannot begin with `*` or `&` unless it is in quotes"),
    ("escape", "", "a backslash in \"…\" must be doubled (`\\\\`), or use '…' instead"),
    ("", "block scalar", "after `|` or `>` the text begins on the next line, indented"),
    ("<document start>", "", "the file's one mapping has ended before this; check indentation and brackets"),
)


def unreadable(text: str) -> tuple[int, int, str] | None:
    """(line, column, sentence) for what no parser need look at: control characters, an unfinished merge."""
    for pattern, sentence in (
        (_CONTROL, "the character U+{:04X} cannot be in this file"),
        (_MERGE, "a merge was left unfinished here; keep one of the two sides"),
    ):
        if found := pattern.search(text):
            begin = found.start()
            line, column = text.count("\n", 0, begin) + 1, begin - text.rfind("\n", 0, begin)
            return line, column, sentence.format(ord(text[begin]))
    return None


def explain(trouble: Any, text: str) -> tuple[int, int, str]:
    """(line, column, sentence) for a MarkedYAMLError raised while `text` was read; both count from 1."""
    problem, context = str(trouble.problem or ""), str(trouble.context or "")
    mark, begin = trouble.problem_mark or trouble.context_mark, trouble.context_mark
    lines = text.split("\n")
    if begin is not None and "quoted scalar" in context and "end of stream" in problem:
        return begin.line + 1, begin.column + 1, "the quote that opens here is never closed"
    if begin is not None and "',' or" in problem:
        sign, close = "{}" if "'}'" in problem else "[]"
        message = f"the `{sign}` that opens here is not closed: a `,` or `{close}` is missing in line {mark.line + 1}"
        return begin.line + 1, begin.column + 1, message
    here = lines[mark.line] if mark.line < len(lines) else ""
    if "mapping values are not allowed" in problem:
        line, message = _stray_colon(lines, mark.line, mark.column)
        return line, mark.column + 1 if line == mark.line + 1 else 1, message
    return mark.line + 1, mark.column + 1, _sentence(problem, context, here, mark.column)


def _sentence(problem: str, context: str, here: str, column: int) -> str:
    if "cannot start any token" in problem:
        sign = here[column : column + 1]
        if sign == "\t":
            return "a tab is used for indentation; YAML allows spaces only"
        return f"text cannot begin with `{sign}` unless it is in quotes"
    if "node content" in problem and "flow" in context:
        return "a value or a closing bracket is missing before this"
    if "expected" in problem and here[:column].rstrip().endswith(("'", '"')):
        return "text goes on after its closing quote; put the whole of it in quotes (the other kind of quotes)"
    if "expected" in problem and here[column:].startswith(":"):
        return "a key is missing before the `:`"
    for in_problem, in_context, sentence in _SENTENCES:
        if in_problem in problem and in_context in context:
            return sentence
    return f"this is not YAML ({problem})"


def _stray_colon(lines: list[str], line: int, column: int) -> tuple[int, str]:
    here = lines[line][:column] if line < len(lines) else ""
    if re.search(r":\s", here):
        return line + 1, "a value with `: ` in it must be put in quotes"
    above = next((number for number in range(line - 1, -1, -1) if lines[number].strip()), None)
    if above is None:
        return line + 1, "a `:` is not expected here"
    if _HAS_VALUE.match(lines[above]):
        return line + 1, f"this line is indented more than line {above + 1}, which has its value already"
    return above + 1, "this line has no `: ` after its key (the space belongs to it)"


def without_block(text: str, line: int) -> str | None:
    """`text` with everything under the top-level key around `line` blanked; None when nothing is left to blank."""
    lines = text.split("\n")
    at = min(line, len(lines)) - 1
    begin = next((number for number in range(at, -1, -1) if _TOP.match(lines[number])), 0)
    end = next((number for number in range(at + 1, len(lines)) if _TOP.match(lines[number])), len(lines))
    if not any(lines[begin:end]):
        return None
    return "\n".join((*lines[:begin], *[""] * (end - begin), *lines[end:]))
