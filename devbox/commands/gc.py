"""`devbox gc`: free what nobody uses any more, and say of everything what it holds and why it goes or stays."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from devbox import ui

if TYPE_CHECKING:
    from devbox.box.prune import Item, Pruned
    from devbox.disk.garbage import Policy


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Only say what would be freed.")] = False,
    everything: Annotated[
        bool, typer.Option("--all", "-a", help="Also what was used lately, where no machine uses it now.")
    ] = False,
    empty_trash: Annotated[bool, typer.Option("--trash", help="Give up destroyed machines first, for good.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Free what no machine uses, and say what stays and why."""
    pruned = collect(policy(everything=everything, empty_trash=empty_trash), dry_run=dry_run)
    if json:
        ui.emit_json(_plain(pruned, dry_run=dry_run))
        return
    _show(pruned.removed, "WOULD GO" if dry_run else "WENT")
    _show(pruned.kept, "STAYS")
    if not pruned.removed:
        ui.done("There is nothing to free.")
    else:
        ui.done(f"{'Would free' if dry_run else 'Freed'} {ui.size(pruned.size)} ({len(pruned.removed)} items).")


def policy(*, everything: bool = False, empty_trash: bool = False) -> "Policy":
    """The user's, from their configuration file."""
    from devbox.config import preferences
    from devbox.disk import garbage

    own = preferences.load()
    return garbage.Policy(
        trash_days=0 if empty_trash else own.trash_days,
        unused_days=0 if everything else own.unused_days,
        limit=own.layers_limit,
    )


def collect(policy: "Policy", *, dry_run: bool) -> "Pruned":
    from devbox.disk import garbage
    from devbox.machine import lifecycle

    return garbage.collect(
        policy, dry_run=dry_run, stopped=lambda record: lifecycle.observe(record).state is lifecycle.State.STOPPED
    )


def collect_layers(policy: "Policy", *, dry_run: bool) -> "Pruned":
    from devbox.disk import garbage

    return garbage.collect_layers(policy, dry_run=dry_run)


def _show(items: "Sequence[Item]", title: str) -> None:
    if items:
        ui.table(
            [(item.what, item.name, ui.size(item.size), item.why) for item in items], (title, "NAME", "SIZE", "WHY")
        )
        ui.emit()


def _plain(pruned: "Pruned", *, dry_run: bool) -> dict[str, object]:
    def items(found: "Sequence[Item]") -> list[dict[str, object]]:
        return [{"what": item.what, "name": item.name, "size": item.size, "why": item.why} for item in found]

    return {"dry_run": dry_run, "freed": pruned.size, "removed": items(pruned.removed), "kept": items(pruned.kept)}
