"""Runs a command line in this process, as `devbox` would, and says what a person would see."""

import contextlib
import io
from dataclasses import dataclass

from devbox import cli


@dataclass(frozen=True)
class Shown:
    status: int
    stdout: str
    stderr: str


def invoke(*arguments: str) -> Shown:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.run(arguments)
    return Shown(int(status), out.getvalue(), err.getvalue())
