"""`devbox lock`: writes down which bytes the Devboxfile's names and addresses stand for; with `--update` moves them.

It alone takes a file without any published digest for what it is: it is fetched, shown and written down.
"""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from devbox import paths, ui
from devbox.errors import DevboxError, ExitCode

if TYPE_CHECKING:
    from devbox.box.traits import Source
    from devbox.config.addresses import Address
    from devbox.config.lock import FilePin, Lock, Pin
    from devbox.config.model import Arch, Project


def lock(
    name: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Only this: the box, a step, or an address. All if left out."),
    ] = None,
    update: Annotated[bool, typer.Option("--update", help="Resolve it anew, and show what moved.")] = False,
    arch: Annotated[
        list[str] | None, typer.Option(help="Lock this architecture's image, too or instead; can be repeated.")
    ] = None,
    approve: Annotated[
        str, typer.Option(metavar="HASH|all", help="Approve what the Devboxfile asks of this computer.")
    ] = "",
) -> None:
    """Lock what the Devboxfile's names stand for; --update moves it."""
    from devbox.commands import approval, locking
    from devbox.commands.box import parse_arch
    from devbox.config import addresses, build
    from devbox.config import lock as locks

    project = build.load(paths.find_project(Path.cwd()), committed=True)
    approval.require(project, approve)
    old = new = locks.read(project.root)
    arches = [parse_arch(text) for text in arch or ()]
    images = _images(project, old, arches, update=update)
    files = addresses.of(project.machine.steps)
    _require_known(project, arches or [project.machine.arch], files, name or ())
    for each in images:
        if not name or _names(project, each).intersection(name):
            pin = _image(project, old, each, update=update, fetch=each in (arches or [project.machine.arch]))
            new = new.with_pin(project.machine.name, each, pin)
    for address in files:
        if not name or address.names.intersection(name):
            new = new.with_file(address.url, _file(address, old, update=update))
    new = _without_unasked(new, {address.url for address in files})
    for line in locking.moves(old, new):
        ui.done(line)
    if new == old:
        ui.done(f"{paths.LOCK_FILE} is up to date.")
        return
    locks.write(project.root, new)
    ui.done(f"Wrote {paths.LOCK_FILE}: commit it.")


def _images(project: "Project", old: "Lock", arches: "Sequence[Arch]", *, update: bool) -> "Iterator[Arch]":
    """The architectures to lock: those named, else this machine's, and with `update` those that the lock has."""
    machine = project.machine
    yield from arches or [machine.arch]
    for name, arch in old.pins:
        if update and not arches and name == machine.name and arch != machine.arch and arch in machine.boxes:
            yield arch


def _names(project: "Project", arch: "Arch") -> set[str]:
    """What a person may call the image of this architecture."""
    from devbox.config.lock import source_of

    machine = project.machine
    ref = machine.boxes.get(arch, machine.box)
    source = source_of(ref, project.root)
    words = {str(ref), source, source.partition(":")[2] if not ref.url else "", ref.recipe, machine.name}
    return (words | {ref.path.name if ref.path else ""}) - {""}


def _require_known(
    project: "Project", arches: "Sequence[Arch]", files: "Sequence[Address]", names: Collection[str]
) -> None:
    known = set().union(*(_names(project, arch) for arch in arches), *(address.names for address in files))
    for name in names:
        if name not in known:
            boxes = dict.fromkeys(str(project.machine.boxes.get(arch, project.machine.box)) for arch in arches)
            listed = ", ".join((*boxes, *(address.step.name for address in files)))
            raise DevboxError(
                "lock.unknown",
                f"The Devboxfile has nothing to lock that is called {name!r}.",
                hint=f"There is: {listed}.",
                exit_code=ExitCode.USAGE,
            )


def _image(project: "Project", old: "Lock", arch: "Arch", *, update: bool, fetch: bool) -> "Pin":
    """The pin of this architecture's image: the one there is, or a new one.

    `fetch`: have the file, to know its sha256 and size, even where its published digest says enough.
    """
    from devbox.box import catalogue, image
    from devbox.commands import locking
    from devbox.config.lock import Pin, source_of

    machine = project.machine
    ref = machine.boxes.get(arch, machine.box)
    before = old.pin(machine.name, arch, ref)
    if before and not update:
        ui.done(f"{ref} ({arch}) is locked: {before}")
        return before
    source = catalogue.locate(ref, arch)
    if source.digest is None and not source.recipe:
        new = image.pin(source)
        ui.warn(
            f"{ref} ({arch}) has no published digest: compare {new.digest}, {ui.size(new.size)} with its publisher's."
        )
        return Pin(source_of(ref, project.root), source.url, None, new.digest.value, new.size)
    if fetch and not source.recipe:
        _have(source, f"{ref} ({arch})")
    pin = locking.pin_of(source, ref, project)
    if before and str(before) == str(pin) and before.url == pin.url and (before.size or not pin.size):
        ui.done(f"{ref} ({arch}) has not moved: {before}")
        return before
    ui.done(f"{ref} ({arch}): {pin}")
    return pin


def _have(source: "Source", label: str) -> None:
    """Fetch the image. Where there is no network its published digest must do, which proves as much."""
    from devbox.box import image

    try:
        image.ensure(source)
    except DevboxError as trouble:
        if trouble.id != "download.failed":
            raise
        ui.warn(f"{trouble.message} {label} is locked by its published digest, with no size.")


def _file(address: "Address", old: "Lock", *, update: bool) -> "FilePin":
    from devbox.config.lock import FilePin
    from devbox.provision import artefacts

    before = old.files.get(address.url)
    title = f"Fetching {address.shown}"
    if address.sha256:
        if before and before.sha256 == address.sha256 and before.size:
            ui.done(f"{address.step.name} is locked: {before}")
            return before
        artefacts.ensure(address.url, address.sha256, title=title)
        return FilePin(address.sha256, artefacts.size(address.sha256))
    if before and not update:
        ui.done(f"{address.step.name} is locked: {before}")
        return before
    new = artefacts.pin(address.url, title=title)
    if before == new:
        ui.done(f"{address.step.name} has not moved: {before}")
    else:
        ui.warn(f"The Devboxfile gives no digest for {address.shown}: compare {new} with what its publisher says.")
    return new


def _without_unasked(lock: "Lock", asked: Collection[str]) -> "Lock":
    from dataclasses import replace

    return replace(lock, files={url: file for url, file in lock.files.items() if url in asked})
