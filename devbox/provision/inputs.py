"""Files of the project that steps name, and small conversions of options that several kinds share."""

import hashlib
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devbox.provision.step import invalid

LIMIT = 64 << 20  # a step's files travel in one tar and lie in the guest's memory while it runs


@dataclass(frozen=True, slots=True)
class Input:
    """One file among a step's inputs, as its digest sees it."""

    path: str  # relative to the project
    mode: str
    sha256: str


def _inside(root: Path, source: str) -> Path:
    path = (root / source).resolve()
    if not path.is_relative_to(root.resolve()):
        raise invalid(f"{source} leads out of the project's folder")
    if not path.exists():
        raise invalid(f"there is no {source} in the project")
    return path


def read_file(root: Path, source: str) -> bytes:
    """The bytes of one file of the project. Raises `step.invalid` when it is missing, too large or outside."""
    path = _inside(root, source)
    if not path.is_file():
        raise invalid(f"{source} is not a file")
    if path.stat().st_size > LIMIT:
        raise invalid(f"{source} is larger than {LIMIT >> 20} MiB")
    try:
        return path.read_bytes()
    except OSError as error:
        raise invalid(f"{source} cannot be read: {error.strerror}") from error


def read_tree(root: Path, source: str) -> tuple[Input, ...]:
    """Every file at or below `source`, by path; links are not followed but count as where they point to."""
    top = _inside(root, source)
    paths = sorted(top.rglob("*")) if top.is_dir() else [top]
    found = []
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            continue
        name = path.relative_to(root.resolve()).as_posix()
        try:
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                data = path.readlink().as_posix().encode()
            elif stat.S_ISREG(mode):
                data = path.read_bytes()
            else:
                raise invalid(f"{name} is neither a file nor a folder")
        except OSError as error:
            raise invalid(f"{name} cannot be read: {error.strerror}") from error
        kind = "link" if stat.S_ISLNK(mode) else f"{stat.S_IMODE(mode) & 0o111:o}"
        found.append(Input(name, kind, hashlib.sha256(data).hexdigest()))
    return tuple(found)


def folder(root: Path, source: str) -> Path:
    """A folder of the project. Raises `step.invalid` when it is missing, outside or no folder."""
    path = _inside(root, source)
    if not path.is_dir():
        raise invalid(f"{source} is not a folder; `file` is for a single one")
    return path


def mode(value: Any) -> str:
    """Permission bits as the probe prints them (0644, 01777); "" when they are not stated.

    YAML 1.2 reads an unquoted 0644 as the number 644: the digits are taken as written, as octal ones.
    """
    if value is None:
        return ""
    try:
        bits = int(str(value), 8)
    except ValueError:
        raise invalid(f"mode {value} is not made of octal digits") from None
    if not 0 <= bits <= 0o7777:
        raise invalid(f"mode {value} is not between 0000 and 7777")
    return f"0{bits:o}"


def absolute(path: str) -> str:
    """An absolute path in the guest without `.`, `..`, doubled or trailing slashes, and printable."""
    if not path.startswith("/") or any(ord(letter) < 32 or ord(letter) == 127 for letter in path):
        raise invalid(f"{path!r} is not an absolute path")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise invalid(f"{path} contains `..`")
    return "/" + "/".join(parts)
