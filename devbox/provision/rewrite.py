"""What `line` and `block` have in common: a text file rewritten by a function of rewrite.sh, to probe, preview, apply.

It is computed in the guest and not on this computer, as the design first had it: a file that an earlier step of the
same run makes or changes is then read as it is at that moment. And its text need not travel here before the new one
travels back, so a change stays at two channels.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from shlex import quote
from typing import Any

from devbox.provision import inputs
from devbox.provision.facts import Facts
from devbox.provision.kinds.file import File, own, replacing
from devbox.provision.step import Action, Kind, Reads, Source, State, invalid

LIMIT = 65536  # bytes of a line: what goes into the environment of a program must be below 128 KiB


@dataclass(frozen=True, slots=True)
class Target:
    """The file to rewrite, and whether that gives it something or takes it away; its content has no meaning."""

    file: File
    present: bool
    create: bool

    @property
    def state(self) -> str:
        return "present" if self.present else "absent"


@dataclass(frozen=True, slots=True)
class Rewrite:
    """`field` names what the file must have; `words` are the function's, after the file and what it is to print."""

    target: Target
    field: str
    words: tuple[str, ...]
    failure: str  # why the function may not be able to say anything

    def call(self, what: str) -> str:
        return f'rewrite_{self.field} "$real" {what} {" ".join(map(quote, (self.target.state, *self.words)))}'


def target(raw: Any) -> Target:
    present = raw.get("state", "present") == "present"
    owned = [name for name in ("mode", "owner", "group", "create") if name in raw]
    if owned and not present:
        raise invalid(f"`{owned[0]}` has no meaning with `state: absent`")
    file = File(
        inputs.absolute(raw["path"]), b"", inputs.mode(raw.get("mode")), raw.get("owner", ""), raw.get("group", "")
    )
    return Target(file, present, raw.get("create", False))


def kind(parse: Callable[[Mapping[str, Any], Source], Rewrite]) -> Kind[Rewrite]:
    """A kind that differs from the others only by what it makes of its options."""
    return Kind(parse=parse, probe=_probe, desired=_desired, apply=_apply, reads=_reads, preview=_preview)


def _reads(rewrite: Rewrite) -> Reads:
    return Reads(files=(rewrite.target.file.path,))


def _probe(rewrite: Rewrite) -> str:
    target, field = rewrite.target, rewrite.field
    lines = [
        f"follow {quote(target.file.path)} || return 1",
        "case $type in",
        "  file) ;;",
        f"  '') {'' if target.present else f'field {field} absent; '}return 0 ;;",
        '  *) field type "$type"; return 0 ;;',
        "esac",
        f"value=$({rewrite.call('verdict')}) || return 1",
        f'field {field} "$value"',
        *(f'field {name} "${name}"' for name, _ in target.file.stated),
    ]
    return "\n".join(lines)


def _desired(rewrite: Rewrite, facts: Facts) -> State:  # noqa: ARG001
    return ((rewrite.field, rewrite.target.state), *rewrite.target.file.stated)


def _preview(rewrite: Rewrite) -> str:
    return f"""follow {quote(rewrite.target.file.path)} || return 1
case $type in file) is_small "$real" || return 1 ;; '') real=/dev/null ;; *) return 1 ;; esac
case $({rewrite.call("verdict")}) in '' | broken) return 1 ;; esac
{rewrite.call("text")} | base64"""


_BEFORE = """
load_paths "$path"
follow "$path" || fail "$path is a link that leads nowhere."
case $type in
  file) before=$(sha256sum <"$real") ;;
  '') before='' ;;
  directory) fail "$path is a folder." ;;
  *) fail "$path is not a file." ;;
esac
"""
_NOTHING = """[ -n "$type" ] || exit 0
"""
_NO_CREATE = """[ -n "$type" ] || fail "$path does not exist; \\`create: true\\` would make it."
"""
_ZEROS = """  [ -z "$type" ] || [ "$(tr -dc '\\000' <"$real" | wc -c)" -eq 0 ] || fail "$path is not a text file."
"""
_STILL = """if [ -n "$type" ]; then [ "$(sha256sum <"$real")" = "$before" ]; else [ ! -e "$path" ]; fi ||
  fail "Something else has changed $path at the same moment; try again." """


def _apply(rewrite: Rewrite, facts: Facts) -> Action:  # noqa: ARG001
    """Replaces the file by its new text, if it is still the one that was read; of a link what it leads to."""
    target = rewrite.target
    missing = "" if target.create else _NO_CREATE
    write = f'{rewrite.call("text")} >"$aside" || fail {quote(rewrite.failure)}\n{_STILL}'
    return Action("".join((
        f"path={quote(target.file.path)}\n{_BEFORE}",
        missing if target.present else _NOTHING,
        'path=$real\n[ -n "$type" ] || real=/dev/null\n',
        f'value=$({rewrite.call("verdict")}) || fail {quote(rewrite.failure)}\n',
        f'[ "$value" != broken ] || fail {quote(rewrite.failure)}\n',
        f'if [ "$value" != {target.state} ]; then\n{_ZEROS}',
        replacing(target.file, write),
        f"fi\n{own(target.file)}",
    )).encode())  # fmt: skip
