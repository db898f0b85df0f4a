"""`wait`: until a port listens, a URL answers, a path exists or a command succeeds; it changes nothing by itself.

It waits in the guest, over the run's own channel, with whatever is there: no tool is installed for it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from shlex import quote
from typing import Any

from devbox.config import values
from devbox.provision import inputs
from devbox.provision.facts import Facts
from devbox.provision.step import Action, Kind, Source, State, invalid

NET = "/proc/net"
_TIMEOUT = 60.0
_INTERVAL = 1.0
_TRY, _GLANCE = 10.0, 5.0  # for one try; for the one that all steps wait for
_OWN = ("", "localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Wait:
    what: str  # "port", "url", "path" or "run"
    target: str
    host: str = ""  # of the port; "" for the guest's own
    statuses: tuple[str, ...] = ()  # of the URL, as shell patterns
    timeout: float = _TIMEOUT
    interval: float = _INTERVAL
    user: str = ""
    cwd: str = ""

    @property
    def title(self) -> str:
        host = f" of {self.host}" if self.host else ""
        return "the command" if self.what == "run" else f"{self.what} {self.target}{host}"


def parse(raw: Mapping[str, Any], source: Source) -> Wait:
    what = next(name for name in ("port", "url", "path", "run") if name in raw)
    host, target = str(raw.get("host", "")), str(raw[what])
    if what == "path":
        target = inputs.absolute(target)
    if what == "run" and not target.strip():
        raise invalid("the command is empty")
    asked = raw.get("status", ["2??", "3??"])
    return Wait(
        what,
        target,
        "" if host in _OWN else host,
        tuple(map(str, asked if isinstance(asked, list) else [asked])) if what == "url" else (),
        _duration("timeout", raw.get("timeout", _TIMEOUT)),
        _duration("interval", raw.get("interval", _INTERVAL)),
        source.user,
        source.spec.cwd,
    )


def _duration(name: str, value: float | str) -> float:
    try:
        return values.duration(value)
    except values.Mistake as mistake:
        raise invalid(f"`{name}` {mistake}") from None


# Each `look_*` sets $saw to what there is, and succeeds when that is what is waited for; $limit bounds one try.
_LOOKS = {
    # 0A is LISTEN. The tables are the kernel's own, so neither ss nor nc is needed.
    "port": """
look_port() {
  saw='nothing listens there'
  grep -Eqs ":$hex [0-9A-F]+:0000 0A " "$net/tcp" "$net/tcp6"
}
""",
    "host": """
limited() { if have timeout; then timeout "$limit" "$@"; else "$@"; fi; }
look_port() {
  saw='it does not take a connection'
  # shellcheck disable=SC2016 # for bash
  if have bash; then limited bash -c 'exec 3<>"/dev/tcp/$0/$1"' "$host" "$target" >/dev/null 2>&1
  elif have nc; then limited nc -z "$host" "$target" >/dev/null 2>&1
  else
    unable='The port of another computer needs bash or nc in this guest, and neither is there.' saw=$unable
    return 1
  fi
}
""",
    # Both programs may follow a redirection or not; what counts is the first answer.
    "url": """
look_url() {
  status=''
  if have curl; then
    said=$(curl -s -o /dev/null -m "$limit" -w '%{http_code}' -- "$target" 2>/dev/null)
    code=$?
    case $said in
      [1-9]??) status=$said ;;
      *)
        case $code in
          6) saw='its host has no address' ;;
          7) saw='it does not take a connection' ;;
          28) saw="it does not answer within $limit s" ;;
          35 | 5? | 60) saw="its certificate or encryption is not accepted (curl's exit status $code)" ;;
          *) saw="it gives no answer (curl's exit status $code)" ;;
        esac
        ;;
    esac
  elif have wget; then
    said=$(wget -S -O /dev/null -T "$limit" "$target" 2>&1) || :
    saw='it gives no answer'
    case $said in *HTTP/[0-9]*) status=${said#*HTTP/[0-9]} status=${status#* } status=${status%"${status#???}"} ;; esac
  else
    unable='A URL needs curl or wget in this guest, and neither is there; add `packages: [curl]` before.'
    saw=$unable
    return 1
  fi
  [ -n "$status" ] || return 1
  saw="it answers with status $status"
  for pattern in $statuses; do
    # shellcheck disable=SC2254 # it is a pattern
    case $status in $pattern) return 0 ;; esac
  done
  return 1
}
""",
    "path": """
look_path() { saw='it does not exist'; [ -e "$target" ]; }
""",
    # In a file rather than in a pipe: what the command leaves in the background must not hold the wait up. Nor the
    # lock: BusyBox's `timeout` leaves a process of its own there for a second.
    "run": """
look_run() {
  set -- sh -c "$target"
  ! have timeout || set -- timeout "$limit" "$@"
  (umask 022 && session='' && become "$user" "$@") </dev/null >"${said:-/dev/null}" 2>&1 9>&-
  code=$?
  saw="it ends with status $code"
  [ -z "$said" ] || [ ! -s "$said" ] || saw="$saw: $(tail -n 1 "$said")"
  return $code
}
""",
}


def _words(wait: Wait, limit: float) -> str:
    words = {
        "target": wait.target,
        "limit": str(math.ceil(limit)),
        "net": NET,
        "hex": f"{int(wait.target):04X}" if wait.what == "port" else "",
        "host": wait.host,
        "statuses": " ".join(wait.statuses),
        "user": wait.user,
        "said": "",
        "unable": "",
    }
    given = "".join(f"{name}={quote(value)}\n" for name, value in words.items())
    return given + _LOOKS["host" if wait.host else wait.what]


def probe(wait: Wait) -> str:
    """After the script has succeeded ($fresh) its own look counts: a command or a request is not made twice."""
    look = f'if [ -n "$fresh" ] || look_{wait.what}; then field {wait.what} ready; else field {wait.what} "$saw"; fi'
    return f"{_words(wait, min(wait.timeout, _GLANCE))}{look}"


def desired(wait: Wait, facts: Facts) -> State:  # noqa: ARG001
    return ((wait.what, "ready"),)


_APPLY = """
now
begun=$ms shown='' said=$files/said
while :; do
  now
  left=$(((begun + allowed - ms + 999) / 1000))
  if [ $left -lt 1 ]; then left=1; fi
  if [ "$limit" -gt $left ]; then limit=$left; fi
  if "look_$what"; then
    now
    echo "$title: ready after $(((ms - begun) / 1000)) s."
    : >"$files/unchanged"
    exit 0
  fi
  [ -z "$unable" ] || fail "$unable"
  now
  passed=$((ms - begun))
  if [ $passed -ge "$allowed" ]; then fail "Waited $patience s for $title: $saw."; fi
  # A sign of life: what is new at once, what stays the same now and then.
  case $((passed / 10000)):$saw in
    "$shown") ;;
    *) shown=$((passed / 10000)):$saw; echo "Waiting for $title: $saw ($((passed / 1000)) of $patience s)" ;;
  esac
  sleep "$interval" 2>/dev/null || sleep 1
done
"""


def apply(wait: Wait, facts: Facts) -> Action:  # noqa: ARG001
    own = f"what={wait.what} title={quote(wait.title)} cwd={quote(wait.cwd)} allowed={math.ceil(wait.timeout * 1000)}\n"
    own += f"interval={wait.interval:g} patience={wait.timeout:g}\n"
    return Action(f"{_words(wait, _TRY)}{own}{_APPLY}".encode())


KIND = Kind(parse=parse, probe=probe, desired=desired, apply=apply)
