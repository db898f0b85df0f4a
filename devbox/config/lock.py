"""Devboxfile.lock: which bytes the names and addresses of a Devboxfile stood for, when somebody last said so.

It is JSON with sorted keys, a value on each line, so that a change shows as few lines and a merge conflict can be
read; the strict YAML reader can read it too, for the lines. Format 1 had images without a published digest only.
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
from devbox.errors import DevboxError, ExitCode
from devbox.version import __version__

FORMAT = 2
_HINT = "Take the committed one back, or remove it and write it again with `devbox lock`."


@dataclass(frozen=True, slots=True)
class Pin:
    """One image. A recipe's is known by what goes into it, since each build of the same has other bytes: `sha256` then
    only tells what it became where this was written. It is "", and `size` 0, where they are not known.
    """

    source: str  # what the Devboxfile asked for, as `source_of` writes it
    url: str = ""
    digest: Digest | None = None  # that its publisher gives for the file
    sha256: str = ""  # of the file as it came
    size: int = 0  # of the same, in bytes
    inputs: str = ""  # the digest of what goes into a recipe

    @property
    def proof(self) -> Digest | None:
        """What the file of the image must have; None for a recipe."""
        if self.inputs:
            return None
        return self.digest or Digest("sha256", self.sha256)

    def is_for(self, ref: BoxRef, root: Path) -> bool:
        """Whether it is what the Devboxfile asks for still."""
        known = {self.digest, Digest("sha256", self.sha256)}
        return self.source == source_of(ref, root) and (ref.digest is None or ref.digest in known)

    def __str__(self) -> str:
        return f"inputs sha256:{self.inputs}" if self.inputs else str(self.proof)


@dataclass(frozen=True, slots=True)
class FilePin:
    """A file that a step fetches; `size` is 0 where nobody has seen it yet."""

    sha256: str
    size: int = 0

    def __str__(self) -> str:
        return f"sha256:{self.sha256}"


@dataclass(frozen=True, slots=True)
class Lock:
    root: Path
    pins: Mapping[tuple[str, Arch], Pin] = field(default_factory=dict)
    files: Mapping[str, FilePin] = field(default_factory=dict)  # by their address, as the Devboxfile writes it
    writer: str = field(default=__version__, compare=False)  # the version of devbox that wrote it

    def pin(self, machine: str, arch: Arch, ref: BoxRef) -> Pin | None:
        """The image pinned for this machine; None when the Devboxfile asks for another one by now."""
        pin = self.pins.get((machine, arch))
        return pin if pin and pin.is_for(ref, self.root) else None

    def with_pin(self, machine: str, arch: Arch, pin: Pin) -> "Lock":
        return replace(self, pins={**self.pins, (machine, arch): pin})

    def with_file(self, url: str, pin: FilePin) -> "Lock":
        return replace(self, files={**self.files, url: pin})


def source_of(ref: BoxRef, root: Path) -> str:
    """A box as the lock names it: the same on every computer, so a path within the project is relative."""
    if ref.path is None:
        words = (ref.recipe, *ref.packages) if ref.recipe else ()
        return f"recipe:{' '.join(words)}" if words else ref.name or ref.url
    here = root.resolve()
    return f"path:{ref.path.relative_to(here) if ref.path.is_relative_to(here) else ref.path}"


def read(root: Path) -> Lock:
    """The lock of the project in `root`; an empty one where there is none.

    Raises `config.invalid`, `config.unreadable` and `config.version`.
    """
    path = root / paths.LOCK_FILE
    if not path.exists():
        return Lock(root)
    raw = document.read_bytes(path)
    try:
        data = json.loads(raw)
        json.dumps(data, ensure_ascii=False).encode()  # halves of characters could not be written back
        _refuse_newer(data["version"])
        return Lock(root, _pins(data["machines"]), _files(data.get("downloads", {})), str(data.get("devbox", "")))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        _explain(document.load_bytes(raw, paths.LOCK_FILE))


def _refuse_newer(version: Any) -> None:
    if type(version) is int and version > FORMAT:
        raise DevboxError(
            "config.version",
            f"{paths.LOCK_FILE} is written in format {version}, and devbox {__version__} reads format {FORMAT}.",
            hint="Update devbox.",
            exit_code=ExitCode.USAGE,
        )
    if type(version) is not int or version < 1:
        raise ValueError("no format")


def _explain(read: Document) -> NoReturn:
    from devbox.config import contract  # noqa: PLC0415 - 90 ms that a right file does not need

    problems = [*read.problems, *contract.check(read, "lock")]
    fail(problems or [read.problem((), "this is not what `devbox lock` writes")], _HINT)


def _pins(machines: Any) -> dict[tuple[str, Arch], Pin]:
    return {
        (str(machine), Arch(arch)): _pin(pin) for machine, arches in machines.items() for arch, pin in arches.items()
    }


def _pin(data: Any) -> Pin:
    digest = _digest(data["digest"]) if "digest" in data else None
    sha256, inputs = (_sha256(data[name]) if name in data else "" for name in ("sha256", "inputs"))
    if not isinstance(data["source"], str) or not (digest or sha256 or inputs):
        raise ValueError("not a pin")
    return Pin(data["source"], str(data.get("url", "")), digest, sha256, _size(data), inputs)


def _files(downloads: Any) -> dict[str, FilePin]:
    return {str(url): FilePin(_sha256(file["sha256"]), _size(file)) for url, file in downloads.items()}


def _size(data: Any) -> int:
    size = data.get("size", 0)
    if type(size) is not int or size < 0:
        raise ValueError("not a size")
    return size


def _sha256(text: str) -> str:
    return _digest(f"sha256:{text}").value


def _digest(text: str) -> Digest:
    algorithm, _, value = text.partition(":")
    if len(bytes.fromhex(value)) != {"sha256": 32, "sha512": 64}[algorithm] or value != value.lower():
        raise ValueError("not a digest")
    return Digest(algorithm, value)


def write(root: Path, lock: Lock) -> None:
    """Replace the lock of the project in `root`."""
    machines: dict[str, dict[str, Any]] = {}
    for (machine, arch), pin in lock.pins.items():
        fields = {
            "source": pin.source,
            "url": pin.url,
            "digest": str(pin.digest or ""),
            "sha256": pin.sha256,
            "size": pin.size,
            "inputs": pin.inputs,
        }
        machines.setdefault(machine, {})[arch.value] = _known(fields)
    data = {
        "version": FORMAT,
        "devbox": __version__,
        "machines": machines,
        "downloads": {url: _known({"sha256": file.sha256, "size": file.size}) for url, file in lock.files.items()},
    }
    text = json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    fs.write_atomic(root / paths.LOCK_FILE, text.encode(), mode=0o644)


def _known(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value}
