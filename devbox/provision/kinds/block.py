"""`block`: several lines in a text file between two marking lines, by which the block is found again."""

from collections.abc import Mapping
from typing import Any

from devbox.provision import rewrite
from devbox.provision.rewrite import Rewrite
from devbox.provision.step import Source, invalid

_LIMIT = 1 << 20  # bytes
# What ends a comment that this begins, where the end of the line does not.
_CLOSING = {"<!--": "-->", "/*": "*/", "(*": "*)", "{#": "#}"}


def parse(raw: Mapping[str, Any], source: Source) -> Rewrite:  # noqa: ARG001
    target = rewrite.target(raw)
    content = raw.get("content", "")
    if target.present and not content.strip("\r\n"):
        raise invalid("`content` is missing")
    if len(content.encode()) > _LIMIT:
        raise invalid(f"`content` is longer than {_LIMIT >> 20} MiB; write the whole file by `file`")
    begin, end = (_marker(word, raw) for word in ("BEGIN", "END"))
    lines = content.replace("\r\n", "\n").rstrip("\n").split("\n")
    if begin in lines or end in lines:
        raise invalid("`content` holds a marking line of the block itself")
    failure = f"{raw['path']} has a line `{begin}` without its `{end}`, or the other way round; mend it by hand."
    return Rewrite(target, "block", (begin, end, "\n".join(lines)), failure)


def _marker(word: str, raw: Mapping[str, Any]) -> str:
    comment = raw.get("comment", "#")
    words = (comment, word, "devbox", raw.get("marker", "block"), _CLOSING.get(comment, ""))
    return " ".join(part for part in words if part)


KIND = rewrite.kind(parse)
