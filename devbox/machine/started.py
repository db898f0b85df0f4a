"""What a machine was last started with, kept beside its disk: for `status` and `ports`, and to tell what a restart
would change. Derived: every start writes it anew, and nothing decides liveness by it.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from devbox import fs
from devbox.config.choices import FolderType
from devbox.disk.record import Record
from devbox.share.folders import Mount
from devbox.share.ports import Forward

if TYPE_CHECKING:
    from devbox.machine.argv import VmSpec

_RESTART = ("cpus", "memory", "network", "forwards", "mounts")
_NOT_CHOSEN = ("dir", "name", "uuid", "mac", "incoming", "ram")


@dataclass(frozen=True, slots=True)
class Started:
    forwards: tuple[Forward, ...] = ()
    mounts: tuple[Mount, ...] = ()


def save(record: Record, vm: "VmSpec") -> None:
    fs.write_atomic(record.dir.started, _text(vm).encode())


def load(record: Record) -> Started:
    """The folders and ports of the last start; none where there was no start, or the file cannot be read."""
    stored = _stored(record)
    try:
        return Started(
            tuple(Forward(**entry) for entry in stored["forwards"]), tuple(_mount(entry) for entry in stored["mounts"])
        )
    except (KeyError, TypeError, ValueError):
        return Started()


def named(record: Record, forwards: Sequence[Forward]) -> tuple[Forward, ...]:
    """Forwards as QEMU tells them, with the names that the Devboxfile gave them at the last start."""
    names = {(known.protocol, known.guest): known.name for known in load(record).forwards}
    return tuple(replace(one, name=names.get((one.protocol, one.guest), "")) for one in forwards)


def differs(record: Record, vm: "VmSpec") -> tuple[str, ...]:
    """The keys of the Devboxfile that ask for something else than what runs; they take effect by a restart."""
    stored, wanted = _stored(record), json.loads(_text(vm))
    names = {"forwards": "ports", "mounts": "folders"}
    return tuple(names.get(key, key) for key in _RESTART if stored and stored.get(key) != wanted[key])


def whole(vm: "VmSpec") -> dict[str, Any]:
    """All that a start may choose, as JSON values; what the record says, and what is of one run only, is left out."""
    kept: dict[str, Any] = json.loads(json.dumps(asdict(vm), default=str))
    return {name: value for name, value in kept.items() if name not in _NOT_CHOSEN}


def _text(vm: "VmSpec") -> str:
    everything = whole(vm)
    return json.dumps({**{key: everything[key] for key in _RESTART}, "whole": everything}, indent=2)


def _stored(record: Record) -> dict[str, Any]:
    try:
        stored = json.loads(record.dir.started.read_text())
    except (OSError, ValueError):
        return {}
    return stored if isinstance(stored, dict) else {}


def _mount(entry: dict[str, Any]) -> Mount:
    return Mount(
        tag=entry["tag"],
        host=Path(entry["host"]),
        guest=PurePosixPath(entry["guest"]),
        type=FolderType(entry["type"]),
        readonly=bool(entry["readonly"]),
        ignore=tuple(entry["ignore"]),
        reason=entry["reason"],
    )
