"""`devbox layers`: what new machines can begin with, what it takes of the disk, and who stands on it."""

import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from devbox import ui

if TYPE_CHECKING:
    from devbox.disk.layers import Entry
    from devbox.fs import Place

app = typer.Typer(rich_markup_mode=None, invoke_without_command=True)
_NICE = 15


@app.callback()
def layers(context: typer.Context, json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show what new machines can begin with; `prune` frees it."""
    if context.invoked_subcommand is None:
        list_layers(json=json)


@app.command("list")
def list_layers(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the layers: the steps that they hold, their size and age, and who uses them."""
    from devbox.disk import holds
    from devbox.disk import layers as stored
    from devbox.machine import template

    memories = {one.layer for one in template.entries()}
    users = holds.of_machines()
    rows = [_plain(one, one.layer.sha256 in memories, _user(one, *users)) for one in stored.entries()]
    if json:
        ui.emit_json({"layers": rows})
        return
    if not rows:
        ui.note("There are none yet: the first `devbox up` of a machine makes them.")
        return
    cells = [
        (
            row["sha256"][:12],
            row["box"],
            _holds(row["steps"]),
            ui.size(row["size"]),
            "yes" if row["memory"] else "-",
            f"{datetime.fromisoformat(row['created']).astimezone():%Y-%m-%d %H:%M}",
            ui.duration(row["seconds"]),
            row["used_by"] or ("-" if row["reachable"] else "replaced"),
        )
        for row in rows
    ]
    ui.table(cells, ("LAYER", "BOX", "HOLDS", "ON DISK", "MEMORY", "MADE", "SAVES", "USED BY"))


def _holds(steps: "list[str]") -> str:
    if not steps:
        return "first boot"
    return f"{len(steps)} steps" if len(steps) > 1 else "1 step"


def _user(entry: "Entry", digests: "Mapping[str, str]", files: "Mapping[Place, str]") -> str:
    """Which machine stands on it: its record says so, or its folder has it, as of the layers further down."""
    if user := digests.get(entry.layer.sha256):
        return user
    with suppress(FileNotFoundError):
        info = entry.layer.blob.stat()
        return files.get((info.st_dev, info.st_ino), "")
    return ""


def _plain(entry: "Entry", memory: bool, user: str) -> dict[str, Any]:
    layer = entry.layer
    return {
        "sha256": layer.sha256,
        "box": layer.label,
        "image": layer.image,
        "parent": layer.parent,
        "steps": list(layer.steps),
        "size": entry.size,
        "depth": entry.depth,
        "memory": memory,
        "created": layer.created,
        "seconds": layer.seconds,
        "reachable": entry.reachable,
        "used_by": user or next((f"layer {one[:12]}" for one in entry.children), ""),
    }


@app.command()
def prune(
    everything: Annotated[
        bool, typer.Option("--all", "-a", help="All that no machine stands on now, however young.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Only say what would go.")] = False,
) -> None:
    """Remove the layers that no machine stands on and that nobody asked for lately, and those over the limit."""
    from devbox.commands import gc

    pruned = gc.collect_layers(gc.policy(everything=everything), dry_run=dry_run)
    for item in pruned.removed:
        ui.done(f"{item.name}: {ui.size(item.size)}, {item.why}")
    for item in pruned.kept:
        ui.note(f"{item.name} stays: {item.why}")
    ui.done(f"{'Would free' if dry_run else 'Freed'} {ui.size(pruned.size)}.")


@app.command(hidden=True)
def flatten(sha256: str) -> None:
    """Make a deep layer flat. `up` starts this in the background."""
    from devbox.disk import flatten as flat
    from devbox.disk import layers as stored
    from devbox.machine import template

    os.nice(_NICE)
    layer = stored.read(sha256)
    if layer and flat.is_deep(layer):
        template.readdress(sha256, flat.flatten(layer).sha256)
