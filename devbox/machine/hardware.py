"""The machine as QEMU was started last, kept beside its disk: a saved memory fits only the very same one.

Written by every start, and read as a whole: whatever a start may choose comes along, without a list of it here.
"""

import json
import types
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from itertools import pairwise
from pathlib import Path, PurePath
from typing import Any, Union, get_args, get_origin, get_type_hints

from devbox import fs
from devbox.disk.record import Record
from devbox.errors import DevboxError
from devbox.machine import started
from devbox.machine.argv import VmSpec


def remember(vm: VmSpec, command: Sequence[str]) -> None:
    """Keep what is about to be started by this argument list."""
    disks = {device: str(path) for device, path in writable(command).items()}
    fs.write_atomic(vm.dir.hardware, json.dumps({"machine": started.chosen(vm), "disks": disks}, indent=2).encode())


def last(record: Record) -> VmSpec:
    """The machine of the last start, which is what runs. Raises `machine.start-unknown`."""
    try:
        return from_json(json.loads(record.dir.hardware.read_bytes())["machine"], record)
    except (OSError, ValueError, KeyError, TypeError) as unknown:
        raise DevboxError(
            "machine.start-unknown",
            "It is not known here how this machine was started: an older devbox did it.",
            hint="Restart it with `devbox reload`, and try again.",
            details=f"{type(unknown).__name__}: {unknown}",
        ) from unknown


def disks(record: Record) -> Mapping[str, Path]:
    """The disks that the machine of the last start writes to, by their device; its own first."""
    own = {"vda": record.dir.disk}
    try:
        stored = json.loads(record.dir.hardware.read_bytes())["disks"]
        return own | {str(device): Path(path) for device, path in stored.items() if device not in own}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return own


def writable(command: Sequence[str]) -> Mapping[str, Path]:
    """The devices of an argument list that stand on a qcow2 file, and that file. Pure."""
    described = [(option, json.loads(value)) for option, value in pairwise(command) if value.startswith("{")]
    nodes = {
        node["node-name"]: Path(node["file"]["filename"])
        for option, node in described
        if option == "-blockdev" and node["driver"] == "qcow2" and not node.get("read-only")
    }
    devices = [device for option, device in described if option == "-device" and device.get("drive") in nodes]
    return {device["id"]: nodes[device["drive"]] for device in devices}


def from_json(raw: Mapping[str, Any], record: Record) -> VmSpec:
    """Raises KeyError, TypeError or ValueError."""
    hints = get_type_hints(VmSpec)
    values: dict[str, Any] = {name: _value(hints[name], value) for name, value in raw.items() if name in hints}
    return VmSpec(dir=record.dir, name=record.name, uuid=record.uuid, mac=record.mac, **values)


def _value(kind: Any, raw: Any) -> Any:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return None if raw is None else _value(next(one for one in get_args(kind) if one is not type(None)), raw)
    if origin is tuple:
        return tuple(_value(get_args(kind)[0], one) for one in raw)
    if is_dataclass(kind):
        hints, names = get_type_hints(kind), {field.name for field in fields(kind)}
        return kind(**{name: _value(hints[name], value) for name, value in raw.items() if name in names})  # type: ignore[operator]
    if issubclass(kind, Enum | PurePath):
        return kind(raw)
    if not isinstance(raw, kind):
        raise TypeError(f"{raw!r} is not a {kind.__name__}")
    return raw
