"""A download, and where its own address has it no more, the same bytes from the mirrors of the user's configuration.

A file without a known digest comes from its own address only: nothing would tell whether a mirror's is the same.
"""

from pathlib import Path
from urllib.parse import urlsplit

from devbox import ui
from devbox.box import download, online
from devbox.box.download import Downloaded
from devbox.config import preferences
from devbox.config.model import Digest
from devbox.errors import DevboxError

# What another server may do better; a full disk or a wrong address it cannot help.
_TRY_ANOTHER = frozenset({"download.gone", "download.digest", "download.failed", "download.refused"})


def fetch(url: str, part: Path, digest: Digest | None, *, title: str, otherwise: str) -> Downloaded:
    """As `download.fetch`, whose first error is raised when no mirror has the file; its details tell of them.

    Raises also `download.offline`, and `config.invalid` for mistakes in the user's configuration.
    """
    online.require(f"What {urlsplit(url).hostname} has for `{Path(urlsplit(url).path).name}`")
    try:
        return download.fetch(url, part, digest, title=title, otherwise=otherwise)
    except DevboxError as trouble:
        if digest is None or trouble.id not in _TRY_ANOTHER:
            raise
        first = trouble
    tried: list[DevboxError] = []
    for mirror in preferences.load().elsewhere(url):
        host = urlsplit(mirror).hostname
        ui.warn(f"{tried[-1].message if tried else first.message} Trying your mirror {host}.")
        try:
            got = download.fetch(mirror, part, digest, title=f"{title} (mirror {host})", otherwise=otherwise)
        except DevboxError as trouble:
            tried.append(trouble)
            if trouble.id not in _TRY_ANOTHER:
                break
        else:
            ui.note(f"It came from your mirror {host}, and has the digest asked for.")
            return got
    if tried:
        told = "\n".join(f"your mirror: {trouble.message}" for trouble in tried)
        first.details = f"{first.details}\n{told}".strip()
    raise first
