"""Data disks: they belong to a machine of a project by name, lie outside its folder, and outlive it.

Found as machines are: by the project's path, else, where that folder is gone, by its inode. So a moved project keeps
its data and a copied one never shares it. Every change is made under the lock of the machine.
"""

import json
import os
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devbox import fs, paths, proc, ui
from devbox.disk import enlarge, hint, trash
from devbox.disk.record import Record
from devbox.errors import DevboxError, ExitCode
from devbox.paths import MachineDir

if TYPE_CHECKING:
    from devbox.config.model import Disk

SCHEMA = 1
_RECORD = "data.json"  # not `record.json`: in the trash, nothing may take it for a machine


@dataclass(frozen=True, slots=True)
class Attached:
    """A data disk as a machine is started with it. `uuid` is that of the file system in it; `size` is bytes."""

    name: str
    size: int
    path: Path
    uuid: str
    blank: bool = False  # it held nothing at all when the machine was started

    @property
    def serial(self) -> str:
        """By which the guest finds it; virtio-blk carries 20 bytes."""
        return f"devbox-{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    id: str
    project: Path
    device: int
    inode: int
    machine: str  # the name of the machine within the project
    name: str
    size: int
    uuid: str
    created: str
    attached: str = ""  # the id of the machine that was last started with it
    schema: int = SCHEMA

    @property
    def folder(self) -> Path:
        return paths.data_dir() / self.id

    @property
    def disk(self) -> Path:
        return self.folder / "disk.qcow2"


def of(project_root: Path, machine: str) -> tuple[Data, ...]:
    """The data disks of a machine of the project, whether or not there is such a machine now. Changes nothing."""
    root = project_root.absolute()
    try:
        info = root.stat()
    except OSError:
        return tuple(one for one in _all() if one.machine == machine and one.project == root)
    place = (info.st_dev, info.st_ino)
    mine = [one for one in _all() if one.machine == machine]
    here = [one for one in mine if one.project == root]
    named = {one.name for one in here}
    moved = [
        one
        for one in mine
        if one.name not in named
        and (one.device, one.inode) == place
        and (not os.path.lexists(one.project) or one.project.samefile(root))
        and hint.older(root, one.created)
    ]
    return tuple(sorted((*here, *moved), key=lambda one: one.name))


def ensure(record: Record, disks: tuple["Disk", ...]) -> tuple[Attached, ...]:
    """The data disks that a stopped machine is to be started with, made and grown as needed.

    Raises `disk.shrink` before anything is changed, `disk.data-in-use`, `disk.data-missing`, `disk.create-failed` and
    `disk.grow-failed`.
    """
    if not disks:
        return ()
    refuse_to_shrink(record, disks)
    with fs.lock(paths.data_dir() / ".lock", wait=60):
        known = {one.name: one for one in of(record.project, record.machine)}
        return tuple(_ready(known.get(disk.name) or _create(record, disk), record, disk) for disk in disks)


def refuse_to_shrink(record: Record, disks: tuple["Disk", ...]) -> None:
    """Raises `disk.shrink` for a size below that of a data disk that is there."""
    known = {one.name: one for one in of(record.project, record.machine)} if disks else {}
    for disk in disks:
        one = known.get(disk.name)
        if one and disk.size < one.size:
            raise DevboxError(
                "disk.shrink",
                f"The data disk `{disk.name}` has {ui.size(one.size)} and cannot shrink to {ui.size(disk.size)}.",
                hint=f"Set its size back, or give up what is on it: `devbox destroy --data`. It is {one.disk}",
                exit_code=ExitCode.USAGE,
            )


def discard(project_root: Path, machine: str, *, for_good: bool = False) -> tuple[Path, ...]:
    """Take a machine's data disks out of the way, into the trash or `for_good`; where they lie now.

    The machine must not run.
    """
    gone = []
    for one in of(project_root, machine):
        aside = trash.take(one.folder, one.id)
        if for_good:
            trash.delete(aside)
        gone.append(aside)
    return tuple(gone)


def restore(record: Record) -> tuple[Data, ...]:
    """Bring the machine's data disks back that were put into the trash, unless it has others by their names by now."""
    restored = []
    with fs.lock(paths.data_dir() / ".lock", wait=60):
        taken = {one.name for one in of(record.project, record.machine)}
        for entry, _ in reversed(trash.entries()):  # the last destroyed first
            one = _read(entry, entry.name.partition("-")[2])
            if not isinstance(one, Data) or one.attached != record.id or one.name in taken:
                continue
            where = record.project
            back = replace(one, project=where, device=record.device, inode=record.inode, machine=record.machine)
            _write(entry, back)
            entry.rename(back.folder)
            fs.fsync_dir(back.folder.parent)
            taken.add(one.name)
            restored.append(back)
    return tuple(restored)


def _ready(one: Data, record: Record, disk: "Disk") -> Attached:
    if not one.disk.exists():
        raise DevboxError(
            "disk.data-missing",
            f"The file of the data disk `{one.name}` is gone: {one.disk}",
            hint=f"Put it back there, or begin with an empty one: remove the folder {one.folder}",
        )
    if one.attached not in {"", record.id} and MachineDir(one.attached).record.exists():
        raise DevboxError(
            "disk.data-in-use",
            f"The data disk `{one.name}` belongs to another machine, {one.attached}, which still exists.",
            hint="See `devbox list`; destroy that one, or give the disk another name in the Devboxfile.",
        )
    if disk.size > one.size:
        enlarge.enlarge(one.disk, disk.size, f"The data disk `{one.name}`")
    info = record.project.stat()
    now = replace(
        one,
        project=record.project,
        device=info.st_dev,
        inode=info.st_ino,
        size=max(disk.size, one.size),
        attached=record.id,
    )
    if now != one:
        _write(one.folder, now)
    return Attached(now.name, now.size, now.disk, now.uuid, _is_blank(now.disk))


def _is_blank(disk: Path) -> bool:
    """Whether nothing was ever written to it: of a guest's own look, a part may be older than the disk (its memory may
    come from a template), so only such a disk is ever formatted.
    """
    done = proc.run([proc.find_tool("qemu-img"), "map", "--output=json", "-f", "qcow2", disk], timeout=120)
    try:
        return done.status == 0 and not any(part["data"] for part in json.loads(done.text))
    except (ValueError, KeyError, TypeError):
        return False


def _create(record: Record, disk: "Disk") -> Data:
    """Made aside and renamed, so that there is never half of one. Under the lock of all data disks."""
    for left in paths.data_dir().glob(".new-*"):
        trash.delete(left)
    for folder in _folders():
        if isinstance(trouble := _read(folder, folder.name), str):
            ui.warn(f"The data disk in {folder} is damaged ({trouble}) and may have been this project's.")
    info = record.project.stat()
    made = Data(
        id=os.urandom(6).hex(),
        project=record.project,
        device=info.st_dev,
        inode=info.st_ino,
        machine=record.machine,
        name=disk.name,
        size=disk.size,
        uuid=str(uuid.uuid4()),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    aside = fs.make_private_dir(paths.data_dir() / f".new-{made.id}")
    file = aside / made.disk.name
    tool = proc.find_tool("qemu-img")
    done = proc.run([tool, "create", "-q", "-f", "qcow2", file, str(disk.size)], timeout=120)
    if done.status != 0:
        raise DevboxError(
            "disk.create-failed", f"The data disk `{disk.name}` could not be made.", details=done.error_text
        )
    file.chmod(0o600)
    fs.fsync_file(file)
    _write(aside, made)
    aside.rename(made.folder)
    fs.fsync_dir(made.folder.parent)
    return made


def _all() -> Iterator[Data]:
    for folder in _folders():
        one = _read(folder, folder.name)
        if isinstance(one, Data):
            yield one


def _folders() -> tuple[Path, ...]:
    try:
        return tuple(sorted(entry for entry in paths.data_dir().iterdir() if hint.is_id(entry.name)))
    except FileNotFoundError:
        return ()


def _read(folder: Path, id: str) -> Data | str:
    """The record in the folder, or why it cannot be read."""
    try:
        raw: Any = json.loads((folder / _RECORD).read_bytes())
        if raw["schema"] != SCHEMA or raw["id"] != id:
            return "its record is of another devbox or another disk"
        values = {field.name: raw[field.name] for field in fields(Data)}
        one = Data(**{**values, "project": Path(values["project"])})
        wrong = [name for name in ("device", "inode", "size") if not isinstance(getattr(one, name), int)]
        return f"{wrong[0]} is no number" if wrong else one
    except (OSError, ValueError, KeyError, TypeError) as trouble:
        return f"{_RECORD}: {trouble}"


def _write(folder: Path, one: Data) -> None:
    fs.write_atomic(folder / _RECORD, json.dumps(asdict(one), indent=2, default=os.fspath).encode())
