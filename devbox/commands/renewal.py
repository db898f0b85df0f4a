"""The moment a machine gets an identity of its own: its guest renewed, that proved, its seed told, the other forgotten.

While `provisional/` is there the guest may hold either identity, and every connection of ours knows both. A kill
between any two lines is mended by the next `up`, which begins here anew.
"""

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from devbox import fs, ui
from devbox.commands import session
from devbox.config.model import MachineSpec
from devbox.disk import identity
from devbox.disk.record import Record
from devbox.errors import DevboxError
from devbox.guest import openssh
from devbox.machine.lifecycle import Observation

if TYPE_CHECKING:
    from devbox.guest.connection import FabricGuest
    from devbox.guest.openssh import Endpoint

_PROOF = 60.0  # seconds on a fast computer until its sshd answers with the new key
# sshd (since 9.8) shuts out who comes too often without logging in, so there is more time between later tries.
_PAUSES = (0.1, 0.2, 0.5, 1.0, 2.0)


def ensure_own_identity(
    guest: "FabricGuest", record: Record, machine: MachineSpec, seen: Observation, *, slowdown: float
) -> "FabricGuest":
    """The connection to a guest that holds this machine's own identity and no other.

    `guest` itself where there is nothing to renew; else it is renewed and closed, and the answer is a new connection,
    made by the own keys. Nothing may be frozen into a layer afterwards. The caller holds the machine's lock. Raises
    `guest.not-renewed`, and what `connect` raises; the machine then still has both identities.
    """
    if not identity.is_provisional(record):
        return guest
    from devbox.disk import seed
    from devbox.guest import renew

    with ui.step("Give the machine an identity of its own"):
        with guest:
            renew.renew(guest, record, hostname=machine.hostname, slowdown=slowdown)
        proved = _by_own_keys(own_endpoint(record, seen), slowdown)
        seed.take_own(record, machine)  # QEMU has it open, and a guest that restarts by itself reads it again
        identity.settled(record)
        fs.append_event(record.dir.log, event="renewed")
    if record.dir.ssh_config.exists():  # it names keys that are gone, and its kept connection was let in by one
        host = openssh.host_alias(record.name)
        openssh.drop_control(record.dir.ssh_config, host)
        agent = "ForwardAgent yes" in record.dir.ssh_config.read_text()
        where = session.endpoint(record, seen)
        openssh.write_ssh_config(record.dir.ssh_config, where, record.name, record.dir.runtime, forward_agent=agent)
    return proved


def own_endpoint(record: Record, seen: Observation) -> "Endpoint":
    """Where the machine answers, known by its own keys alone."""
    return replace(session.endpoint(record, seen), born=None)


def _by_own_keys(where: "Endpoint", slowdown: float) -> "FabricGuest":
    """A new connection. sshd reads its keys again in a moment of its own, in which it may refuse, or show the old."""
    from devbox.guest import connection

    deadline = time.monotonic() + _PROOF * max(slowdown, 1.0)
    tries = 0
    while True:
        try:
            return connection.connect(where, 10.0 * max(slowdown, 1.0))
        except DevboxError:
            if time.monotonic() > deadline:
                raise
        time.sleep(_PAUSES[min(tries, len(_PAUSES) - 1)])
        tries += 1
