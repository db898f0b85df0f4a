"""devbox: one committed Devboxfile, the same Linux machine for everyone."""

import os
import sys
from pathlib import Path


def _forget_where_we_stand() -> None:
    """An empty or relative entry of PYTHONPATH means the working folder, which is a repository that we do not trust."""
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    here = {os.fspath(Path(entry).absolute()) for entry in entries if not entry.startswith("/")}
    sys.path[:] = [entry for entry in sys.path if entry.startswith("/") and entry not in here]


if os.environ.get("PYTHONPATH") and Path(sys.argv[0]).name in {"devbox", "dbx"}:
    _forget_where_we_stand()
