"""A question before something is given up: asked on a terminal, and refused in words where there is none."""

import sys

import typer

from devbox import ui
from devbox.errors import DevboxError, ExitCode


def require_yes(question: str, *, unasked: DevboxError, unchanged: str = "Nothing was changed.") -> None:
    """Go on after a yes; end with the word `unchanged` after a no. Raises `unasked` without a terminal."""
    if not sys.stdin.isatty():
        raise unasked
    if not ui.confirm(question):
        ui.note(unchanged)
        raise typer.Exit(ExitCode.FAILED)
