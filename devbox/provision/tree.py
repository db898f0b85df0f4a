"""Trees of files by their manifest: from a folder of the project or from the members of an archive, as the text that
tree.sh compares the guest with.
"""

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from shlex import quote

from devbox.provision.step import invalid

_ODD = re.compile(r"[\\\n\r]| -> ")
_WRITTEN = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", " -> ": " -\\076 "}


@dataclass(frozen=True, slots=True)
class File:
    name: str  # relative to the top
    sha256: str
    program: bool


@dataclass(frozen=True, slots=True)
class Link:
    name: str
    target: str


@dataclass(frozen=True, slots=True)
class Tree:
    folders: tuple[str, ...] = ()  # parents first
    files: tuple[File, ...] = ()
    links: tuple[Link, ...] = ()

    @property
    def manifest(self) -> str:
        """One line for each; see tree.sh. Odd names come last within their sort."""
        folders = [f"d ./{_written(name)}" for name in self.folders]
        files = [f"f {file.sha256} {'x' if file.program else '-'} ./{_written(file.name)}" for file in self.files]
        links = [f"l ./{_written(link.name)} -> {_written(link.target)}" for link in self.links]
        return "\n".join(line for lines in (folders, files, links) for line in sorted(lines, key=_is_odd))

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.manifest.encode()).hexdigest()


def _is_odd(line: str) -> bool:
    return "\\" in line


def _written(name: str) -> str:
    return _ODD.sub(lambda found: _WRITTEN[found[0]], name)


def of_entries(folders: Iterable[str], files: Iterable[File], links: Iterable[Link]) -> Tree:
    """In the order of the guest's `ls` and `sort`, by bytes. Raises `step.invalid` for names that are no text."""
    try:
        return Tree(
            tuple(sorted(folders, key=str.encode)),
            tuple(sorted(files, key=lambda file: file.name.encode())),
            tuple(sorted(links, key=lambda link: (link.name.encode(), link.target.encode()))),
        )
    except UnicodeEncodeError as error:
        raise invalid(f"the name {error.object!r} is not in UTF-8") from None


def ignored(name: str, globs: Iterable[str]) -> bool:
    """A glob without a slash fits a name at any depth, one with a slash the whole path below the top."""
    last = name.rpartition("/")[2]
    return any(fnmatchcase(name, glob.lstrip("/")) if "/" in glob else fnmatchcase(last, glob) for glob in globs)


def of_folder(top: Path, globs: tuple[str, ...], *, as_program: Callable[[int], bool]) -> Tree:
    """What lies in the folder, links as links. Raises `step.invalid` for what is neither file, folder nor link."""
    folders: list[str] = []
    files: list[File] = []
    links: list[Link] = []

    def walk(folder: Path, above: str) -> None:
        for entry in os.scandir(folder):
            name = f"{above}{entry.name}"
            if ignored(name, globs):
                continue
            if entry.is_symlink():
                links.append(Link(name, os.readlink(entry.path)))  # noqa: PTH115 - a Path would lose a trailing slash
            elif entry.is_dir():
                folders.append(name)
                walk(Path(entry.path), f"{name}/")
            elif entry.is_file():
                with open(entry.path, "rb") as file:  # noqa: PTH123 - thousands of them
                    sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                files.append(File(name, sha256, as_program(entry.stat().st_mode)))
            else:
                raise invalid(f"{name} is neither a file nor a folder")

    try:
        walk(top, "")
    except OSError as error:
        raise invalid(f"{error.filename} cannot be read: {error.strerror}") from error
    return of_entries(folders, files, links)


@dataclass(frozen=True, slots=True)
class Stated:
    """What is asked of every file of a tree; "" is not compared."""

    owner: str = ""
    group: str = ""
    mode: str = ""

    @property
    def program_mode(self) -> str:
        """That of programs: whoever may read them may run them."""
        if not self.mode:
            return ""
        bits = int(self.mode, 8)
        return f"0{bits if bits & 0o111 else bits | (bits & 0o444) >> 2:o}"

    def is_program(self, mode: int) -> bool:
        """Whether the file will be a program in the guest."""
        return bool(mode & stat.S_IXUSR or (self.mode and int(self.mode, 8) & stat.S_IXUSR))


@cache
def _functions() -> str:
    return (Path(__file__).parent / "tree.sh").read_text()


def shell(dest: str, stated: Stated, is_called: str, *, only: tuple[str, ...] | None = None) -> str:
    """Shell lines before `tree_state` or `tree_begin`; `only`: nothing else may be there but what these globs fit."""
    words: Mapping[str, str] = {
        "dest": dest,
        "tree_is": is_called,
        "tree_owner": stated.owner,
        "tree_group": stated.group,
        "tree_mode": stated.mode,
        "tree_xmode": stated.program_mode,
        "tree_only": "" if only is None else "1",
    }
    lines = "".join(f"{name}={quote(value)}\n" for name, value in words.items())
    return f"{_functions()}{lines}{_find(only or ())}"


def _find(globs: tuple[str, ...]) -> str:
    """`tree_find`: all that is there but what is ignored, with the rest of an expression."""
    tests = " -o ".join(
        f"-path {quote('./' + glob.lstrip('/'))}" if "/" in glob else f"-name {quote(glob)}" for glob in globs
    )
    prune = f"! -name . \\( {tests} \\) -prune -o " if tests else ""
    return f'tree_find() {{ find . {prune}! -name . "$@"; }}\n'
