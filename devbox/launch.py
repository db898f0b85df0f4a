"""Where the installed command begins: what a repository could put in our way is forgotten before any import."""

import os
import signal
import sys
from pathlib import Path


def main() -> None:
    # Until the command line can answer it in words, Ctrl-C just ends us: no traceback.
    on_interrupt = signal.getsignal(signal.SIGINT)
    if on_interrupt is signal.default_int_handler:  # else somebody has told us to ignore it
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if os.environ.get("PYTHONPATH"):
        _forget_where_we_stand()
    from devbox import cli

    signal.signal(signal.SIGINT, on_interrupt)
    cli.main()


def _forget_where_we_stand() -> None:
    """An empty or relative entry of PYTHONPATH means the working folder, which is a repository that we do not trust."""
    entries = os.environ["PYTHONPATH"].split(os.pathsep)
    here = {os.fspath(Path(entry).absolute()) for entry in entries if not entry.startswith("/")}
    sys.path[:] = [entry for entry in sys.path if entry.startswith("/") and entry not in here]
