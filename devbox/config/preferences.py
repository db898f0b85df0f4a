"""The user's own configuration in, `Preferences` out: `config.yaml` in their configuration folder, read strictly.

It is theirs and no project's, so nothing of it may change what a Devboxfile makes. Without the file this costs a look.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from devbox import paths
from devbox.config import document, values
from devbox.config.problems import Document, Problem, fail

_LIMIT = 20 << 30


@dataclass(frozen=True, slots=True)
class Preferences:
    """`mirrors`: beginning of an address → what may stand in its place, in the order to try. `layers_limit`: bytes."""

    mirrors: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    layers_limit: int = _LIMIT
    trash_days: int = 7
    unused_days: int = 30

    def elsewhere(self, url: str) -> tuple[str, ...]:
        """The other addresses of this file; those of the most precise beginning come first."""
        found: list[str] = []
        for beginning in sorted(self.mirrors, key=len, reverse=True):
            stem = beginning.rstrip("/")
            if url == stem or url.startswith(f"{stem}/"):
                found += [f"{mirror.rstrip('/')}{url.removeprefix(stem)}" for mirror in self.mirrors[beginning]]
        return tuple(one for one in dict.fromkeys(found) if one != url)


def load() -> Preferences:
    """Raises `config.invalid` with every mistake, and `config.unreadable`."""
    path = paths.preferences_file()
    if not path.exists():
        return Preferences()
    read = document.load_bytes(document.read_bytes(path), str(path))
    if read.data is None and not read.problems:
        return Preferences()  # only comments
    if problems := _problems(read):
        fail(problems)
    return _preferences(read.data)


def _problems(read: Document) -> list[Problem]:
    from devbox.config import contract  # noqa: PLC0415 - 90 ms that nobody without such a file needs

    return [*read.problems, *contract.check(read, "config")]


def _preferences(data: Mapping[str, Any]) -> Preferences:
    default = Preferences()
    layers, gc = data.get("layers", {}), data.get("gc", {})
    return Preferences(
        mirrors=MappingProxyType({begin: tuple(others) for begin, others in data.get("mirrors", {}).items()}),
        layers_limit=values.size(layers["limit"]) if "limit" in layers else default.layers_limit,
        trash_days=gc.get("trash_days", default.trash_days),
        unused_days=gc.get("unused_days", default.unused_days),
    )
