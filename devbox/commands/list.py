"""`devbox list`: every machine of this user, read from the folders and from QEMU, never from an index."""

from typing import Annotated

import typer

from devbox import ui
from devbox.disk import record as records
from devbox.disk.record import Damaged, Record
from devbox.machine import lifecycle


def list(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List all your machines, of every project."""
    rows = [_row(found) for found in records.all_records()]
    if json:
        ui.emit_json(rows)
    elif rows:
        ui.table([[str(row[key] or "-") for key in row] for row in rows], [key.upper() for key in rows[0]])
    else:
        ui.note("You have no machines. `devbox up` in a project makes one.")


def _row(found: Record | Damaged) -> dict[str, str | int | None]:
    if isinstance(found, Damaged):
        return {"id": found.id, "machine": "", "state": "damaged", "box": "", "disk": "", "project": found.reason}
    seen = lifecycle.observe(found)
    disk = found.dir.disk
    size = ui.size(disk.stat().st_blocks * 512) if disk.exists() else ""
    gone = "" if found.project.is_dir() else " (folder is gone)"
    return {
        "id": found.id,
        "machine": found.machine,
        "state": str(seen.state),
        "box": f"{found.image_label} {found.arch}",
        "disk": size,
        "project": f"{found.project}{gone}",
    }
