"""Pieces of shell text that both scripts of a run, and a session in a step's place, are put together from. Pure.

Everything that comes from a Devboxfile is quoted.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from shlex import quote
from types import MappingProxyType
from typing import Any

from devbox.provision.journal import Places
from devbox.provision.step import Reads, Step


@dataclass(frozen=True, slots=True)
class Run:
    """What one run has of its own. `id` is its nonce too: 32 random hexadecimal digits."""

    id: str
    places: Places
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))  # of every step
    secret: bool = False  # its tar holds secrets, and goes into memory only

    @property
    def folder(self) -> str:
        return f"{self.places.runs}/{self.id}"

    @property
    def incoming(self) -> str:
        """Where large files of this run lie, on the guest's disk."""
        return f"{self.places.state}/incoming/{self.id}"


_PARTS = {"prelude": ("prelude", "guard", "rewrite")}


@cache
def file(name: str) -> str:
    return "".join((Path(__file__).parent / f"{part}.sh").read_text() for part in _PARTS.get(name, (name,)))


@cache
def prelude() -> str:
    return f"{file('prelude')}watcher={quote(file('guards'))}\n{file('packages')}"


@cache
def redactor() -> bytes:
    return (Path(__file__).parent / "redact.awk").read_bytes()


def settings(run: Run) -> str:
    places = run.places
    words = {
        "PATH": places.path,
        "LC_ALL": "C.UTF-8",
        "nonce": run.id,
        "id": run.id,
        "base": places.runs,
        "run": run.folder,
        "state": places.state,
        "journal": f"{places.state}/journal",
        "logs": places.logs,
    }
    lines = "".join(f"{name}={quote(value)}\n" for name, value in words.items())
    return f"umask 077\nunset CDPATH ENV\n{lines}export PATH LC_ALL\ncd /\n"


PREPARE = "find_package_manager\nfind_init\n"
SWITCH = "find_switch\n"


def load(reads: Reads) -> str:
    """Shell lines that read what a probe looks at, one program for each sort."""
    calls = (
        ("load_files", reads.files),
        ("load_paths", reads.paths),
        ("load_packages", reads.packages),
        ("load_candidates", reads.candidates),
        ("load_units", reads.units),
    )
    lines = [" ".join((name, *map(quote, words))) for name, words in calls if words]
    return "\n".join([*lines, *(["load_accounts"] if reads.accounts else []), ":"])


def together(all_reads: Iterable[Reads]) -> Reads:
    reads = list(all_reads)

    def union(name: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(word for one in reads for word in getattr(one, name)))

    files = union("files")
    return Reads(
        files=files,
        paths=tuple(path for path in union("paths") if path not in files),
        packages=union("packages"),
        candidates=union("candidates"),
        units=union("units"),
        accounts=any(one.accounts for one in reads),
    )


def environment(run: Run, own: Mapping[str, str], *, ours: bool = False) -> str:
    """The function that exports what the Devboxfile says. A script of `ours` keeps its own names and search path."""
    pairs = {
        "DEBIAN_FRONTEND": "noninteractive",
        **run.env,
        **own,
    }
    if ours:
        pairs = {name: value for name, value in pairs.items() if name.endswith("_proxy") or _is_foreign(name)}
    exports = "".join(f"export {name}={quote(value)}\n" for name, value in pairs.items())
    return f"environment() {{\n{exports}:\n}}\n"


def _is_foreign(name: str) -> bool:
    """Whether no script of ours uses the name: ours are in small letters, but for what the shell itself knows."""
    return name.isupper() and name not in {"PATH", "IFS", "ENV", "CDPATH", "HOME", "USER", "LOGNAME", "SHELL", "LC_ALL"}


def one_line(text: str) -> str:
    return " ".join(text.split())


def step_words(words: Mapping[str, str]) -> str:
    return " ".join(f"{name}={quote(value)}" for name, value in words.items()) + "\n"


def as_root(command: str, *, user: str) -> str:
    """A command line for the guest's login shell, whichever it is, that runs `command` by sh as root."""
    return f"sh -c {quote(command)}" if user == "root" else f"sudo -n sh -c {quote(command)}"


def at_step(run: Run, step: Step[Any], command: str) -> str:
    """What a step's command would be in: account, folder, environment. `command` "" is the account's own"""
    words = step_words({"cwd": step.spec.cwd, "session": ""}) + environment(run, step.spec.env)
    command_line = f"sh -c {quote(command)}" if command else '"$own" -i'
    return "".join((
        settings(run),
        prelude(),
        "umask 022\nset +f\n",
        words,
        f"account {quote(step.user)} || fail 'The account '{quote(step.user)}' does not exist.'\n",
        "case $account_shell in '' | */nologin | */false) own=/bin/sh ;; *) own=$account_shell ;; esac\n",
        f"become {quote(step.user)} {command_line}\n",
    ))  # fmt: skip
