"""`absent`: a path at which nothing must be. It follows no link, and spares what is mounted and the system's own."""

from collections.abc import Mapping
from dataclasses import dataclass
from shlex import quote
from typing import Any

from devbox.provision import inputs
from devbox.provision.facts import Facts
from devbox.provision.step import Action, Kind, Reads, Source, State, invalid

# Folders without which a system does not start, or whose loss nobody means.
PROTECTED = (
    "/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib32", "/lib64", "/libx32", "/media", "/mnt", "/nix",
    "/opt", "/proc", "/root", "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr", "/var",
    "/etc/pam.d", "/etc/ssh", "/etc/systemd", "/run/devbox",
    "/usr/bin", "/usr/lib", "/usr/lib64", "/usr/libexec", "/usr/local", "/usr/sbin", "/usr/share",
    "/var/cache", "/var/lib", "/var/lib/devbox", "/var/lib/dpkg", "/var/lib/rpm", "/var/log", "/var/spool", "/var/tmp",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Absent:
    path: str
    recursive: bool


def parse(raw: str | Mapping[str, Any], source: Source) -> Absent:  # noqa: ARG001
    stated: Mapping[str, Any] = {"path": raw} if isinstance(raw, str) else raw
    path = inputs.absolute(stated["path"])
    if path in PROTECTED or path.startswith(("/proc/", "/sys/", "/dev/")):
        raise invalid(f"{path} belongs to the system itself, and devbox never removes it")
    return Absent(path, stated.get("recursive", False))


def reads(absent: Absent) -> Reads:
    return Reads(paths=(absent.path,))


def probe(absent: Absent) -> str:
    return f'path_state {quote(absent.path)} || return 0\nfield type "$type"'


def desired(absent: Absent, facts: Facts) -> State:  # noqa: ARG001
    return ()


# The kernel writes a space and a backslash of a mount point as octal numbers.
_APPLY = r"""
load_paths "$path"
path_state "$path" || exit 0
real=$(cd -P "${path%/*}/" && pwd -P) || fail "The folder of $path cannot be entered."
real=${real%/}/${path##*/}
case $real in //*) real=${real#/} ;; esac  # bash keeps two of them
path=$real awk '
  {
    gsub(/\\040/, " ", $5)
    n = split($5, part, /\\134/)
    point = part[1]
    for (i = 2; i <= n; i++) point = point "\\" part[i]
    if (index(point "/", ENVIRON["path"] "/") == 1) found = 1
  }
  END { exit found * 3 }' "${mounts:-/proc/self/mountinfo}" || case $? in
  3) fail "Something is mounted at $path or below it, so devbox does not remove it." ;;
  *) fail "Whether something is mounted below $path cannot be told, so devbox does not remove it." ;;
esac
case $real in
  @protected) fail "$path is $real, which belongs to the system itself; devbox never removes it." ;;
esac
if [ "$type" != directory ]; then rm -f -- "$path"; exit 0; fi
! rmdir -- "$path" 2>/dev/null || exit 0
[ -n "$recursive" ] || fail "$path is a folder that is not empty; with \`recursive: true\` it goes with all in it."
case $real in
  /*/*) ;;
  *) fail "$path is a folder at the top, which devbox removes only when it is empty." ;;
esac
set -- -rf
case $(rm --help 2>&1) in *--one-file-system*) set -- -rf --one-file-system ;; esac
rm "$@" -- "$path"
""".replace("@protected", " | ".join(map(quote, PROTECTED)))


def apply(absent: Absent, facts: Facts) -> Action:  # noqa: ARG001
    return Action(f"path={quote(absent.path)} recursive={'1' if absent.recursive else chr(39) * 2}\n{_APPLY}".encode())


KIND = Kind(parse=parse, probe=probe, desired=desired, apply=apply, reads=reads)
