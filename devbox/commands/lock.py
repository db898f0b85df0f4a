"""`devbox lock`: the only place that writes a digest down. Fetches what has none, shows it, writes Devboxfile.lock."""

from pathlib import Path
from typing import Annotated

import typer

from devbox import paths, ui


def lock(
    arch: Annotated[
        list[str] | None, typer.Option(help="Pin this architecture's image, too or instead; can be repeated.")
    ] = None,
    approve: Annotated[
        str, typer.Option(metavar="HASH|all", help="Approve what the Devboxfile asks of this computer.")
    ] = "",
) -> None:
    """Pin the images that have no published digest."""
    from devbox.box import catalogue, image
    from devbox.commands import approval
    from devbox.commands.box import parse_arch
    from devbox.config import build
    from devbox.config import lock as locks

    project = build.load(paths.find_project(Path.cwd()))
    approval.require(project, approve)
    machine, pins = project.machine, locks.read(project.root)
    changed = False
    for each in [parse_arch(text) for text in arch or ()] or [machine.arch]:
        ref = machine.boxes.get(each, machine.box)
        source = catalogue.locate(ref, each)
        if source.recipe or source.digest:
            ui.done(f"{ref} ({each}) needs no pin: {'it is built here' if source.recipe else source.digest}")
            continue
        if (pinned := pins.pinned(machine.name, each, ref)) is not None:
            ui.done(f"{ref} ({each}) is pinned already: {pinned}")
            continue
        new = image.pin(source)
        pin = locks.Pin(locks.source_of(ref, project.root), source.url, None, new.digest.value, new.size)
        pins, changed = pins.with_pin(machine.name, each, pin), True
        ui.done(f"{ref} ({each}): {new.digest}, {ui.size(new.size)}. Compare it with what the publisher says.")
    if changed:
        locks.write(project.root, pins)
        ui.done(f"Wrote {paths.LOCK_FILE}: commit it.")
