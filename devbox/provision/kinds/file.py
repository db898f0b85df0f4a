"""`file`: a file with this content, mode and owner; only stated fields are compared. Replaced by an atomic rename."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from shlex import quote
from typing import Any

from devbox.provision import inputs
from devbox.provision.facts import Facts
from devbox.provision.step import Action, Kind, Reads, Source, State

CONTENT = "content"  # the name of the new bytes among the step's files


@dataclass(frozen=True, slots=True)
class File:
    path: str
    content: bytes
    mode: str = ""
    owner: str = ""
    group: str = ""

    @property
    def stated(self) -> tuple[tuple[str, str], ...]:
        fields = (("mode", self.mode), ("owner", self.owner), ("group", self.group))
        return tuple((name, value) for name, value in fields if value)


def parse(raw: Mapping[str, Any], source: Source) -> File:
    content = raw["content"].encode() if "content" in raw else inputs.read_file(source.root, raw["src"])
    return File(
        inputs.absolute(raw["path"]),
        content,
        inputs.mode(raw.get("mode")),
        raw.get("owner", ""),
        raw.get("group", ""),
    )


def reads(file: File) -> Reads:
    return Reads(files=(file.path,))


def probe(file: File) -> str:
    return " ".join(("probe_path", quote(file.path), "file", *(name for name, _ in file.stated)))


def desired(file: File, facts: Facts) -> State:  # noqa: ARG001
    return (("type", "file"), ("sha256", hashlib.sha256(file.content).hexdigest()), *file.stated)


_APPLY = """
load_files "$path"
path_state "$path" || type=''
[ "$type" != directory ] || fail "$path is a folder."
if [ "$type" != file ] || ! file_hash "$path" || [ "$hash" != "$sha256" ]; then
"""

_BEGIN = """[ -d "${path%/*}/" ] || mkdir -p "${path%/*}"
aside=$path.devbox-$$
trap '[ ! -e "$aside" ] || rm -f "$aside"' EXIT
"""
# What nobody else may read must not be readable for a moment either.
_PRIVATE = "made=0600\n"
_AS_BEFORE = """if [ "$type" = file ] && [ "$mode" != 0644 ]; then made=0600; else made=0644; fi
"""
_UMASK = """[ $made = 0644 ] || umask 077
"""
_END = """
if [ "$type" = file ]; then
  [ "$ids" = 0:0 ] || chown "$ids" "$aside"  # first, since it clears set-id bits
  [ "$mode" = $made ] || chmod "$mode" "$aside"
else
  owner=$USER group='' mode=$made
fi
mv -f "$aside" "$path"
! have restorecon || restorecon "$path" 2>/dev/null || :
"""


def replacing(file: File, write: str) -> str:
    """Shell lines that put what `write` writes to "$aside" in the place of "$path", whose state is known, at once."""
    return f"{_BEGIN}{_PRIVATE if file.mode else _AS_BEFORE}{_UMASK}{write}{_END}"


def own(file: File, *, link: bool = False) -> str:
    """Shell lines that give a path the stated owner and mode, where $owner, $group and $mode are others."""
    account = quote(f"{file.owner}{':' + file.group if file.group else ''}")
    stated = (("owner", file.owner), ("group", file.group))
    same = " && ".join(f'[ "${name}" = {quote(value)} ]' for name, value in stated if value)
    # A change of owner clears set-id bits, so the mode comes last and is given again.
    command = f'chown {"-h " if link else ""}{account} "$path"'
    lines = f"{{ {same}; }} || {{ {command}; mode=''; }}\n" if same else ""
    return lines + (f'[ "$mode" = {file.mode} ] || chmod {file.mode} "$path"\n' if file.mode else "")


def put(file: File) -> str:
    """Shell lines that make "$path" of "$content", the file that holds the new bytes, with the digest $sha256."""
    replace = replacing(file, 'cat "$content" >"$aside"')
    return f'{_APPLY}[ -e "$content" ] || stale\n{replace}fi\n{own(file)}'


def replacement(file: File, name: str = CONTENT) -> str:
    """Shell lines that make the file what it is to be; `name` is that of its bytes among the step's files."""
    sha256 = hashlib.sha256(file.content).hexdigest()
    return f"path={quote(file.path)} sha256={sha256} content=$files/{quote(name)}\n{put(file)}"


def apply(file: File, facts: Facts) -> Action:  # noqa: ARG001
    return Action(replacement(file).encode(), {CONTENT: file.content})


def content(file: File, facts: Facts) -> tuple[str, bytes]:  # noqa: ARG001
    return file.path, file.content


KIND = Kind(parse=parse, probe=probe, desired=desired, apply=apply, reads=reads, content=content)
