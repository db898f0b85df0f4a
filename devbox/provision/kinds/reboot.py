"""`reboot`: a restart of the guest, by this computer: it is done when the guest answers with a new boot id.

With `if`, done while that command fails; else it goes by its receipt, as `run` does: once, and when a step that it
needs has changed.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from shlex import quote
from typing import TYPE_CHECKING, Any

from devbox.errors import DevboxError
from devbox.provision.facts import Facts
from devbox.provision.step import Action, HostResult, HostSide, Kind, Source, State

if TYPE_CHECKING:
    from devbox.guest.connection import Guest

_BOOT_ID = "cat /proc/sys/kernel/random/boot_id"
# Detached and a moment later, so that this connection can still answer.
_RESTART = "sleep 1; systemctl reboot || reboot || /sbin/reboot"
_PAUSE = 2.0  # seconds between two looks at a guest that is still going down


@dataclass(frozen=True, slots=True)
class Reboot:
    condition: str = ""
    user: str = "root"


def parse(raw: Mapping[str, Any] | None, source: Source) -> Reboot:
    return Reboot((raw or {}).get("if", ""), source.user)


def probe(reboot: Reboot) -> str:
    if reboot.condition:
        overdue = r'if [ -n "$late" ]; then echo "\`if\` $late"; return 10; fi'
        return f'guard {quote(reboot.user)} {quote(reboot.condition)} || {{ {overdue}; field done "$wanted"; }}'
    return '[ -z "$recorded" ] || field done "$recorded"'


def desired(reboot: Reboot, facts: Facts) -> State:  # noqa: ARG001
    return ()  # that of an action is its digest, see step.py


def apply(reboot: Reboot, facts: Facts) -> Action:  # noqa: ARG001
    return Action(b"fail 'A restart is carried out from outside.'\n")


def host(reboot: Reboot, side: HostSide) -> HostResult:  # noqa: ARG001
    """Restarts the guest and waits for it. Raises `reboot.refused` and what waiting for a boot raises."""
    guest = side.guest
    try:
        before = _boot_id(guest)
    except DevboxError:  # an attempt before this one has ended that connection
        guest = side.connect()
        before = _boot_id(guest)
    become = "" if side.endpoint.user == "root" else "sudo -n "
    detached = f"{become}sh -c {quote(f'(setsid sh -c {quote(_RESTART)} >/dev/null 2>&1 </dev/null &)')}"
    asked = guest.run(detached, timeout=30)
    if asked.status != 0:
        raise DevboxError(
            "reboot.refused",
            "The guest does not let itself be restarted.",
            details=asked.stderr.decode(errors="replace"),
        )
    side.output(b"restarting\n")
    deadline = time.monotonic() + (side.spec.timeout or 600.0)
    while time.monotonic() < deadline:
        try:
            guest = side.connect()
        except DevboxError as trouble:
            if trouble.id in {"guest.unreachable", "guest.connection-lost"}:
                time.sleep(_PAUSE)
                continue
            raise
        try:
            now = _boot_id(guest)
        except DevboxError:
            now = before  # it went down under our question
        finally:
            guest.close()
        if now not in ("", before):
            side.output(b"the guest has started anew\n")
            return HostResult()
        time.sleep(_PAUSE)
    raise DevboxError("reboot.timeout", "The guest has not started anew within its time limit.")


def _boot_id(guest: "Guest") -> str:
    return guest.run(_BOOT_ID, timeout=30).stdout.decode(errors="replace").strip()


KIND = Kind(
    parse=parse,
    probe=probe,
    desired=desired,
    apply=apply,
    host=host,
    action=True,
    restarts=True,
    guarded=lambda reboot: bool(reboot.condition),
)
