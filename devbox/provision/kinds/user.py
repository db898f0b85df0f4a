"""`user`: an account by the account files of the guest. Groups and keys that are not named are left alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from shlex import quote
from typing import Any

from devbox.provision.facts import Facts
from devbox.provision.step import Action, Kind, Reads, Source, State

_KEYS = "keys"  # the name of the wanted SSH keys among the step's files


@dataclass(frozen=True, slots=True)
class User:
    name: str
    present: bool = True
    uid: str = ""
    gid: str = ""  # a number or a name
    groups: tuple[str, ...] = ()
    shell: str = ""
    home: str = ""
    system: bool = False
    authorized_keys: tuple[str, ...] = ()


def parse(raw: str | Mapping[str, Any], source: Source) -> User:  # noqa: ARG001
    stated: Mapping[str, Any] = {"name": raw} if isinstance(raw, str) else raw
    return User(
        stated["name"],
        stated.get("state", "present") == "present",
        str(stated.get("uid", "")),
        str(stated.get("gid", "")),
        tuple(stated.get("groups", ())),
        stated.get("shell", ""),
        stated.get("home", ""),
        stated.get("system", False),
        tuple(key.strip() for key in stated.get("authorized_keys", ())),
    )


def reads(user: User) -> Reads:  # noqa: ARG001
    return Reads(accounts=True)


_PROBE = """account "$name" || return 0
field state present"""

# Prints the stated name of the group when that is the primary one, so that a number and a name compare alike.
_GROUP = """found=''
find_line "$gid:" "$groups" && found=${found#*:} && found=${found%%:*}
case $account_gid in
  "$gid" | "$found") field gid "$gid" ;;
  *) field gid "$account_gid" ;;
esac"""

_GROUPS = """member=''
for group in $wanted_groups; do
  find_line "$group:" "$groups" || continue
  case ,${found##*:}, in *,"$name",*) member=$member,$group ;; esac
done
field groups "${member#,}" """

_HAS_KEYS = """keys=''
[ ! -r "$account_home/.ssh/authorized_keys" ] || keys=$(cat "$account_home/.ssh/authorized_keys")
for_each_key() {
  case $nl$keys$nl in *"$nl$1$nl"*) ;; *) missing="$missing$1$nl" ;; esac
}
missing=''"""


def probe(user: User) -> str:
    """One line for each stated field; with an absent account nothing but, for `state: absent`, nothing at all."""
    lines = [f"name={quote(user.name)}", _PROBE]
    if not user.present:
        return "\n".join(lines)
    lines += ['field uid "$account_uid"'] if user.uid else []
    lines += [f"gid={quote(user.gid)}", _GROUP] if user.gid else []
    lines += ['field shell "$account_shell"'] if user.shell else []
    lines += ['field home "$account_home"'] if user.home else []
    lines += [f"wanted_groups={quote(' '.join(user.groups))}", _GROUPS] if user.groups else []
    if user.authorized_keys:
        lines += [_HAS_KEYS, *(f"for_each_key {quote(key)}" for key in user.authorized_keys)]
        lines.append('if [ -z "$missing" ]; then field keys present; else field keys missing; fi')
    return "\n".join(lines)


def desired(user: User, facts: Facts) -> State:  # noqa: ARG001
    if not user.present:
        return ()
    fields = (
        ("uid", user.uid),
        ("gid", user.gid),
        ("shell", user.shell),
        ("home", user.home),
        ("groups", ",".join(user.groups)),
        ("keys", "present" if user.authorized_keys else ""),
    )
    return (("state", "present"), *((name, value) for name, value in fields if value))


_REMOVE = """
account "$name" || exit 0
if have userdel; then userdel "$name"; else deluser "$name"; fi
"""

_WRITE = """
load_accounts
for group in $wanted_groups; do
  find_line "$group:" "$groups" || fail "The group $group does not exist; make it in an earlier step."
done
if ! account "$name"; then
  if have useradd; then
    set -- -p '*'  # no password, but not locked: a locked account cannot log in by its key everywhere
    [ -z "$uid_wanted" ] || set -- "$@" -u "$uid_wanted"
    if [ -n "$gid" ]; then set -- "$@" -g "$gid"; else set -- "$@" -U; fi
    if [ -n "$system" ]; then set -- "$@" -r -M; else set -- "$@" -m; fi
    [ -z "$shell" ] || set -- "$@" -s "$shell"
    [ -z "$home" ] || set -- "$@" -d "$home"
    useradd "$@" "$name"
  else
    set -- -D
    [ -z "$uid_wanted" ] || set -- "$@" -u "$uid_wanted"
    [ -z "$gid" ] || set -- "$@" -G "$gid"
    [ -z "$system" ] || set -- "$@" -S -H
    [ -z "$shell" ] || set -- "$@" -s "$shell"
    [ -z "$home" ] || set -- "$@" -h "$home"
    adduser "$@" "$name"
    # BusyBox locks the account, and sshd without PAM then refuses its key too.
    sed -i "s/^$name:!:/$name:*:/" /etc/shadow
  fi
  load_accounts
  account "$name"
fi
set --
[ -z "$uid_wanted" ] || [ "$uid_wanted" = "$account_uid" ] || set -- "$@" -u "$uid_wanted"
if [ -n "$gid" ] && [ "$gid" != "$account_gid" ]; then
  find_line "$gid:" "$groups" || found=''
  found=${found#*:}
  [ "${found%%:*}" = "$account_gid" ] || set -- "$@" -g "$gid"
fi
[ -z "$shell" ] || [ "$shell" = "$account_shell" ] || set -- "$@" -s "$shell"
[ -z "$home" ] || [ "$home" = "$account_home" ] || set -- "$@" -d "$home"
if [ $# != 0 ]; then
  have usermod || fail "This guest has no usermod; install its package \\`shadow\\` in an earlier step."
  usermod "$@" "$name"
fi
for group in $wanted_groups; do
  find_line "$group:" "$groups"
  case ,${found##*:}, in *,"$name",*) continue ;; esac
  if have usermod; then usermod -a -G "$group" "$name"; else addgroup "$name" "$group"; fi
done
"""

_WRITE_KEYS = """
passwd=''
account "$name"
mkdir -p "$account_home/.ssh"
touch "$account_home/.ssh/authorized_keys"
keys=$(cat "$account_home/.ssh/authorized_keys")
aside=$account_home/.ssh/.authorized_keys.devbox-$$
{
  [ -z "$keys" ] || printf '%s\\n' "$keys"
  while IFS= read -r key; do
    case $nl$keys$nl in *"$nl$key$nl"*) ;; *) printf '%s\\n' "$key" ;; esac
  done <"$files/keys"
} >"$aside"
chmod 0700 "$account_home/.ssh"
chmod 0600 "$aside"
chown "$account_uid:$account_gid" "$account_home/.ssh" "$aside"
mv -f "$aside" "$account_home/.ssh/authorized_keys"
"""


def apply(user: User, facts: Facts) -> Action:  # noqa: ARG001
    name = f"name={quote(user.name)}\n"
    if not user.present:
        return Action(f"{name}{_REMOVE}".encode())
    wanted = (
        f"uid_wanted={quote(user.uid)} gid={quote(user.gid)} shell={quote(user.shell)} home={quote(user.home)}\n"
        f"system={'1' if user.system else ''} wanted_groups={quote(' '.join(user.groups))}\n"
    )
    keys = "".join(f"{key}\n" for key in user.authorized_keys)
    return Action(
        f"{name}{wanted}{_WRITE}{_WRITE_KEYS if keys else ''}".encode(), {_KEYS: keys.encode()} if keys else {}
    )


KIND = Kind(parse=parse, probe=probe, desired=desired, apply=apply, reads=reads)
