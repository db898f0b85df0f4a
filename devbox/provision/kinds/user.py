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
# Sets gid_number and gid_name of the stated primary group.
find_group() {
  gid_number='' gid_name=''
  saved_ifs=$IFS IFS=$nl
  for line in $groups; do
    number=${line#*:*:} number=${number%%:*}
    if [ "${line%%:*}" = "$gid" ]; then gid_number=$number gid_name=$gid; break; fi
    if [ "$number" = "$gid" ]; then gid_number=$gid gid_name=${line%%:*}; fi
  done
  IFS=$saved_ifs
  [ -n "$gid_name" ] || fail "The group $gid does not exist; make it in an earlier step."
}
[ -z "$gid" ] || find_group
if ! account "$name"; then
  [ -z "$home" ] || [ -n "$system" ] || mkdir -p "${home%/*}/"
  # A group by its name that is there already becomes its own: both programs would fail over it.
  own=''
  if [ -z "$gid" ] && find_line "$name:" "$groups"; then own=$name; fi
  if have useradd; then
    set -- -p '*'  # no password, but not locked: a locked account cannot log in by its key everywhere
    [ -z "$uid_wanted" ] || set -- "$@" -u "$uid_wanted"
    if [ -n "$gid$own" ]; then set -- "$@" -g "${gid:-$own}"; else set -- "$@" -U; fi
    if [ -n "$system" ]; then set -- "$@" -r -M; else set -- "$@" -m; fi
    [ -z "$shell" ] || set -- "$@" -s "$shell"
    [ -z "$home" ] || set -- "$@" -d "$home"
    useradd "$@" "$name"
  else
    # BusyBox puts system accounts into `nogroup`, unless it is told otherwise.
    if [ -z "$gid$own" ] && [ -n "$system" ]; then addgroup -S "$name"; own=$name; fi
    set -- -D
    [ -z "$uid_wanted" ] || set -- "$@" -u "$uid_wanted"
    [ -z "$gid$own" ] || set -- "$@" -G "${gid_name:-$own}"
    [ -z "$system" ] || set -- "$@" -S -H
    [ -z "$shell" ] || set -- "$@" -s "$shell"
    [ -z "$home" ] || set -- "$@" -h "$home"
    adduser "$@" "$name"
  fi
  load_accounts
  account "$name"
fi
# edit FILE FIELD VALUE: one field of the account's line, by a whole new file.
edit() {
  aside=$etc/.$1.devbox-$$
  trap 'rm -f "$aside"' EXIT
  cp -p "$etc/$1" "$aside"  # its owner and mode
  name=$name value=$3 awk -F: -v OFS=: -v field="$2" \
    '$1 == ENVIRON["name"] { $field = ENVIRON["value"] } { print }' "$etc/$1" >"$aside"
  mv -f "$aside" "$etc/$1"
}
# What usermod does, where there is none: hand_over user|group OLD NEW, for the files in the home folder.
hand_over() {
  [ -d "$account_home" ] && [ "$account_home" != / ] || return 0
  owner=$3
  [ "$1" = user ] || owner=:$3
  find "$account_home" -xdev "-$1" "$2" -exec chown -h "$owner" {} +
}
change() {
  if have usermod; then usermod "$@" "$name"; return; fi
  while [ $# != 0 ]; do
    case $1 in
      -u)
        saved_ifs=$IFS IFS=$nl
        for line in $passwd; do
          number=${line#*:*:}
          [ "${number%%:*}" != "$2" ] || fail "The number $2 is that of the account ${line%%:*} already."
        done
        IFS=$saved_ifs
        hand_over user "$account_uid" "$2"
        edit passwd 3 "$2"
        ;;
      -g) hand_over group "$account_gid" "$gid_number"; edit passwd 4 "$gid_number" ;;
      -d) edit passwd 6 "$2" ;;
      -s) edit passwd 7 "$2" ;;
    esac
    shift 2
  done
}
set --
[ -z "$uid_wanted" ] || [ "$uid_wanted" = "$account_uid" ] || set -- "$@" -u "$uid_wanted"
[ -z "$gid" ] || [ "$gid_number" = "$account_gid" ] || set -- "$@" -g "$gid"
[ -z "$shell" ] || [ "$shell" = "$account_shell" ] || set -- "$@" -s "$shell"
[ -z "$home" ] || [ "$home" = "$account_home" ] || set -- "$@" -d "$home"
[ $# = 0 ] || change "$@"
# BusyBox makes an account locked, and sshd without PAM then refuses its key too.
if ! have useradd; then
  read_file $etc/shadow
  ! find_line "$name:!:" "$text" || edit shadow 2 '*'
fi
for group in $wanted_groups; do
  find_line "$group:" "$groups"
  case ,${found##*:}, in *,"$name",*) continue ;; esac
  if have usermod; then usermod -a -G "$group" "$name"; else addgroup "$name" "$group"; fi
done
"""

_WRITE_KEYS = """
load_accounts
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
