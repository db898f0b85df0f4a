"""Devboxfile.lock: what the boxes' names resolved to, by machine and architecture; only `devbox lock` writes it.

It is JSON with sorted keys, so that a change shows as few lines; the strict YAML reader can read it too, for the lines.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from devbox import fs, paths
from devbox.config import document
from devbox.config.model import Arch, BoxRef, Digest
from devbox.config.problems import Document, fail
from devbox.version import __version__

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Pin:
    """One image: where it came from, the digest that its publisher gives for the file, the file's own, its size."""

    source: str  # what the Devboxfile asked for, as `source_of` writes it
    url: str
    digest: Digest | None
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Lock:
    root: Path
    pins: Mapping[tuple[str, Arch], Pin] = field(default_factory=dict)

    def pin(self, machine: str, arch: Arch, ref: BoxRef) -> Pin | None:
        """The image pinned for this machine; None when the Devboxfile asks for another one by now."""
        pin = self.pins.get((machine, arch))
        return pin if pin and pin.source == source_of(ref, self.root) else None

    def pinned(self, machine: str, arch: Arch, ref: BoxRef) -> Digest | None:
        """The digest that the file of the image must have, or None where nothing is pinned."""
        pin = self.pin(machine, arch, ref)
        return (pin.digest or Digest("sha256", pin.sha256)) if pin else None

    def with_pin(self, machine: str, arch: Arch, pin: Pin) -> "Lock":
        return replace(self, pins={**self.pins, (machine, arch): pin})


def source_of(ref: BoxRef, root: Path) -> str:
    """A box as the lock names it: the same on every computer, so a path within the project is relative."""
    if ref.path is None:
        words = (ref.recipe, *ref.packages) if ref.recipe else ()
        return f"recipe:{' '.join(words)}" if words else ref.name or ref.url
    here = root.resolve()
    return f"path:{ref.path.relative_to(here) if ref.path.is_relative_to(here) else ref.path}"


def read(root: Path) -> Lock:
    """The lock of the project in `root`; an empty one where there is none. Raises `config.invalid`."""
    path = root / paths.LOCK_FILE
    if not path.exists():
        return Lock(root)
    raw = document.read_bytes(path)
    try:
        return Lock(root, _pins(json.loads(raw)))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        _explain(document.load_bytes(raw, paths.LOCK_FILE))


def _explain(read: Document) -> NoReturn:
    from devbox.config import contract  # noqa: PLC0415 - 90 ms that a right file does not need

    problems = [*read.problems, *contract.check(read, "lock")]
    fail(
        problems or [read.problem((), "this is not what `devbox lock` writes")],
        "Take the committed one back, or remove it and write it again with `devbox lock`.",
    )


def _pins(data: Any) -> dict[tuple[str, Arch], Pin]:
    if data["version"] != _FORMAT:
        raise ValueError("another format")
    return {
        (str(machine), Arch(arch)): _pin(pin)
        for machine, arches in data["machines"].items()
        for arch, pin in arches.items()
    }


def _pin(data: Any) -> Pin:
    digest = _digest(data["digest"]) if "digest" in data else None
    sha256 = _digest(f"sha256:{data['sha256']}").value
    if not isinstance(data["source"], str) or type(data["size"]) is not int or data["size"] < 0:
        raise ValueError("not a pin")
    return Pin(data["source"], str(data.get("url", "")), digest, sha256, data["size"])


def _digest(text: str) -> Digest:
    algorithm, _, value = text.partition(":")
    if len(bytes.fromhex(value)) != {"sha256": 32, "sha512": 64}[algorithm] or value != value.lower():
        raise ValueError("not a digest")
    return Digest(algorithm, value)


def write(root: Path, lock: Lock) -> None:
    """Replace the lock of the project in `root`."""
    machines: dict[str, dict[str, Any]] = {}
    for (machine, arch), pin in lock.pins.items():
        machines.setdefault(machine, {})[arch.value] = {
            "source": pin.source,
            **({"url": pin.url} if pin.url else {}),
            **({"digest": str(pin.digest)} if pin.digest else {}),
            "sha256": pin.sha256,
            "size": pin.size,
        }
    data = {"version": _FORMAT, "devbox": __version__, "machines": machines}
    text = json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    fs.write_atomic(root / paths.LOCK_FILE, text.encode(), mode=0o644)
