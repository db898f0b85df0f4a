"""The report of a bug in devbox itself: a file for the person to send. Imported only when there is one."""

import platform
import time
import traceback
from collections.abc import Sequence

from devbox import fs, paths, redact, ui
from devbox.version import __version__


def report(arguments: Sequence[str], bug: BaseException) -> None:
    """Say that it is our mistake, and write down what is needed to mend it."""
    text = "".join(
        (
            f"devbox {__version__}, Python {platform.python_version()}, {platform.platform()}\n",
            f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')}  devbox {' '.join(arguments)}\n\n",
            *traceback.format_exception(bug),
        )
    )
    ui.failed(f"This is a bug in devbox: {type(bug).__name__}: {bug}")
    try:
        file = fs.make_private_dir(paths.state_dir() / "bugs") / time.strftime("%Y%m%d-%H%M%S.txt")
        fs.write_atomic(file, redact.text(text).encode(errors="backslashreplace"))
    except OSError:
        ui.say(text)
    else:
        ui.note(f"Please report it with this file; it holds your command line and names of files: {file}")
