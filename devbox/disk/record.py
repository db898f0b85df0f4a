"""Which machine belongs to which project: `record.json`, identity only, written once and atomically.

No index and no status: machines are found by scanning their folders. The binding is two-way, so a moved project keeps
its machine and a copied one never shares it. A folder appears under its final name only with its record inside.
"""

import os
import shlex
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from devbox import fs, paths, ui
from devbox.config.choices import Arch, Firmware
from devbox.disk import hint, keys
from devbox.disk.record_file import Damaged as Damaged
from devbox.disk.record_file import Record as Record
from devbox.disk.record_file import read as read
from devbox.disk.record_file import store as store
from devbox.errors import DevboxError
from devbox.paths import MachineDir

if TYPE_CHECKING:
    from devbox.box.store import Image
    from devbox.config.model import Project

MAIN = "default"  # the machine that a project has; another one stands beside it for a while
_MACHINE_TYPES = {Arch.X86_64: "q35", Arch.AARCH64: "virt"}


def all_records() -> tuple[Record | Damaged, ...]:
    """Every machine of this user, the oldest first, the damaged ones last."""
    try:
        folders = sorted(entry for entry in paths.machines_dir().iterdir() if hint.is_id(entry.name))
    except FileNotFoundError:
        return ()
    found = [one for folder in folders if (one := read(folder, folder.name)) is not None]
    return tuple(sorted(found, key=lambda one: (isinstance(one, Damaged), getattr(one, "created", ""), one.id)))


def find(project_root: Path, machine: str = MAIN) -> Record | None:
    """The record of this project's machine, rebound (and said so) if the project has moved.

    Raises `record.copied` when the project's own hint names a machine that belongs to another folder, and
    `record.damaged` when it names one whose record cannot be read.
    """
    root = project_root.absolute()
    # Only the main machine has a hint: a copied folder must not lay claim to one that will be gone soon.
    named, everything = hint.read(root) if machine == MAIN else "", all_records()
    for one in everything:
        if isinstance(one, Damaged) and one.id == named:
            raise _damaged(one)
    records = [one for one in everything if isinstance(one, Record) and one.machine == machine]
    info = root.stat()
    place = (info.st_dev, info.st_ino)
    claims = [one for one in records if one.project == root]
    if claims:
        best = next((one for one in claims if one.id == named), claims[0])
        return best if (best.device, best.inode) == place else _rebind(best, root, place)
    for one in records:
        if (one.device, one.inode) == place and (one.id == named or hint.older(root, one.created)):
            # Still seen under its old path: the same folder, by a link or a bind mount.
            return one if _is(one.project, place) else _moved(one, root, place)
    for one in records:
        if one.id == named:
            if os.path.lexists(one.project):
                raise _copied(one, root)
            return _moved(one, root, place)
    return None


def ensure(project: "Project", image: "Image", firmware: Firmware) -> Record:
    """The record of the project's machine, made if there is none. `firmware` is resolved: BIOS or UEFI.

    Raises what `find` raises, and `disk.too-small` before anything is made.
    """
    machine = project.machine.name
    if not (found := find(project.root, machine)):
        with making():
            found = find(project.root, machine) or _create(project, image, firmware)
    if machine == MAIN:
        hint.write(project.root, found.id)
    return found


def fork(parent: Record, machine: str, fill: Callable[[MachineDir], None]) -> Record:
    """A further machine of the parent's project, made of it: its own in all that tells them apart, but for the MAC
    address, which the guest's network goes by, and each is alone on its own network.

    `fill` puts the files into the folder before it appears. Raises `clone.exists`.
    """
    with making():
        refuse_second(parent.project, machine)
        id, aside = _new_folder()
        record = replace(
            parent,
            id=id,
            machine=machine,
            uuid=str(uuid.uuid4()),
            host_key=keys.make(aside.host_key),
            created=_now(),
        )
        fill(aside)
        return _appear(aside, record)


def refuse_second(project_root: Path, machine: str) -> None:
    """Raises `clone.exists` where the project has a machine by this name."""
    if find(project_root, machine):
        raise DevboxError(
            "clone.exists",
            f"{project_root} has a machine `{machine}` already.",
            hint=f"Use it with `devbox up --machine {machine}`, or delete it: `devbox destroy --machine {machine}`.",
        )


@contextmanager
def making() -> Iterator[None]:
    """Nobody else makes a machine meanwhile."""
    with fs.lock(paths.machines_dir() / ".lock", wait=60, on_wait=_waiting):
        yield


def beside(project_root: Path) -> tuple[Record, ...]:
    """The machines of this project other than its main one: clones, and that of a `verify`. Also where it has moved."""
    others = [one for one in all_records() if isinstance(one, Record) and one.machine != MAIN]
    return tuple(one for one in others if belongs(one, project_root))


def belongs(one: Record, project_root: Path) -> bool:
    """Whether it is, or was, a machine of the project in this folder, which may have moved meanwhile."""
    root, info = project_root.absolute(), project_root.stat()
    same = (one.device, one.inode) == (info.st_dev, info.st_ino)
    return one.project == root or (same and hint.older(root, one.created))


@contextmanager
def locked(record: Record, *, wait: float = 3600) -> Iterator[None]:
    """Hold the machine for a change. Raises `lock.busy`, and `machine.gone` if it was destroyed meanwhile."""
    if record.dir.folder.is_dir():
        with fs.lock(record.dir.lock, wait=wait, on_wait=_waiting):
            if record.dir.record.exists():
                yield
                return
    raise DevboxError(
        "machine.gone",
        f"The machine of {record.project} was destroyed meanwhile.",
        hint="Make a new one with `devbox up`.",
    )


def resized(record: Record, size: int) -> Record:
    """The record with the disk's new size in bytes, stored."""
    changed = replace(record, disk_size=size)
    store(record.dir.folder, changed)
    return changed


def founded(record: Record, layer: str, mac: str) -> Record:
    """The record of a machine that has no disk yet, stored with the layer that the disk will stand on."""
    changed = replace(record, layer=layer, mac=mac or record.mac)
    if changed != record:
        store(record.dir.folder, changed)
    return changed


def refitted(record: Record, firmware: Firmware) -> Record:
    """The record of a stopped machine with the firmware that it boots by from now on, stored."""
    changed = replace(record, firmware=firmware)
    store(record.dir.folder, changed)
    return changed


def _create(project: "Project", image: "Image", firmware: Firmware) -> Record:
    spec, traits = project.machine, image.traits
    check_size(spec.disk, image.virtual_size)
    for one in all_records():
        if isinstance(one, Damaged):
            ui.warn(f"The machine {one.id} is damaged ({one.reason}) and may have been this project's: {one.folder}")
    id, aside = _new_folder()
    info = project.root.stat()
    record = Record(
        id=id,
        project=project.root.absolute(),
        device=info.st_dev,
        inode=info.st_ino,
        name=project.name,
        machine=spec.name,
        arch=spec.arch,
        image=image.sha256,
        image_format=image.format,
        image_label=traits.label,
        os=traits.os,
        lacks=tuple(sorted(traits.lacks)),
        firmware=firmware,
        cpu=traits.cpu,
        machine_type=_MACHINE_TYPES[spec.arch],
        disk_size=spec.disk,
        uuid=str(uuid.uuid4()),
        mac="52:54:00:" + os.urandom(3).hex(":"),  # QEMU's own prefix
        user=spec.user.name,
        uid=spec.user.uid,
        gid=spec.user.gid,
        shell=spec.user.shell,
        groups=spec.user.groups,
        source=image.source,
        host_key=keys.make(aside.host_key),
        created=_now(),
    )
    return _appear(aside, record)


def _new_folder() -> tuple[str, MachineDir]:
    """A machine's id, and the folder to make it in."""
    _sweep()
    id = os.urandom(6).hex()
    aside = MachineDir(f".new-{id}")
    fs.make_private_dir(aside.folder)
    return id, aside


def _appear(aside: MachineDir, record: Record) -> Record:
    store(aside.folder, record)
    aside.folder.rename(record.dir.folder)
    fs.fsync_dir(record.dir.folder.parent)
    return record


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def check_size(size: int, least: int) -> None:
    """Raises `disk.too-small`."""
    if size < least:
        raise DevboxError(
            "disk.too-small",
            f"`disk` is {ui.size(size)}, but the box needs at least {ui.size(least)}.",
            hint=f"Set `disk: {-(-least // (1 << 30))}GiB` or more in the Devboxfile.",
        )


def _sweep() -> None:
    """Remove what a crash left half-made. Under the lock, so nobody is at work there."""
    for entry in paths.machines_dir().glob(".new-*"):
        shutil.rmtree(entry, ignore_errors=True)


def _waiting(who: str) -> None:
    ui.note(f"Waiting for {who}")


def _moved(record: Record, root: Path, place: tuple[int, int]) -> Record:
    ui.note(f"This project was at {record.project} before: its machine now belongs to {root}.")
    return _rebind(record, root, place)


def _rebind(record: Record, root: Path, place: tuple[int, int]) -> Record:
    bound = replace(record, project=root, device=place[0], inode=place[1])
    with suppress(OSError):  # A full disk must not hide the machine: next time it is found by the same signs.
        store(record.dir.folder, bound)
    return bound


def _is(folder: Path, place: tuple[int, int]) -> bool:
    try:
        info = folder.stat()
    except OSError:
        return False
    return (info.st_dev, info.st_ino) == place


def _damaged(one: Damaged) -> DevboxError:
    return DevboxError(
        "record.damaged",
        f"The record of this project's machine {one.id} cannot be read, so it is left alone.",
        hint=f"Its disk is in {one.folder}. Repair record.json, or give the machine up by removing that folder.",
        details=one.reason,
    )


def _copied(one: Record, root: Path) -> DevboxError:
    file = root / paths.PROJECT_DIR / "id"
    return DevboxError(
        "record.copied",
        f"This folder is a copy of {one.project}, whose machine {one.id} cannot serve both.",
        hint=f"For a machine of its own, remove the copy's mark: rm {shlex.quote(str(file))}. "
        "To take the machine over, delete or move away the original first.",
    )
