"""`group`: a group by the account files of the guest. Members that are not named are left alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from shlex import quote
from typing import Any

from devbox.provision.facts import Facts
from devbox.provision.step import Action, Kind, Reads, Source, State, invalid


@dataclass(frozen=True, slots=True)
class Group:
    name: str
    present: bool = True
    gid: str = ""
    system: bool = False
    members: tuple[str, ...] = ()


def parse(raw: str | Mapping[str, Any], source: Source) -> Group:  # noqa: ARG001
    stated: Mapping[str, Any] = {"name": raw} if isinstance(raw, str) else raw
    present = stated.get("state", "present") == "present"
    useless = [name for name in ("gid", "system", "members") if name in stated]
    if useless and not present:
        raise invalid(f"`{useless[0]}` has no meaning with `state: absent`")
    if not present and stated["name"] in ("root", "wheel", "sudo"):
        raise invalid(f"{stated['name']} belongs to the system itself, and devbox never removes it")
    return Group(
        stated["name"],
        present,
        str(stated.get("gid", "")),
        stated.get("system", False),
        tuple(dict.fromkeys(stated.get("members", ()))),
    )


def reads(group: Group) -> Reads:  # noqa: ARG001
    return Reads(accounts=True)


_MEMBERS = """member=''
for user in $wanted; do
  case ,${found##*:}, in *,"$user",*) member=$member,$user ;; esac
done
field members "${member#,}" """


def probe(group: Group) -> str:
    """One line for each stated field; nothing at all for a group that does not exist."""
    lines = [f'find_line {quote(group.name)}: "$groups" || return 0', "field state present"]
    if not group.present:
        return "\n".join(lines)
    lines += ["gid=${found#*:}", 'field gid "${gid%%:*}"'] if group.gid else []
    lines += [f"wanted={quote(' '.join(group.members))}", _MEMBERS] if group.members else []
    return "\n".join(lines)


def desired(group: Group, facts: Facts) -> State:  # noqa: ARG001
    if not group.present:
        return ()
    fields = (("gid", group.gid), ("members", ",".join(group.members)))
    return (("state", "present"), *((name, value) for name, value in fields if value))


_REMOVE = """
load_accounts
find_line "$name:" "$groups" || exit 0
if have groupdel; then groupdel "$name"; else delgroup "$name"; fi
"""

_WRITE = """
load_accounts
for user in $wanted; do
  account "$user" || fail "The account $user does not exist; make it in an earlier step."
done
if find_line "$name:" "$groups"; then
  found=${found#*:}
  if [ -n "$gid" ] && [ "${found%%:*}" != "$gid" ]; then
    have groupmod || fail "This guest has no groupmod; install its package \\`shadow\\` in an earlier step."
    groupmod -g "$gid" "$name"
  fi
elif have groupadd; then
  set --
  [ -z "$gid" ] || set -- "$@" -g "$gid"
  [ -z "$system" ] || set -- "$@" -r
  groupadd "$@" "$name"
else
  set --
  [ -z "$gid" ] || set -- "$@" -g "$gid"
  [ -z "$system" ] || set -- "$@" -S
  addgroup "$@" "$name"
fi
load_accounts
for user in $wanted; do
  find_line "$name:" "$groups"
  case ,${found##*:}, in *,"$user",*) continue ;; esac
  if have usermod; then usermod -a -G "$name" "$user"; else addgroup "$user" "$name"; fi
done
"""


def apply(group: Group, facts: Facts) -> Action:  # noqa: ARG001
    name = f"name={quote(group.name)}"
    if not group.present:
        return Action(f"{name}\n{_REMOVE}".encode())
    system = "1" if group.system else "''"
    words = f"{name} gid={quote(group.gid)} system={system} wanted={quote(' '.join(group.members))}\n"
    return Action(f"{words}{_WRITE}".encode())


KIND = Kind(parse=parse, probe=probe, desired=desired, apply=apply, reads=reads)
