"""What a machine was last started with, kept beside its disk: for `status` and `ports`, and to tell what an edit of the
Devboxfile changes. Derived: every start writes it anew, a live change corrects it, and nothing decides liveness by it.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from devbox import fs
from devbox.config.choices import FolderType, SyncMode
from devbox.disk.data import Attached
from devbox.disk.record import Record
from devbox.share.folders import Mount
from devbox.share.ports import Forward

if TYPE_CHECKING:
    from devbox.machine.argv import VmSpec

_RESTART = ("cpus", "memory", "network", "forwards", "mounts")
_KEPT = (*_RESTART, "disks")
_NOT_CHOSEN = ("dir", "name", "uuid", "mac", "incoming", "ram", "disk")  # the record's, or of one run only


@dataclass(frozen=True, slots=True)
class Started:
    """What is not known is None: the machine has not been started yet, or by a devbox that did not keep it."""

    forwards: tuple[Forward, ...] = ()
    mounts: tuple[Mount, ...] = ()
    disks: tuple[Attached, ...] | None = None
    cpus: int | None = None
    memory: int | None = None
    network: str | None = None
    known: bool = False  # whether there was a start at all
    seconds: float | None = None  # from QEMU's start to the guest's answer, the last time


def save(record: Record, vm: "VmSpec") -> None:
    """Written before the start, so that no machine runs of which nothing is known."""
    everything = chosen(vm)
    kept = {key: everything[key] for key in _KEPT}
    _write(record, {**kept, "seconds": load(record).seconds})


def corrected(
    record: Record,
    *,
    forwards: Sequence[Forward] | None = None,
    mounts: Sequence[Mount] | None = None,
    seconds: float | None = None,
) -> None:
    """What has changed in the machine while it runs. Nothing is written where that is known already."""
    stored = _stored(record)
    news = {"forwards": _plain(forwards), "mounts": _plain(mounts)}
    news = {key: value for key, value in news.items() if value is not None}
    after = {**stored, **news, **({} if seconds is None else {"seconds": round(seconds, 1)})}
    if stored and after != stored:
        _write(record, after)


def _plain(values: Sequence[Forward] | Sequence[Mount] | None) -> Any:
    return None if values is None else json.loads(json.dumps([asdict(one) for one in values], default=str))


def load(record: Record) -> Started:
    """What the machine was last started with; nothing where there was no start, or the file cannot be read."""
    stored = _stored(record)
    try:
        disks = stored.get("disks")
        return Started(
            tuple(Forward(**entry) for entry in stored["forwards"]),
            tuple(_mount(entry) for entry in stored["mounts"]),
            None if disks is None else tuple(Attached(**{**entry, "path": Path(entry["path"])}) for entry in disks),
            stored.get("cpus"),
            stored.get("memory"),
            stored.get("network"),
            known=True,
            seconds=stored.get("seconds"),
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        return Started()


def named(record: Record, forwards: Sequence[Forward]) -> tuple[Forward, ...]:
    """Forwards as QEMU tells them, with the names that the Devboxfile gave them at the last start."""
    names = {(known.protocol, known.bind, known.host): known.name for known in load(record).forwards}
    return tuple(replace(one, name=names.get((one.protocol, one.bind, one.host), "")) for one in forwards)


def differs(record: Record, vm: "VmSpec") -> tuple[str, ...]:
    """The keys of the Devboxfile that ask for something else than what runs; they take effect by a restart."""
    stored, wanted = _stored(record), chosen(vm)
    names = {"forwards": "ports", "mounts": "folders"}
    return tuple(names.get(key, key) for key in _RESTART if stored and stored.get(key) != wanted[key])


def chosen(vm: "VmSpec") -> dict[str, Any]:
    """All that a start may choose, as JSON values."""
    kept: dict[str, Any] = json.loads(json.dumps(asdict(vm), default=str))
    return {name: value for name, value in kept.items() if name not in _NOT_CHOSEN}


def _write(record: Record, kept: dict[str, Any]) -> None:
    fs.write_atomic(record.dir.started, json.dumps(kept, indent=2).encode())


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
        mode=SyncMode(entry.get("mode", "push")),
    )
