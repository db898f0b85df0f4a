"""`service`: whether a service runs and starts at boot, under systemd or OpenRC; restarted by what it needs."""

from collections.abc import Mapping
from dataclasses import dataclass
from shlex import quote
from typing import Any

from devbox.provision.facts import Facts
from devbox.provision.step import Action, Kind, Reads, Source, State

_SUFFIXES = (".service", ".socket", ".timer", ".path", ".mount", ".automount", ".target", ".swap", ".slice")


@dataclass(frozen=True, slots=True)
class Service:
    name: str
    active: str = ""  # "yes", "no", or "" for not asked
    enabled: str = ""
    reload: bool = False

    @property
    def unit(self) -> str:
        """The unit's name for systemd; OpenRC knows services only."""
        return self.name if self.name.endswith(_SUFFIXES) else f"{self.name}.service"


def parse(raw: str | Mapping[str, Any], source: Source) -> Service:  # noqa: ARG001
    if isinstance(raw, str):
        return Service(raw, active="yes", enabled="yes")
    active = {"started": "yes", "stopped": "no", None: ""}[raw.get("state")]
    enabled = {True: "yes", False: "no", None: ""}[raw.get("enabled")]
    return Service(raw["name"], active, enabled, raw.get("reload", False))


def reads(service: Service) -> Reads:
    return Reads(units=(service.unit,))


def _name(service: Service) -> str:
    lines = f"name={quote(service.name.removesuffix('.service'))}\n"
    return lines + f'[ "$init" != systemd ] || name={quote(service.unit)}\n'


def probe(service: Service) -> str:
    return f"{_name(service)}probe_service \"$name\" '{service.active}' '{service.enabled}'"


def desired(service: Service, facts: Facts) -> State:  # noqa: ARG001
    fields = (("active", service.active), ("enabled", service.enabled))
    return tuple((name, value) for name, value in fields if value)


_APPLY = """
show_journal() {
  status=$?
  if [ $status != 0 ]; then
    case $init in
      systemd) journalctl --no-pager -n 20 -u "$name" 2>/dev/null || : ;;
      openrc) grep -F -e "$name" /var/log/messages 2>/dev/null | tail -n 20 ;;
    esac
  fi
  exit $status
}
trap show_journal EXIT
# OpenRC's `status` of a service that has crashed is not that of a stopped one, and `start` leaves it as it is.
runs() { [ "$(probe_service "$name" yes '')" = active=yes ]; }
case $init in
  systemd)
    load_units "$name"
    # A folder of drop-ins that is new since systemd listed its folders does not make it say NeedDaemonReload.
    [ -z "$triggered" ] && [ ! -d "/etc/systemd/system/$name.d" ] && find_unit "$name" &&
      unit_property NeedDaemonReload && [ "$value" != yes ] || systemctl daemon-reload
    # Each of these takes seconds under emulation, needed or not.
    case $(probe_service "$name" '' "$enabled") in
      "enabled=$enabled") ;;
      enabled=*) if [ "$enabled" = yes ]; then systemctl enable "$name"; else systemctl disable "$name"; fi ;;
    esac
    if [ "$active" = no ]; then systemctl stop "$name"
    elif [ -z "$triggered" ]; then
      if [ "$active" = yes ]; then systemctl start "$name"; fi
    elif [ "$active" = yes ]; then systemctl "$restart" "$name"
    else systemctl try-"$restart" "$name"; fi
    load_units "$name"
    [ "$active" != yes ] || { find_unit "$name" && unit_is_active; } || fail "$name did not stay active."
    ;;
  openrc)
    rc-service --exists "$name" || fail "There is no service $name: nothing in /etc/init.d has this name."
    case $enabled:$(probe_service "$name" '' "$enabled") in
      yes:enabled=no) rc-update add "$name" default ;;
      no:enabled=yes) rc-update --all del "$name" ;;
    esac
    if [ "$active" = no ]; then
      [ ! -e "$openrc/started/$name" ] || rc-service "$name" stop || { ! runs && rc-service "$name" zap; }
    elif [ -n "$triggered" ] && runs; then
      [ "$restart" = reload-or-restart ] && rc-service "$name" reload || rc-service "$name" restart
    elif [ "$active" = yes ] && ! runs; then
      [ ! -e "$openrc/started/$name" ] || rc-service "$name" zap
      rc-service "$name" start
    fi
    [ "$active" != yes ] || runs || fail "$name did not stay active."
    ;;
  *) fail "This guest has neither systemd nor OpenRC, so devbox cannot manage $name." ;;
esac
"""


def apply(service: Service, facts: Facts) -> Action:  # noqa: ARG001
    restart = "reload-or-restart" if service.reload else "restart"
    asked = f"active='{service.active}' enabled='{service.enabled}' restart={restart} triggered=$1\n"
    return Action(f"{_name(service)}{asked}{_APPLY}".encode())


KIND = Kind(parse=parse, probe=probe, desired=desired, apply=apply, reads=reads, restarts=True)
