"""Where the installed command begins: what a repository could put in our way is forgotten before any import."""

import os
import sys
from pathlib import Path


def main() -> None:
    if os.environ.get("PYTHONPATH"):
        _forget_where_we_stand()
    from devbox import cli

    cli.main()


def _forget_where_we_stand() -> None:
    """An empty or relative entry of PYTHONPATH means the working folder, which is a repository that we do not trust."""
    entries = os.environ["PYTHONPATH"].split(os.pathsep)
    here = {os.fspath(Path(entry).absolute()) for entry in entries if not entry.startswith("/")}
    sys.path[:] = [entry for entry in sys.path if entry.startswith("/") and entry not in here]
