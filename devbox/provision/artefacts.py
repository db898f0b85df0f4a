"""Files that steps name by address and digest, kept on this computer: the name of such a file, and having it.

Kept below the cache under their digest, read-only, and looked at again before each use. Nothing here reaches a guest.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from devbox import fs, paths, ui
from devbox.box import partial
from devbox.config.model import Digest

_WAIT = 6 * 3600.0  # seconds that one devbox waits for another that fetches the same file
_OTHERWISE = "Or put the file into the project, and name it there (`src`) instead of by its address"


def path(sha256: str) -> Path:
    """Where the file of this digest lies, or would."""
    return paths.cache_dir() / "artefacts" / sha256


@contextmanager
def making(name: str) -> Iterator[Path]:
    """A partial file; no other devbox makes what is kept under this name (a digest, or begins with one) meanwhile."""
    cache, key = paths.cache_dir(), f"artefact-{name}"
    part = fs.make_private_dir(cache / "partial") / f"{key}.part"
    fs.make_private_dir(path(name).parent)
    lock = fs.make_private_dir(cache / "locks") / key  # the one that `box prune` takes before it removes the file
    with fs.lock(lock, wait=_WAIT, on_wait=lambda who: ui.note(f"Waiting for {who}, which works on the same file")):
        yield part
        partial.discard(part)  # also what a kill left between publishing and this


def ensure(url: str, sha256: str, *, title: str) -> Path:
    """The file of this digest, fetched only when it is not here. Raises `download.…` errors and `store.full`."""
    whole = path(sha256)
    with making(sha256) as part:
        if not _is_right(whole, sha256):
            from devbox.box import download  # noqa: PLC0415 - httpx costs 80 ms, and mostly the file is here

            download.fetch(url, part, Digest("sha256", sha256), title=title, otherwise=_OTHERWISE)
            part.chmod(0o444)
            fs.publish(part, whole)
        os.utime(whole)  # `box prune` removes what was not asked for in a long time
    return whole


def _is_right(whole: Path, sha256: str) -> bool:
    """Whether the file is here and whole; a damaged one is fetched anew."""
    try:
        if fs.sha256_file(whole) == sha256:
            return True
    except FileNotFoundError:
        return False
    ui.warn(f"A stored download was damaged, so it is fetched anew: {sha256[:12]}")
    return False
