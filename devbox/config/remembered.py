"""The last document that passed every check, by the content of its files: spares the next start YAML and schema.

Kept only for a project that has a machine, since before that nothing but reading may happen. Losing it costs time only.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from devbox import fs, paths
from devbox.config.problems import Document, Place, Position
from devbox.version import __version__


def _file(root: Path) -> Path:
    name = hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
    return paths.cache_dir() / "documents" / f"{name}.json"


def _key(contents: Sequence[bytes]) -> str:
    """Names the files' bytes and everything that judged them."""
    digest = hashlib.sha256(__version__.encode())
    for schema in sorted(paths.resource_dir("schemas").rglob("*.json")):
        digest.update(f"{schema.name} {schema.stat().st_mtime_ns}".encode())
    for content in contents:
        digest.update(b"%d:%s" % (len(content), content))
    return digest.hexdigest()


def recall(root: Path, contents: Sequence[bytes]) -> Document | None:
    try:
        kept = json.loads(_file(root).read_bytes())
        if kept["key"] != _key(contents):
            return None
        return Document(
            kept["name"],
            kept["data"],
            {tuple(place): Position(*at) for place, at in kept["values"]},
            {tuple(place): Position(*at) for place, at in kept["keys"]},
            {tuple(place): text for place, text in kept["written"]},
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remember(root: Path, contents: Sequence[bytes], document: Document) -> None:
    if not (root / paths.PROJECT_DIR).is_dir():
        return
    kept: dict[str, Any] = {
        "key": _key(contents),
        "name": document.name,
        "data": document.data,
        "values": _pairs({place: (at.file, at.line, at.column) for place, at in document.values.items()}),
        "keys": _pairs({place: (at.file, at.line, at.column) for place, at in document.keys.items()}),
        "written": _pairs(document.written),
    }
    file = _file(root)
    try:
        fs.make_private_dir(file.parent)
        fs.write_atomic(file, json.dumps(kept).encode())
    except OSError:
        pass  # A full disk must not keep anyone from using a machine.


def _pairs(table: Any) -> list[tuple[Place, Any]]:
    return list(table.items())
