"""Pure: what the Devboxfile asks for and what the machine is → their differences, each with what it takes to apply it.

The classes are those of the "changes" column of the format; the steps' own differences are told by provisioning and
join these in `commands/survey`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from devbox.config import values
from devbox.config.model import AutoPorts, Disk, Firmware, FolderType, MachineSpec
from devbox.disk.data import Attached
from devbox.disk.record import Record
from devbox.machine import liveness
from devbox.machine.started import Started
from devbox.share.folders import Mount
from devbox.share.ports import Forward


class Effect(StrEnum):
    """What a change takes; `class` in the output."""

    CREATE = "create"
    LIVE = "live"
    RESTART = "restart"
    REBUILD = "rebuild"
    STEP = "run step"


@dataclass(frozen=True, slots=True)
class Change:
    """One difference. `key` is the Devboxfile's (of a step, its name); old None: it is added, new None: removed."""

    key: str
    effect: Effect
    old: str | None
    new: str | None
    reason: str = ""
    last_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Box:
    """The image that is asked for: `source` names it exactly ("" where nothing does)."""

    label: str
    source: str
    firmware: tuple[Firmware, ...] = (Firmware.BIOS, Firmware.UEFI)


@dataclass(frozen=True, slots=True)
class Wanted:
    """As the Devboxfile and its lock say, with ports and folders planned for this computer."""

    machine: MachineSpec
    box: Box
    forwards: tuple[Forward, ...] = ()
    mounts: tuple[Mount, ...] = ()


@dataclass(frozen=True, slots=True)
class Have:
    """The machine: as it was made and last started, the ports it has, and the settings that it was last given.

    `settings` None: it has never been provisioned, so every step is new anyhow.
    """

    record: Record
    started: Started
    forwards: tuple[Forward, ...] = ()
    settings: Mapping[str, Any] | None = field(default_factory=lambda: MappingProxyType({}))


# The keys that one step of devbox's own carries out in the running guest; the others of `settings` are live as well.
GUEST_SETTINGS = ("hostname", "timezone", "locale", "env", "hosts", "dns", "ca_certs", "proxy")


def settings(machine: MachineSpec) -> dict[str, Any]:
    """The live keys of the Devboxfile but for ports and steps, as JSON values: kept for the next comparison."""
    return {
        "hostname": machine.hostname,
        "timezone": machine.timezone,
        "locale": machine.locale,
        "env": dict(machine.env),
        "hosts": dict(machine.hosts),
        "dns": list(machine.dns),
        "ca_certs": [str(path) for path in machine.ca_certs],
        "proxy": machine.proxy,
        "secrets": {secret.name: str(secret) for secret in machine.secrets},
        "forward_agent": machine.forward_agent,
        "auto_ports": _rules(machine.auto_ports),
        "sockets": {socket.name: str(socket.guest) for socket in machine.sockets},
        "exports": {export.name: str(export.guest) for export in machine.exports},
    }


def _rules(auto: AutoPorts | None) -> str:
    if auto is None:
        return "none"
    ignored = ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in auto.ignore)
    return f"{auto.first}-{auto.last}{f' without {ignored}' if ignored else ''}"


def between(wanted: Wanted, have: Have) -> tuple[Change, ...]:
    """All differences but those of the steps, in the order of the format's table."""
    return (
        *rebuilds(wanted, have.record),
        *_sizes(wanted.machine, have),
        *_disks(wanted.machine.disks, have.started.disks),
        *_firmware(wanted, have.record),
        *_folders(wanted.mounts, have.started),
        *_ports(wanted.forwards, have.forwards),
        *_network(wanted.machine, have.started),
        *_settings(wanted.machine, have.settings),
    )


def rebuilds(wanted: Wanted, record: Record) -> Iterator[Change]:
    """What only a new machine could have. Another box of another architecture is no further difference."""
    machine, box = wanted.machine, wanted.box
    if machine.arch is not record.arch:
        yield Change("arch", Effect.REBUILD, str(record.arch), str(machine.arch))
    elif box.label != record.image_label:
        yield Change("box", Effect.REBUILD, record.image_label, box.label)
    elif box.source and record.source and box.source != record.source:
        yield Change(
            "box",
            Effect.REBUILD,
            f"{record.image_label} {_short(record.source)}",
            f"{box.label} {_short(box.source)}",
            "the image moved since the machine was made",
        )
    if machine.disk < record.disk_size:
        yield Change("disk", Effect.REBUILD, _size(record.disk_size), _size(machine.disk), "a disk cannot shrink")
    if _another_firmware(wanted, record) and machine.firmware not in box.firmware:
        yield Change("firmware", Effect.REBUILD, str(record.firmware), str(machine.firmware))
    yield from _account(machine, record)


def _account(machine: MachineSpec, record: Record) -> Iterator[Change]:
    user = machine.user
    asked, made = f"{user.name} {user.uid}:{user.gid}", f"{record.user} {record.uid}:{record.gid}"
    if asked != made:
        yield Change("user", Effect.REBUILD, made, asked)
    if record.shell and user.shell != record.shell:
        yield Change("user.shell", Effect.REBUILD, record.shell, user.shell)
    if record.shell and set(user.groups) != set(record.groups):
        old, new = (", ".join(sorted(groups)) or "none" for groups in (record.groups, user.groups))
        yield Change("user.groups", Effect.REBUILD, old, new)


def _sizes(machine: MachineSpec, have: Have) -> Iterator[Change]:
    started, last = have.started, have.started.seconds
    if started.cpus is not None and machine.cpus != started.cpus:
        yield Change("cpus", Effect.RESTART, str(started.cpus), str(machine.cpus), last_seconds=last)
    if started.memory is not None and machine.memory != started.memory:
        yield Change("memory", Effect.RESTART, _size(started.memory), _size(machine.memory), last_seconds=last)
    if machine.disk > have.record.disk_size:
        old, new = _size(have.record.disk_size), _size(machine.disk)
        yield Change("disk", Effect.RESTART, old, new, last_seconds=last)


def _disks(wanted: Sequence[Disk], have: Sequence[Attached] | None) -> Iterator[Change]:
    if have is None:
        return
    known, asked = {one.name: one for one in have}, {one.name: one for one in wanted}
    for disk in wanted:
        old = known.get(disk.name)
        if old is None:
            yield Change("disks", Effect.RESTART, None, f"{disk.name} {_size(disk.size)} at {disk.mount}")
        elif disk.size != old.size:
            yield Change("disks", Effect.RESTART, f"{disk.name} {_size(old.size)}", f"{disk.name} {_size(disk.size)}")
    for gone in have:
        if gone.name not in asked:
            kept = f"its data stays in {gone.path}"
            yield Change("disks", Effect.RESTART, f"{gone.name} {_size(gone.size)}", None, kept)


def _another_firmware(wanted: Wanted, record: Record) -> bool:
    return wanted.machine.firmware not in {Firmware.AUTO, record.firmware}


def _firmware(wanted: Wanted, record: Record) -> Iterator[Change]:
    if _another_firmware(wanted, record) and wanted.machine.firmware in wanted.box.firmware:
        yield Change("firmware", Effect.RESTART, str(record.firmware), str(wanted.machine.firmware))


def _folders(wanted: Sequence[Mount], started: Started) -> Iterator[Change]:
    if not started.known:
        return
    old, new = {mount.guest: mount for mount in started.mounts}, {mount.guest: mount for mount in wanted}
    for guest in dict.fromkeys((*old, *new)):
        before, after = old.get(guest), new.get(guest)
        if before and after and _same_folder(before, after):
            continue
        copied = all(one.type is FolderType.RSYNC for one in (before, after) if one)
        effect = Effect.LIVE if copied else Effect.RESTART
        yield Change("folders", effect, _folder(before), _folder(after))


def _same_folder(one: Mount, other: Mount) -> bool:
    return replace(one, tag="", reason="") == replace(other, tag="", reason="")


def _folder(mount: Mount | None) -> str | None:
    if mount is None:
        return None
    words = [str(mount.type), *(["read-only"] if mount.readonly else [])]
    words += [f"without {', '.join(mount.ignore)}"] if mount.ignore else []
    return f"{mount.host} → {mount.guest} ({', '.join(words)})"


def merged_mounts(running: Sequence[Mount], wanted: Sequence[Mount]) -> tuple[Mount, ...]:
    """The folders of a running machine once what can be had live is applied: copied ones come and go as they are asked
    for, but never in the place of a device that is still mounted there.
    """
    devices = [mount for mount in running if mount.type is not FolderType.RSYNC]
    held = {mount.guest for mount in devices}
    return (*devices, *(one for one in wanted if one.type is FolderType.RSYNC and one.guest not in held))


def _ports(wanted: Sequence[Forward], have: Sequence[Forward]) -> Iterator[Change]:
    if set(wanted) == set(have):
        return
    gone = [one for one in have if one not in wanted]
    for new in wanted:
        if new in have:
            continue
        old = next((one for one in gone if (one.protocol, one.bind, one.host) == _door(new)), None)
        if old is None:  # a named port that moved, or the same port of the guest by another number
            old = next((one for one in gone if new.name and one.name == new.name), None)
        if old:
            gone.remove(old)
        effect, reason = Effect.LIVE, ""
        if liveness.is_ssh(new) and not any((*_door(one), one.guest) == (*_door(new), 22) for one in have):
            effect, reason = Effect.RESTART, "a further way to SSH is told from devbox's own by a start only"
        yield Change("ports", effect, _port(old) if old else None, _port(new), reason)
    for lost in gone:
        yield Change("ports", Effect.LIVE, _port(lost), None)


def _door(one: Forward) -> tuple[str, str, int]:
    return (one.protocol, one.bind, one.host)


def _port(one: Forward) -> str:
    bind = "" if one.bind == "127.0.0.1" else f"{one.bind}:"
    end = "" if one.protocol == "tcp" else f"/{one.protocol}"
    return f"{bind}{one.host} → {one.guest}{end}{f' ({one.name})' if one.name else ''}"


def live_forwards(wanted: Sequence[Forward], have: Sequence[Forward]) -> tuple[Forward, ...]:
    """The wanted ports that a running machine can have without a restart."""
    known = {(*_door(one), one.guest) for one in have}
    return tuple(one for one in wanted if (*_door(one), one.guest) in known or not liveness.is_ssh(one))


def _network(machine: MachineSpec, started: Started) -> Iterator[Change]:
    if started.network is not None and str(machine.network) != started.network:
        yield Change("network", Effect.RESTART, started.network, str(machine.network), last_seconds=started.seconds)


def _settings(machine: MachineSpec, before: Mapping[str, Any] | None) -> Iterator[Change]:
    if before is None:
        return
    for key, new in settings(machine).items():
        old = before.get(key, new)
        if old == new:
            continue
        if not (isinstance(old, dict) and isinstance(new, dict)):
            yield Change(key, Effect.LIVE, _value(old), _value(new))
            continue
        for name in dict.fromkeys((*old, *new)):
            if old.get(name) != new.get(name):
                first, second = (f"{name}={each[name]}" if name in each else None for each in (old, new))
                yield Change(key, Effect.LIVE, first, second)


def _value(value: Any) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    return (", ".join(value) if isinstance(value, list) else str(value)) or None


def _size(count: int) -> str:
    return values.size_text(count)


def _short(source: str) -> str:
    name, _, value = source.partition(":")
    return f"{name}:{value[:12]}…" if len(value) > 40 else source
