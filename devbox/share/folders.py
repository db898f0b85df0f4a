"""How each declared folder reaches the guest: a plan (pure), where a host folder is in there, and the one-way copy.

virtiofs and 9p show the host's own files and are mounted after boot; rsync folders are copied by `push`, which goes
over OpenSSH, and as a tar stream where either side has no rsync, so that any image works.
"""

import os
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from devbox.config.choices import FolderType, SyncMode
from devbox.errors import DevboxError, ExitCode

if TYPE_CHECKING:
    from devbox.config.model import Folder, MachineSpec


@dataclass(frozen=True, slots=True)
class FolderSupport:
    """What this computer can do: `virtiofsd_unprivileged` is the Rust one, which needs no root; `uid` is ours."""

    virtiofsd: Path | None
    virtiofsd_unprivileged: bool
    ninep: bool
    uid: int


@dataclass(frozen=True, slots=True)
class Mount:
    """`type` is resolved, never `auto`; `reason` says why it is that one, for people."""

    tag: str
    host: Path
    guest: PurePosixPath
    type: FolderType
    readonly: bool = False
    ignore: tuple[str, ...] = ()
    reason: str = ""
    mode: SyncMode = SyncMode.PUSH  # of rsync only


def plan(machine: "MachineSpec", lacks: Iterable[str], support: FolderSupport) -> tuple[Mount, ...]:
    """One mount a folder, in order. Raises `folder.impossible` for a type that was asked for and cannot be."""
    missing = frozenset(lacks)
    return tuple(_mount(folder, machine, missing, support) for folder in machine.folders)


def guest_folder(mounts: Sequence[Mount], host_cwd: Path) -> PurePosixPath | None:
    """Where a folder of this computer is in the guest, None if it is not shared. The innermost mount counts."""
    inside = [mount for mount in mounts if host_cwd.is_relative_to(mount.host)]
    if not inside:
        return None
    nearest = max(inside, key=lambda mount: len(mount.host.parts))
    return nearest.guest / PurePosixPath(host_cwd.relative_to(nearest.host))


def _mount(folder: "Folder", machine: "MachineSpec", lacks: frozenset[str], support: FolderSupport) -> Mount:
    obstacles = {
        FolderType.VIRTIOFS: _virtiofs_obstacle(lacks, support, readonly=folder.readonly),
        FolderType.NINEP: _ninep_obstacle(lacks, support),
        FolderType.SSHFS: "sshfs is not there yet",
        FolderType.RSYNC: "",
    }
    if folder.type is FolderType.AUTO:
        chosen, reason = _choose(obstacles, machine, support)
    elif obstacle := obstacles[folder.type]:
        raise DevboxError(
            "folder.impossible",
            f"The folder {folder.guest} cannot be shared by {folder.type}: {obstacle}.",
            hint="Leave its `type` out: devbox then takes what works here.",
            exit_code=ExitCode.USAGE,
        )
    else:
        chosen, reason = folder.type, "as the Devboxfile says"
    tag = f"devbox{zlib.crc32(os.fspath(folder.guest).encode()):08x}"  # 9p allows 31 bytes
    return Mount(tag, folder.host, folder.guest, chosen, folder.readonly, folder.ignore, reason, folder.mode)


def _choose(obstacles: dict[FolderType, str], machine: "MachineSpec", support: FolderSupport) -> tuple[FolderType, str]:
    able = [kind for kind in (FolderType.VIRTIOFS, FolderType.NINEP) if not obstacles[kind]]
    if not able:
        return FolderType.RSYNC, "; ".join(obstacles[kind] for kind in (FolderType.VIRTIOFS, FolderType.NINEP))
    if support.uid != machine.user.uid:
        # Both pass numeric owners through: the guest's user would own nothing of it and could not write.
        return (
            FolderType.RSYNC,
            f"your user id here is {support.uid}, that of `{machine.user.name}` in the guest is {machine.user.uid}",
        )
    return able[0], "this computer and the box can"


def _virtiofs_obstacle(lacks: frozenset[str], support: FolderSupport, *, readonly: bool) -> str:
    if "virtiofs" in lacks:
        return "the box's kernel has no virtiofs"
    if support.virtiofsd is None:
        return "virtiofsd is not installed here"
    if not support.virtiofsd_unprivileged and support.uid != 0:
        return "the virtiofsd here works for root only"
    return "virtiofs cannot keep the guest from writing" if readonly else ""


def _ninep_obstacle(lacks: frozenset[str], support: FolderSupport) -> str:
    if "9p" in lacks:
        return "the box's kernel has no 9p"
    return "" if support.ninep else "the QEMU here has no 9p"
