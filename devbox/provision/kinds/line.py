"""`line`: one line of a text file, put in the place of the last one that matches, else added; the rest stays."""

from collections.abc import Mapping
from typing import Any

from devbox.provision import rewrite
from devbox.provision.rewrite import LIMIT, Rewrite
from devbox.provision.step import Source, invalid

# Ansible's words for the two ends of a file.
_START, _END = "BOF", "EOF"


def parse(raw: Mapping[str, Any], source: Source) -> Rewrite:  # noqa: ARG001
    target = rewrite.target(raw)
    line, match = raw.get("line", ""), raw.get("match", "")
    if "line" not in raw and (target.present or not match):
        raise invalid("`line` is missing" if target.present else "`line` or `match` must say what is to go")
    for name in ("line", "match", "after", "before"):
        _check(name, raw.get(name, ""))
    if "after" in raw and "before" in raw:
        raise invalid("has `after` and `before`: give one of them")
    if not target.present and ("after" in raw or "before" in raw):
        raise invalid("`after` and `before` have no meaning with `state: absent`")
    return Rewrite(target, "line", (line, match, *_place(raw)), _failure(raw))


def _check(name: str, text: str) -> None:
    if "\n" in text or "\r" in text or "\0" in text:
        raise invalid(f"`{name}` is more than one line; `block` is for several")
    if len(text.encode()) > LIMIT:
        raise invalid(f"`{name}` is longer than {LIMIT >> 10} KiB")


def _place(raw: Mapping[str, Any]) -> tuple[str, str]:
    """Which side of the last line that matches a pattern; without a pattern, an end of the file."""
    if raw.get("before") == _START:
        return "start", ""
    if "before" in raw:
        return "before", raw["before"]
    after = raw.get("after", _END)
    return "after", "" if after == _END else after


def _failure(raw: Mapping[str, Any]) -> str:
    patterns = [raw[name] for name in ("match", "after", "before") if raw.get(name) not in (None, _START, _END)]
    if not patterns:
        return f"{raw['path']} cannot be read."
    return f"{raw['path']} cannot be read, or grep -E does not understand: {' or '.join(patterns)}"


KIND = rewrite.kind(parse)
