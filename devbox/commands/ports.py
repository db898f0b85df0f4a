"""`devbox ports`: what is forwarded, asked of the QEMU that forwards it."""

from typing import Annotated

import typer

from devbox import ui
from devbox.commands import target
from devbox.commands.beside import MachineOption
from devbox.disk import record as records
from devbox.machine import started


def ports(
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False, machine: MachineOption = records.MAIN
) -> None:
    """Show the forwarded ports."""
    record, seen = target.running(machine)
    rows = [
        {
            "name": forward.name,
            "host": f"{forward.bind}:{forward.host}",
            "guest": forward.guest,
            "protocol": forward.protocol,
        }
        for forward in started.named(record, seen.forwards)
    ]
    rows.append({"name": "ssh", "host": f"127.0.0.1:{seen.ssh_port}", "guest": 22, "protocol": "tcp"})
    if json:
        ui.emit_json(rows)
    else:
        ui.table([[str(row[key]) for key in row] for row in rows], ["NAME", "HOST", "GUEST", "PROTOCOL"])
