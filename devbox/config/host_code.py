"""The project's code that a step runs on this computer (`ansible`, `python`): exactly these files, and their digest.

What is approved, what makes a step new and what is carried out are one and the same set of bytes: whatever a guest
writes into a shared folder later has no part in it. Files named in text are found by reading; nothing is run here.
"""

import ast
import hashlib
import json
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devbox.config.model import StepSpec
from devbox.errors import DevboxError, ExitCode

KINDS = frozenset({"ansible", "python"})
LIMIT = 64 << 20

# What Ansible itself looks for beside a playbook.
_BESIDE = (
    *("ansible.cfg", "collections", "defaults", "files", "group_vars", "handlers", "host_vars", "library"),
    *("module_utils", "roles", "tasks", "templates", "vars"),
    *(f"{kind}_plugins" for kind in ("action", "callback", "filter", "lookup", "strategy", "test", "vars")),
)
_IGNORED = frozenset({".git", "__pycache__"})
_YAML = (".yml", ".yaml")
_NAMED = re.compile(r"(?:\{\{\s*playbook_dir\s*\}\}/)?([\w.@+-][\w./@+-]*)")


@dataclass(frozen=True, slots=True)
class File:
    """`link` is where it points to when it is a symbolic link, which stays within the project."""

    data: bytes
    executable: bool = False
    link: str = ""


@dataclass(frozen=True, slots=True)
class Code:
    """`main` and the paths of `files` are relative to the project."""

    kind: str
    main: str
    files: Mapping[str, File]
    digest: str
    about: str

    @property
    def id(self) -> str:
        """Names exactly this code, for an approval."""
        return f"code:{self.kind}:{self.main}:{self.digest}"

    @property
    def sentence(self) -> str:
        return f"`{self.main}` of the project runs on this computer as you ({self.about})"

    def write(self, folder: Path) -> None:
        """The files below `folder`, which is empty."""
        for name, file in self.files.items():
            path = folder / name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if file.link:
                path.symlink_to(file.link)
            else:
                path.write_bytes(file.data)
                path.chmod(0o700 if file.executable else 0o600)


def of_step(spec: StepSpec, root: Path) -> Code:
    """The code of a step of one of `KINDS`. Raises `step.invalid` when a file is missing, outside or too large."""
    gathered = _Gathered(root.resolve())
    if spec.kind == "python":
        main = gathered.add_file(spec.options["src"])
        _imports(gathered, main)
        about = f"Fabric task {spec.options['task']}"
    else:
        options = playbook_options(spec.options)
        main = gathered.add_file(options["playbook"])
        _playbook(gathered, main, options)
        about = "Ansible playbook"
        if "requirements" in options:
            about += f", with what {options['requirements']} downloads"
    value = {
        "kind": spec.kind,
        "options": spec.options,
        "env": dict(spec.env),
        "secrets": sorted(spec.secrets),  # a name such as LD_PRELOAD would be code, too
        "files": {
            name: [file.executable, file.link, hashlib.sha256(file.data).hexdigest()]
            for name, file in gathered.files.items()
        },
    }
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return Code(spec.kind, main, gathered.files, hashlib.sha256(text.encode()).hexdigest(), about)


def playbook_options(raw: str | Mapping[str, Any]) -> Mapping[str, Any]:
    return {"playbook": raw} if isinstance(raw, str) else raw


class _Gathered:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: dict[str, File] = {}
        self._size = 0

    def add_file(self, source: str) -> str:
        """Takes the file in; returns its path within the project."""
        path = self._inside(self.root / source, source)
        if not path.is_file():
            raise _invalid(f"{source} is not a file")
        name = path.relative_to(self.root).as_posix()
        if name not in self.files:
            try:
                self.files[name] = File(path.read_bytes(), bool(path.stat().st_mode & stat.S_IXUSR))
            except OSError as error:
                raise _invalid(f"{name} cannot be read: {error.strerror}") from error
            self._count(len(self.files[name].data))
        return name

    def add(self, source: str) -> None:
        """A file, or a folder with all that is in it."""
        top = self._inside(self.root / source, source)
        if top.is_file():
            self.add_file(source)
            return
        for path in sorted(top.rglob("*")):
            relative = path.relative_to(self.root)
            if _IGNORED.intersection(relative.parts):
                continue
            if path.is_symlink():
                self._inside(path, relative.as_posix())
                self.files[relative.as_posix()] = File(b"", link=path.readlink().as_posix())
            elif path.is_file():
                self.add_file(relative.as_posix())

    def has(self, source: Path) -> bool:
        """Whether there is such a file in the project."""
        try:
            return source.is_file() and source.resolve().is_relative_to(self.root)
        except OSError:
            return False

    def _inside(self, path: Path, source: str) -> Path:
        real = path.resolve()
        if not real.is_relative_to(self.root) or (path.is_symlink() and path.readlink().is_absolute()):
            raise _invalid(f"{source} leads out of the project's folder")
        if not real.exists():
            raise _invalid(f"there is no {source} in the project")
        return real

    def _count(self, size: int) -> None:
        self._size += size
        if self._size > LIMIT:
            raise _invalid(f"its files are larger than {LIMIT >> 20} MiB together")


def _playbook(gathered: _Gathered, main: str, options: Mapping[str, Any]) -> None:
    folder = gathered.root / Path(main).parent
    for name in _BESIDE:
        if (folder / name).exists():
            gathered.add((folder / name).relative_to(gathered.root).as_posix())
    for source in (*options.get("inputs", ()), *([options["requirements"]] if "requirements" in options else [])):
        gathered.add(source)
    looked: set[str] = set()
    while new := [name for name in gathered.files if name.endswith(_YAML) and name not in looked]:
        for name in new:
            looked.add(name)
            text = gathered.files[name].data.decode(errors="replace")
            for word in set(_NAMED.findall(text)):
                if "." not in word and "/" not in word:
                    continue
                for start in (folder, (gathered.root / name).parent):
                    if gathered.has(start / word):
                        gathered.add_file((start / word).resolve().relative_to(gathered.root).as_posix())


def _imports(gathered: _Gathered, main: str) -> None:
    """The modules in the file's own folder that it imports, and those that these import."""
    folder = gathered.root / Path(main).parent
    looked: set[str] = set()
    while new := [name for name in gathered.files if name.endswith(".py") and name not in looked]:
        for name in new:
            looked.add(name)
            for module in _imported(gathered.files[name].data):
                if gathered.has(folder / f"{module}.py"):
                    gathered.add_file((folder / f"{module}.py").relative_to(gathered.root).as_posix())
                elif gathered.has(folder / module / "__init__.py"):
                    for path in sorted((folder / module).rglob("*.py")):
                        gathered.add_file(path.relative_to(gathered.root).as_posix())


def _imported(source: bytes) -> Iterator[str]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return  # Said when the step is read.
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _invalid(problem: str) -> DevboxError:
    return DevboxError("step.invalid", problem, exit_code=ExitCode.USAGE)
