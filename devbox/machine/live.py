"""Changes to a running QEMU that disturb nothing else of its machine: forwarded ports, over the control monitor.

The caller holds the machine's lock and has seen that the new ports can be bound.
"""

from collections.abc import Sequence
from dataclasses import replace

from devbox import fs
from devbox.disk.record import Record
from devbox.errors import DevboxError
from devbox.machine.qmp import Qmp
from devbox.share.ports import Forward

_NETWORK = "net0"  # the id of the network in argv


def forward(record: Record, have: Sequence[Forward], wanted: Sequence[Forward]) -> bool:
    """From the ports that QEMU forwards to those that are wanted; whether anything had to change.

    Raises `machine.port-taken` when a port was taken just now; the ports are then as they were before.
    """
    old, new = ([replace(one, name="") for one in each] for each in (have, wanted))
    gone, added = [one for one in old if one not in new], [one for one in new if one not in old]
    if not (gone or added):
        return False
    with Qmp(record.dir.qmp) as qmp:
        undo: list[Forward] = []
        for one in gone:  # first, since a port may only lead to another place
            _remove(qmp, one)
        for one in added:
            if trouble := _add(qmp, one):
                for made in undo:
                    _remove(qmp, made)
                for lost in gone:
                    _add(qmp, lost)
                raise DevboxError(
                    "machine.port-taken",
                    f"Port {one.host} of {one.bind} on this computer is taken, or you may not listen on it.",
                    hint="Choose another under `ports:` in the Devboxfile, or end the program that has it.",
                    details=trouble,
                )
            undo.append(one)
    fs.append_event(
        record.dir.log, event="ports", added=[_rule(one) for one in added], gone=[_door(one) for one in gone]
    )
    return True


def _add(qmp: Qmp, one: Forward) -> str:
    """What QEMU has against it, or nothing."""
    return qmp.human(f"hostfwd_add {_NETWORK} {_rule(one)}").strip()


def _remove(qmp: Qmp, one: Forward) -> None:
    qmp.human(f"hostfwd_remove {_NETWORK} {_door(one)}")


def _door(one: Forward) -> str:
    return f"{one.protocol}:{one.bind}:{one.host}"


def _rule(one: Forward) -> str:
    return f"{_door(one)}-:{one.guest}"
