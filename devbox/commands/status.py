"""`devbox status`: the truth about this project's machine, asked of the kernel and QEMU, never of a file."""

from contextlib import suppress
from json import loads
from pathlib import Path
from typing import Annotated, Any

import typer

from devbox import paths, ui
from devbox.commands import beside, outcome, target
from devbox.commands.beside import MachineOption
from devbox.disk import data, identity
from devbox.disk import record as records
from devbox.disk.data import Data
from devbox.disk.record import Record
from devbox.machine import lifecycle, started
from devbox.machine.lifecycle import State


def status(
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    machine: MachineOption = records.MAIN,
) -> None:
    """Show what this project's machine is doing."""
    root = paths.find_project(Path.cwd())
    record = records.find(root) if machine == records.MAIN else target.existing(machine)
    others = records.beside(root) if machine == records.MAIN else ()
    seen = {**describe(root, record), "beside": [_beside(one) for one in others]}
    if json:
        ui.emit_json(seen)
        return
    for name, value in _lines(seen):
        ui.emit(f"{name:<10} {ui.clean(value)}")


def describe(root: Path, record: Record | None) -> dict[str, Any]:
    """Everything that `status` tells, as JSON values."""
    if record is None:
        kept = [{"name": one.name, "path": str(one.disk), "size": one.size} for one in data.of(root, records.MAIN)]
        return {"project": str(root), "state": str(State.MISSING), "disks": kept, "next": "devbox up"}
    seen = lifecycle.observe(record)
    disk = record.dir.disk
    return {
        "project": str(root),
        "id": record.id,
        "machine": record.machine,
        "identity": "provisional" if identity.is_provisional(record) else "own",
        "state": str(seen.state),
        "reason": seen.reason,
        "pid": seen.pid,
        "box": record.image_label,
        "image": f"sha256:{record.image}",
        "arch": str(record.arch),
        "layer": _layer(record),
        "disk": {"used": disk.stat().st_blocks * 512 if disk.exists() else 0, "size": record.disk_size},
        "ssh": {"host": "127.0.0.1", "port": seen.ssh_port, "user": record.user} if seen.ssh_port else None,
        "ports": [
            {
                "name": forward.name,
                "bind": forward.bind,
                "host": forward.host,
                "guest": forward.guest,
                "protocol": forward.protocol,
            }
            for forward in started.named(record, seen.forwards)
        ],
        "folders": [
            {"host": str(mount.host), "guest": str(mount.guest), "type": str(mount.type), "reason": mount.reason}
            for mount in started.load(record).mounts
        ],
        "disks": [_data(one, record) for one in data.of(root, record.machine)],
        "provisioned": outcome.last_known(record),
        "next": target.next_command(seen, record),
    }


def _layer(record: Record) -> dict[str, Any] | None:
    """What the machine began with, as it was kept with its layer; the age of that is the age of what is in it."""
    if not record.layer:
        return None
    kept: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        kept = loads((paths.layers_dir() / record.layer / "meta.json").read_bytes())
    return {"sha256": record.layer, "steps": kept.get("steps"), "created": kept.get("created")}


def _data(one: Data, record: Record) -> dict[str, Any]:
    attached = any(one.disk == known.path for known in started.load(record).disks or ())
    used = one.disk.stat().st_blocks * 512 if one.disk.exists() else 0
    return {"name": one.name, "path": str(one.disk), "used": used, "size": one.size, "attached": attached}


def _beside(record: Record) -> dict[str, Any]:
    return {"id": record.id, "machine": record.machine, "state": str(lifecycle.observe(record).state)}


def _lines(seen: dict[str, Any]) -> list[tuple[str, str]]:
    reason = f" ({seen['reason']})" if seen.get("reason") else ""
    lines = [("project", seen["project"]), ("machine", f"{seen['state']}{reason}")]
    if "id" in seen:
        pid = f", QEMU is process {seen['pid']}" if seen["pid"] else ""
        lines[1] = ("machine", f"{seen['state']}{reason}{pid}")
        lines.append(("box", f"{seen['box']}, {seen['arch']}, {seen['image'][:19]}…"))
        if layer := seen["layer"]:
            since = f", made {layer['created'][:10]}" if layer["created"] else ""
            lines.append(("began with", f"a layer of {len(layer['steps'] or ())} steps{since}"))
        lines.append(("disk", f"{ui.size(seen['disk']['used'])} used of {ui.size(seen['disk']['size'])}"))
        if seen["ssh"]:
            lines.append(("ssh", f"{seen['ssh']['user']}@{seen['ssh']['host']} port {seen['ssh']['port']}"))
        if seen["identity"] != "own":
            lines.append(("identity", "still that of the machine or layer it was made from; `devbox up` renews it"))
        for port in seen["ports"]:
            name = f" ({port['name']})" if port["name"] else ""
            lines.append(("port", f"{port['bind']}:{port['host']} → {port['guest']}/{port['protocol']}{name}"))
        for disk in seen["disks"]:
            where = "" if disk["attached"] else f", not attached: {disk['path']}"
            lines.append(("data disk", f"{disk['name']}, {ui.size(disk['used'])} of {ui.size(disk['size'])}{where}"))
        for folder in seen["folders"]:
            why = f": {folder['reason']}" if folder["reason"] else ""
            lines.append(("folder", f"{folder['host']} → {folder['guest']} ({folder['type']}{why})"))
        if known := seen["provisioned"]:
            lines.append(("steps", f"{known['summary'].rstrip('.')}, last run {known['at']}"))
    elif seen.get("disks"):
        lines.append(("data disks", f"{', '.join(disk['name'] for disk in seen['disks'])}, kept for the next machine"))
    for other in seen["beside"]:
        name = other["machine"]
        verb = "destroy" if name == beside.VERIFY else "status"
        lines.append(("beside", f"the machine `{name}` is {other['state']}: `devbox {verb} --machine {name}`"))
    lines.append(("next", seen["next"]))
    return lines
