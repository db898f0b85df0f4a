"""`packages`: what the guest's package database holds, through its own package manager, in one transaction.

The probe only looks into the database; the script decides in the guest which packages are missing, so that those
which are there are never upgraded by the way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Any

from devbox.provision.facts import Facts
from devbox.provision.step import Action, Kind, Reads, Source, State, invalid


@dataclass(frozen=True, slots=True)
class Packages:
    present: tuple[tuple[str, str], ...] = ()  # name, version pattern or ""
    absent: tuple[str, ...] = ()
    latest: tuple[str, ...] = ()
    update: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return (*(name for name, _ in self.present), *self.absent, *self.latest)

    @property
    def index(self) -> bool:
        """Whether the index must be fresh in any case: nothing is the newest by an old index."""
        return self.update or bool(self.latest)


def parse(raw: Sequence[str] | Mapping[str, Any], source: Source) -> Packages:  # noqa: ARG001
    stated: Mapping[str, Any] = raw if isinstance(raw, Mapping) else {"present": raw}
    pairs = [name.partition("=") for name in stated.get("present", ())]
    found = Packages(
        tuple((name, version) for name, _, version in pairs),
        tuple(stated.get("absent", ())),
        tuple(stated.get("latest", ())),
        stated.get("update", False),
    )
    for name in (*found.absent, *found.latest):
        if "=" in name:
            raise invalid(f"{name}: a version can be asked for only in `present`")
    twice = sorted({name for name in found.names if found.names.count(name) > 1})
    if twice:
        raise invalid(f"named more than once: {', '.join(twice)}")
    return found


def reads(packages: Packages) -> Reads:
    return Reads(packages=packages.names, candidates=packages.latest)


def probe(packages: Packages) -> str:
    lines = ['[ -n "$manager" ] || return 1']
    if packages.index:
        lines.append("if index_is_fresh; then field index fresh; else field index old; fi")
    lines += [f"probe_package {quote(name)} {quote('=' + v if v else 'present')}" for name, v in packages.present]
    lines += [f"probe_package {quote(name)} absent" for name in packages.absent]
    lines += [f"probe_package {quote(name)} latest" for name in packages.latest]
    return "\n".join((*lines, ":"))


def desired(packages: Packages, facts: Facts) -> State:  # noqa: ARG001
    index = (("index", "fresh"),) if packages.index else ()
    present = ((name, version or "installed") for name, version in packages.present)
    return (*index, *present, *((name, "latest") for name in packages.latest))


# Each sets `refresh` (the index), `install` and `remove`, all given names of packages.
_MANAGERS = {
    "apt": """
export DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=a APT_LISTCHANGES_FRONTEND=none
apt() {
  apt-get -y -q -o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold "$@"
}
refresh() { apt update; }
install() { apt install --allow-downgrades "$@"; }
remove() { apt remove "$@"; }
version() { printf '%s=%s' "$1" "$2"; }
# First boot of a cloud image holds apt's locks; a dpkg that was cut off must be finished first.
[ ! -e /run/cloud-init ] || [ -e /run/cloud-init/result.json ] || ! have cloud-init || {
  echo 'Waiting for cloud-init to end…'
  limit=''
  ! have timeout || limit='timeout 900'
  $limit cloud-init status --wait >/dev/null 2>&1 || :
}
set +f
for unfinished in /var/lib/dpkg/updates/[0-9]*; do
  [ ! -e "$unfinished" ] || { dpkg --configure -a; break; }
done
set -f
[ -z "$(dpkg --audit)" ] || dpkg --configure -a
""",
    "dnf": """
refresh() { dnf -y makecache; }
install() { dnf -y install "$@"; [ -z "$upgrade" ] || dnf -y upgrade "$@"; }
remove() { dnf -y remove "$@"; }
version() { printf '%s-%s' "$1" "$2"; }
""",
    "zypper": """
# 102 and 103 ask for a restart of something after a success.
zypp() { zypper --non-interactive "$@" || case $? in 102 | 103) ;; *) return 1 ;; esac; }
export ZYPP_LOCK_TIMEOUT=300
refresh() { zypp refresh; }
install() { zypp install --auto-agree-with-licenses "$@"; [ -z "$upgrade" ] || zypp update "$@"; }
remove() { zypp remove "$@"; }
version() { printf '%s=%s' "$1" "$2"; }
""",
    "apk": """
refresh() { apk update; }
install() { apk add ${upgrade:+--upgrade} "$@"; }
remove() { apk del "$@"; }
version() { case $2 in *'*') printf '%s~%s' "$1" "${2%\\*}" ;; *) printf '%s=%s' "$1" "$2" ;; esac; }
""",
    "pacman": """
# Never -Sy alone: new packages against an old system break it.
refresh() { pacman -Syu --noconfirm; }
install() { pacman -S --noconfirm --needed "$@"; }
remove() { pacman -R --noconfirm "$@"; }
version() { fail "pacman keeps one version of each package: leave the version of $1 out."; }
""",
}

_APPLY = """
stamp() { mkdir -p "$state" && : >"$state/index"; }
fresh=''
refresh_once() { [ -n "$fresh" ] || { refresh && stamp; }; fresh=1; }
try_install() {
  # An index that is fresh by its age may still name files that the mirror has replaced.
  install "$@" || { [ -z "$fresh" ] && echo 'Trying again with a new index…' && refresh_once && install "$@"; }
}
load_packages $names
[ -z "$index" ] || index_is_fresh || refresh_once
load_packages $names
set --
upgrade=''
for name in $present; do
  wanted=${name#*=} name=${name%%=*}
  [ "$wanted" != "$name" ] || wanted=''
  # shellcheck disable=SC2254 # the version asked for is a pattern
  if package_version "$name"; then
    case $version in ${wanted:-*}) continue ;; esac
  elif [ -z "$wanted" ] && package_is_provided "$name"; then continue
  fi
  if [ -n "$wanted" ]; then set -- "$@" "$(version "$name" "$wanted")"; else set -- "$@" "$name"; fi
done
[ -z "$latest" ] || load_candidates $latest
for name in $latest; do
  if package_version "$name" && package_is_latest "$name"; then continue; fi
  upgrade=1
  set -- "$@" "$name"
done
gone=''
for name in $absent; do ! package_version "$name" || gone="$gone $name"; done
if [ "$manager" = apt ] && [ $# != 0 ]; then
  for name in $gone; do set -- "$@" "$name-"; done  # one transaction
  gone=''
fi
[ -z "$gone" ] || remove $gone
[ $# = 0 ] || { index_is_fresh || refresh_once; try_install "$@"; }
"""


def apply(packages: Packages, facts: Facts) -> Action:
    manager = _MANAGERS.get(facts.manager)
    if manager is None:
        return Action(b"fail 'This guest has no package manager that devbox knows (apt, dnf, zypper, apk, pacman).'\n")
    present = " ".join(f"{name}={version}" if version else name for name, version in packages.present)
    lists = (
        f"names={quote(' '.join(packages.names))} present={quote(present)} absent={quote(' '.join(packages.absent))}\n"
        f"latest={quote(' '.join(packages.latest))} index={'1' if packages.index else ''}\n"
    )
    return Action(f"{lists}{manager}{_APPLY}".encode())


KIND = Kind(parse=parse, probe=probe, desired=desired, apply=apply, reads=reads)
