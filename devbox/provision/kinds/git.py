"""`git`: a checkout of a repository at a branch, tag or commit. Work in it is never lost: changes and commits that the
remote does not have are a failure, unless `force` is asked for.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from shlex import quote
from typing import Any

from devbox.provision import inputs
from devbox.provision.facts import Facts
from devbox.provision.step import Action, Kind, Source, State, invalid

_DEFAULT = "the default branch"
# What git itself refuses in a name, and what it would take for an option or more than one.
_NO_REF = re.compile(r"^[-/.]|[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|[/.]$|\.lock$")


@dataclass(frozen=True, slots=True)
class Git:
    url: str
    dest: str
    user: str
    ref: str = ""
    depth: int = 0
    submodules: bool = False
    force: bool = False
    update: bool = False

    @property
    def words(self) -> str:
        flags = (self.submodules, self.force, self.update)
        return " ".join(map(quote, (self.dest, self.url, self.ref, *("1" if flag else "" for flag in flags))))


def parse(raw: Mapping[str, Any], source: Source) -> Git:
    ref, url = raw.get("ref", ""), raw["url"]
    if ref and _NO_REF.search(ref):
        raise invalid(f"{ref!r} cannot be the name of a branch, a tag or a commit")
    if url.startswith("-") or url.startswith("ext::"):
        raise invalid(f"{url!r} is not the address of a repository")
    return Git(
        url,
        inputs.absolute(raw["dest"]),
        source.user,
        ref,
        raw.get("depth", 0),
        raw.get("submodules", False),
        raw.get("force", False),
        raw.get("update", False),
    )


@cache
def _shell(name: str) -> str:
    return (Path(__file__).parent / f"{name}.sh").read_text()


# As the account, since git runs programs that the checkout's own settings name.
_LOOK = "nl='\n'\nfield() { printf '%s=%s\\n' \"$1\" \"$2\"; }\n"


def probe(git: Git) -> str:
    text = quote(f"{_LOOK}{_shell('git')}look\n")
    return f"(umask 022; session=''; become {quote(git.user)} sh -c {text} sh {git.words})"


def desired(git: Git, facts: Facts) -> State:  # noqa: ARG001
    more = (("submodules", "ready" if git.submodules else ""), ("tree", "clean" if git.force else ""))
    return (("url", git.url), ("ref", git.ref or _DEFAULT), *((name, value) for name, value in more if value))


def apply(git: Git, facts: Facts) -> Action:  # noqa: ARG001
    depth = str(git.depth) if git.depth else "''"
    return Action(f"set -- {git.words} {depth}\n{_shell('git')}{_shell('git_apply')}".encode())


KIND = Kind(parse=parse, probe=probe, desired=desired, apply=apply, as_login_user=True)
