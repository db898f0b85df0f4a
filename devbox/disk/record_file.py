"""A machine's `record.json`: what is in it, written whole, and read with every field judged."""

import json
import os
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from devbox import fs
from devbox.config.choices import Arch, Firmware
from devbox.paths import MachineDir

SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Sizes are bytes. `image` is the sha256 of the blob that the disk stands on, `host_key` a public key line."""

    id: str
    project: Path
    device: int
    inode: int
    name: str
    machine: str
    arch: Arch
    image: str
    image_format: str
    image_label: str
    os: str
    lacks: tuple[str, ...]
    firmware: Firmware
    cpu: str
    machine_type: str
    disk_size: int
    uuid: str
    mac: str
    user: str
    uid: int
    gid: int
    host_key: str
    created: str
    shell: str = ""  # of the account; "" in a record from before it was kept, and then `groups` is not known either
    groups: tuple[str, ...] = ()
    source: str = ""  # which image was asked for, see `box.image.identity`; "" where it is not known
    layer: str = ""  # the sha256 of the layer that its disk was made on, "" for the image itself
    schema: int = SCHEMA

    @property
    def dir(self) -> MachineDir:
        return MachineDir(self.id)


@dataclass(frozen=True, slots=True)
class Damaged:
    """A machine whose record cannot be read. Its disk is kept; only a person decides about it."""

    id: str
    folder: Path
    reason: str


def store(folder: Path, record: Record) -> None:
    fs.write_atomic(folder / "record.json", json.dumps(asdict(record), indent=2, default=os.fspath).encode())


def read(folder: Path, id: str) -> Record | Damaged | None:
    """The record in a folder, which may lie in the trash. None for one that holds no machine at all (a lock file made
    while its machine was being destroyed).
    """
    try:
        record = _parse(json.loads((folder / "record.json").read_bytes()))
    except FileNotFoundError:
        if not (folder / MachineDir(id).disk.name).exists():
            return None
        return Damaged(id, folder, "record.json is missing")
    except (OSError, ValueError, RecursionError) as trouble:
        return Damaged(id, folder, f"record.json: {trouble}")
    if record.id != id:
        return Damaged(id, folder, f"record.json: it is of machine {record.id}")
    return record


def _parse(raw: Any) -> Record:
    if not isinstance(raw, dict):
        raise ValueError("it is not a JSON object")
    if raw.get("schema") != SCHEMA:
        raise ValueError(f"its schema {raw.get('schema')!r} is not the {SCHEMA} that this devbox reads")
    return Record(
        **{field.name: _value(field.name, field.type, raw.get(field.name, _default(field))) for field in fields(Record)}
    )


def _default(field: Any) -> Any:
    """What a record says by leaving a field out: it was written before there was one."""
    return None if field.default is MISSING else field.default


def _value(name: str, kind: Any, value: Any) -> Any:
    if kind is int and isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if kind is Path and isinstance(value, str) and value.startswith("/"):
        return Path(value)
    if kind in (str, Arch, Firmware) and isinstance(value, str):
        return kind(value)
    if kind == tuple[str, ...] and isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise ValueError(f"`{name}` is missing or not of its kind")
