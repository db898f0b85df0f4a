"""`link`: a symbolic link that leads to this target, as it is written. What it leads to is not looked at."""

from collections.abc import Mapping
from dataclasses import dataclass
from shlex import quote
from typing import Any

from devbox.provision import inputs
from devbox.provision.facts import Facts
from devbox.provision.kinds.file import File, own
from devbox.provision.step import Action, Kind, Reads, Source, State, invalid


@dataclass(frozen=True, slots=True)
class Link:
    file: File  # its path, owner and group
    target: str
    force: bool


def parse(raw: Mapping[str, Any], source: Source) -> Link:  # noqa: ARG001
    target, path = raw["target"], inputs.absolute(raw["path"])
    if not target or any(ord(letter) < 32 or ord(letter) == 127 for letter in target):
        raise invalid(f"{target!r} is not a path")
    if target == path:
        raise invalid(f"{path} would lead to itself")
    return Link(File(path, b"", "", raw.get("owner", ""), raw.get("group", "")), target, raw.get("force", False))


def reads(link: Link) -> Reads:
    return Reads(paths=(link.file.path,))


def probe(link: Link) -> str:
    path = quote(link.file.path)
    lines = [
        f"path_state {path} || return 0",
        'field type "$type"',
        '[ "$type" = link ] || return 0',
        f"value=$(readlink -- {path}) || return 1",
        'field target "$value"',
        *(f'field {name} "${name}"' for name, _ in link.file.stated),
    ]
    return "\n".join(lines)


def desired(link: Link, facts: Facts) -> State:  # noqa: ARG001
    return (("type", "link"), ("target", link.target), *link.file.stated)


# A link to a folder is replaced by -T, where it would else be moved into that folder.
_APPLY = """
load_paths "$path"
path_state "$path" || type=''
case $type in
  '' | link) ;;
  directory)
    [ -n "$force" ] || fail "$path is a folder; with \\`force: true\\` an empty one makes way for the link."
    ;;
  *) [ -n "$force" ] || fail "$path is there and is not a link; with \\`force: true\\` it makes way for the link." ;;
esac
if [ "$type" != link ] || [ "$(readlink -- "$path")" != "$target" ]; then
  [ -d "${path%/*}/" ] || mkdir -p "${path%/*}"
  aside=$path.devbox-$$
  trap '[ ! -L "$aside" ] || rm -f "$aside"' EXIT
  ln -s -- "$target" "$aside"
  [ "$type" != link ] || [ "$ids" = 0:0 ] || chown -h "$ids" "$aside"
  [ "$type" = link ] || owner=$USER group=''
  [ "$type" != directory ] || rmdir "$path" 2>/dev/null ||
    fail "$path is a folder that is not empty, or a mount point; devbox does not replace it."
  mv -f -T "$aside" "$path"
  ! have restorecon || restorecon -h "$path" 2>/dev/null || :
fi
"""


def apply(link: Link, facts: Facts) -> Action:  # noqa: ARG001
    force = "1" if link.force else "''"
    words = f"path={quote(link.file.path)} target={quote(link.target)} force={force}\n"
    return Action(f"{words}{_APPLY}{own(link.file, link=True)}".encode())


KIND = Kind(parse=parse, probe=probe, desired=desired, apply=apply, reads=reads)
