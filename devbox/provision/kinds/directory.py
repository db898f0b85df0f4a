"""`directory`: a folder with this mode and owner, its missing parents included. What lies in it is not looked at.

A link that leads to a folder counts as that folder, as `mkdir -p` has it.
"""

from collections.abc import Mapping
from shlex import quote
from typing import Any

from devbox.provision import inputs
from devbox.provision.facts import Facts
from devbox.provision.kinds.file import File as Directory  # a folder has the same stated fields, and no content
from devbox.provision.kinds.file import own
from devbox.provision.step import Action, Kind, Reads, Source, State


def parse(raw: str | Mapping[str, Any], source: Source) -> Directory:  # noqa: ARG001
    stated = {"path": raw} if isinstance(raw, str) else raw
    return Directory(
        inputs.absolute(stated["path"]),
        b"",
        inputs.mode(stated.get("mode")),
        stated.get("owner", ""),
        stated.get("group", ""),
    )


def reads(directory: Directory) -> Reads:
    return Reads(paths=(directory.path,))


def probe(directory: Directory) -> str:
    return " ".join(("probe_folder", quote(directory.path), *(name for name, _ in directory.stated)))


def desired(directory: Directory, facts: Facts) -> State:  # noqa: ARG001
    return (("type", "directory"), *directory.stated)


_MAKE = """
load_paths "$path"
if path_state "$path"; then
  [ -d "$path" ] || fail "$path is there and is not a folder."
  follow "$path"
else
  owner=$USER group='' mode=0755
  mkdir -p "$path"
fi
"""


def apply(directory: Directory, facts: Facts) -> Action:  # noqa: ARG001
    return Action(f"path={quote(directory.path)}\n{_MAKE}{own(directory)}".encode())


KIND = Kind(parse=parse, probe=probe, desired=desired, apply=apply, reads=reads)
