"""Which names `box:` knows: those of the files in `boxes/`, and the aliases in them. Nothing is said of the images."""

import difflib

from devbox import paths
from devbox.config import document


def problem_with(name: str) -> str:
    """What to say of a box name that the catalogue does not have; "" if it has it.

    A name is a file's name in `boxes/`, so the usual case reads no file; an alias stands inside of one.
    """
    files = sorted(paths.resource_dir("boxes").glob("*.yaml"))
    names = [file.stem for file in files]
    if name in names:
        return ""
    for file in files:
        names += document.load_plain(file).get("aliases", ())
    if name in names:
        return ""
    close = difflib.get_close_matches(name, names, 1, 0.6)
    meant = f"; did you mean `{close[0]}`?" if close else ", see `devbox box list`"
    return f"there is no box called `{name}`{meant}"
