"""Files that steps name by address and digest, kept on this computer: the name of such a file, and having it.

The digest is the step's own or that of Devboxfile.lock; without one nothing is fetched for a guest. Kept below the
cache under it, read-only, and looked at again before each use. Nothing here reaches a guest.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import Any

from devbox import fs, paths, ui
from devbox.box import partial
from devbox.config.lock import FilePin
from devbox.config.model import Digest
from devbox.errors import DevboxError
from devbox.provision.step import invalid

_WAIT = 6 * 3600.0  # seconds that one devbox waits for another that fetches the same file
_OTHERWISE = "Or put the file into the project, and name it there (`src`) instead of by its address"


def path(sha256: str) -> Path:
    """Where the file of this digest lies, or would."""
    return paths.cache_dir() / "artefacts" / sha256


def digest(raw: Mapping[str, Any]) -> str:
    """The digest in a mapping with `url` and, once the lock has completed it, `sha256`. Raises `step.invalid`."""
    if "sha256" not in raw:
        raise invalid(
            f"nothing says which file {raw['url'].partition('?')[0]} is: give its sha256, "
            f"or let `devbox lock` fetch it once and write that to {paths.LOCK_FILE}"
        )
    return str(raw["sha256"]).lower()


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
            from devbox.box import elsewhere  # noqa: PLC0415 - httpx costs 80 ms, and mostly the file is here

            try:
                elsewhere.fetch(url, part, Digest("sha256", sha256), title=title, otherwise=_OTHERWISE)
            except DevboxError as trouble:
                raise _with_command(trouble, url) from trouble
            part.chmod(0o444)
            fs.publish(part, whole)
        os.utime(whole)  # `box prune` removes what was not asked for in a long time
    return whole


def _with_command(trouble: DevboxError, url: str) -> DevboxError:
    """A step shows the message alone, so that names the command too."""
    if trouble.id not in {"download.gone", "download.digest"} or not (url.isprintable() and "'" not in url):
        return trouble
    command = f"devbox lock --update {quote(url.partition('?')[0])}"
    more = f"If {paths.LOCK_FILE} gives its digest and its publisher has replaced it: `{command}`."
    return DevboxError(trouble.id, f"{trouble.message} {more}", hint=trouble.hint, details=trouble.details)


def pin(url: str, *, title: str) -> FilePin:
    """Fetch the file anew, whatever it is by now, and say what that is: for `devbox lock`."""
    from devbox.box import elsewhere  # noqa: PLC0415 - httpx costs 80 ms, and mostly the file is here

    with making(f"new-{hashlib.sha256(url.encode()).hexdigest()}") as part:
        got = elsewhere.fetch(url, part, None, title=title, otherwise=_OTHERWISE)
        with making(got.sha256):
            part.chmod(0o444)
            fs.publish(part, path(got.sha256))
    return FilePin(got.sha256, got.size)


def size(sha256: str) -> int:
    """How large the file of this digest is; 0 where it is not here."""
    try:
        return path(sha256).stat().st_size
    except FileNotFoundError:
        return 0


def _is_right(whole: Path, sha256: str) -> bool:
    """Whether the file is here and whole; a damaged one is fetched anew."""
    try:
        if fs.sha256_file(whole) == sha256:
            return True
    except FileNotFoundError:
        return False
    ui.warn(f"A stored download was damaged, so it is fetched anew: {sha256[:12]}")
    return False
