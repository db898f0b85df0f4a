"""`devbox version`: the version of devbox, and of what it works with where that is asked."""

import platform
from typing import Annotated

import typer

from devbox import ui
from devbox.version import __version__


def version(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Print the version."""
    if json:
        ui.emit_json({"devbox": __version__, "python": platform.python_version()})
    else:
        ui.emit(f"devbox {__version__}")
