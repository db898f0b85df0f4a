"""`devbox du`: what devbox holds on this computer, by class, who uses it, and how much of it `devbox gc` would free."""

from typing import TYPE_CHECKING, Annotated

import typer

from devbox import ui

if TYPE_CHECKING:
    from devbox.disk.usage import Used

# What `gc` calls an item → the class that it is counted in.
_CLASS = {
    "image": "images",
    "kernel": "kernels",
    "layer": "layers",
    "memory": "memory for warm starts",
    "download": "downloads of steps",
    "leftover": "leftovers",
}


def du(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Name each thing, and who uses it.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what devbox holds on this computer's disk."""
    from devbox.disk import usage

    found = usage.survey()
    freed = _freed()
    if json:
        ui.emit_json(_plain(found, freed))
        return
    rows = [_row(what, [one for one in found if one.what == what], freed.get(what, 0)) for what in usage.CLASSES]
    rows = [row for row in rows if row[1] != "0"]
    ui.table([*rows, _row("total", found, sum(freed.values()))], ("WHAT", "COUNT", "ON DISK", "LENGTH", "GC FREES"))
    if verbose:
        ui.emit()
        ui.table(
            [(one.what, one.name, ui.size(one.size), ui.size(one.apparent), one.user or "-") for one in found],
            ("WHAT", "NAME", "ON DISK", "LENGTH", "USED BY"),
        )
    ui.note("`devbox gc --dry-run` says what would go and why." if verbose else "`devbox du -v` says who uses what.")


def _freed() -> dict[str, int]:
    """Class → the bytes that `devbox gc` would free now."""
    from devbox.commands import gc

    found: dict[str, int] = {}
    for item in gc.collect(gc.policy(), dry_run=True).removed:
        what = _CLASS.get(item.what, item.what)
        found[what] = found.get(what, 0) + item.size
    return found


def _row(what: str, found: "list[Used] | tuple[Used, ...]", freed: int) -> tuple[str, ...]:
    size, length = sum(one.size for one in found), sum(one.apparent for one in found)
    return (what, str(len(found)), ui.size(size), ui.size(length), ui.size(freed) if freed else "-")


def _plain(found: "tuple[Used, ...]", freed: dict[str, int]) -> dict[str, object]:
    from devbox.disk import usage

    classes = {}
    for what in usage.CLASSES:
        of_class = [one for one in found if one.what == what]
        classes[what] = {
            "count": len(of_class),
            "size": sum(one.size for one in of_class),
            "length": sum(one.apparent for one in of_class),
            "gc_frees": freed.get(what, 0),
        }
    items = [
        {"what": one.what, "name": one.name, "size": one.size, "length": one.apparent, "used_by": one.user or None}
        for one in found
    ]
    return {"size": sum(one.size for one in found), "classes": classes, "items": items}
