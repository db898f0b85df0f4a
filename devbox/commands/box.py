"""`devbox box …`: the catalogue and the store of images, for people."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from devbox import ui
from devbox.config.model import Arch, Digest
from devbox.errors import DevboxError, ExitCode

if TYPE_CHECKING:
    from devbox.box.prune import Pruned
    from devbox.box.store import Blob
    from devbox.box.traits import Source

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@dataclass(frozen=True)
class _Row:
    name: str
    title: str
    aliases: tuple[str, ...]
    stored: Mapping[Arch, str | None]  # architecture → sha256 of its image, where that is in the store
    pinned: bool
    recipe: bool = False

    def cells(self) -> tuple[str, ...]:
        here = " ".join(arch for arch, sha256 in self.stored.items() if sha256)
        note = "box: {recipe: " + self.name + "}" if self.recipe else "" if self.pinned else "needs devbox lock"
        return self.name, " ".join(self.stored), here or "-", self.title, ", ".join(self.aliases) or "-", note

    def plain(self) -> dict[str, object]:
        return {**asdict(self), "stored": dict(self.stored)}


@app.command("list")
def list_boxes(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the boxes that a Devboxfile can name, and the images in the store."""
    from devbox.box import store

    rows = _rows()
    shown = {sha256 for row in rows for sha256 in row.stored.values()}
    others = [blob for blob in store.entries() if blob.sha256 not in shown and not blob.parent]  # no layers
    if json:
        ui.emit_json({"boxes": [row.plain() for row in rows], "others": [_blob(blob) for blob in others]})
        return
    ui.table([row.cells() for row in rows], ("BOX", "ARCHITECTURES", "IN STORE", "WHAT", "ALSO CALLED", "NOTE"))
    if others:
        cells = [(blob.label or "?", blob.format, ui.size(blob.size), blob.sha256) for blob in others]
        ui.emit()
        ui.table(cells, ("OTHER IMAGES IN THE STORE", "FORMAT", "SIZE", "SHA256"))


@app.command()
def add(
    image: Annotated[str, typer.Argument(metavar="FILE|URL", help="A disk image, also .xz, .gz or .zst.")],
    sha256: Annotated[str, typer.Option(metavar="HEX", help="The digest that the file must have.")] = "",
    format: Annotated[str, typer.Option(help="qcow2 or raw: what is inside.")] = "qcow2",
) -> None:
    """Take an image into the store, and say how a Devboxfile names it."""
    from devbox.box import catalogue
    from devbox.box import image as images
    from devbox.config.model import BoxRef

    if format not in {"qcow2", "raw"}:
        raise DevboxError("box.format", f"{format!r} is not qcow2 or raw.", exit_code=ExitCode.USAGE)
    digest = _digest(sha256) if sha256 else None
    is_url = "://" in image
    path = None if is_url else Path(image).absolute()
    ref = BoxRef(url=image if is_url else "", path=path, digest=digest, format=format)
    source = catalogue.locate(ref, _native())
    if digest:
        added = images.ensure(source)
    else:
        pinned = images.pin(source)
        added, digest = pinned.image, pinned.digest
        ui.warn("No digest was given: compare this one with what the publisher says.")
    more = "" if format == "qcow2" else f", format: {format}"
    ui.done(f"In the store: {added.path} ({ui.size(added.virtual_size)} disk)")
    where = json.dumps(image if is_url else os.path.abspath(image), ensure_ascii=False)  # noqa: PTH100
    ui.emit(f"box: {{{'url' if is_url else 'path'}: {where}, sha256: {digest.value}{more}}}")


@app.command()
def build(
    recipe: Annotated[str, typer.Argument(help="debian-12 or debian-13.")],
    arch: Annotated[str, typer.Option(help="x86_64 or aarch64; this computer's own if left out.")] = "",
) -> None:
    """Build a recipe's image from the distribution's own archive, unless it is in the store."""
    from devbox.box import catalogue
    from devbox.box import image as images
    from devbox.config.model import BoxRef

    source = catalogue.resolve(BoxRef(recipe=recipe), parse_arch(arch) if arch else _native())
    built = images.ensure(source)
    ui.done(f"In the store: {built.path} ({ui.size(built.virtual_size)} disk)")
    ui.emit(f"box: {{recipe: {recipe}}}")


@app.command()
def verify() -> None:
    """Hash every image in the store anew; set the damaged ones aside."""
    from devbox.box import store

    verdicts = store.verify_all()
    damaged = [verdict.blob for verdict in verdicts if not verdict.whole]
    if not damaged:
        layers = sum(bool(verdict.blob.parent) for verdict in verdicts)
        more = f" and {layers} layer{'s' if layers != 1 else ''}" if layers else ""
        images = len(verdicts) - layers
        ui.done(f"{images} image{'s' if images != 1 else ''}{more}, all whole.")
        return
    used = any(blob.links > 1 for blob in damaged)
    raise DevboxError(
        "box.corrupt",
        f"{len(damaged)} of {len(verdicts)} images are damaged and were set aside: "
        f"{', '.join(blob.label or blob.sha256[:12] for blob in damaged)}.",
        hint="They are fetched or built again when needed."
        + (" Machines made from them share the damage: make those anew." if used else ""),
    )


@app.command()
def prune(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    empty_trash: Annotated[bool, typer.Option("--trash", help="Give up destroyed machines first, for good.")] = False,
) -> None:
    """Remove the images that no machine uses, unfinished downloads and damaged files."""
    from devbox.box import prune as pruning
    from devbox.box.references import Uses
    from devbox.config import preferences
    from devbox.disk import holds, trash

    if not dry_run:
        trash.collect(0 if empty_trash else preferences.load().trash_days)
    _say_pruned(pruning.prune(Uses(*holds.of_machines()), dry_run=dry_run), dry_run=dry_run)


def parse_arch(text: str) -> Arch:
    try:
        return Arch(text)
    except ValueError:
        raise DevboxError(
            "box.arch", f"{text!r} is not an architecture: {' or '.join(Arch)}.", exit_code=ExitCode.USAGE
        ) from None


def _say_pruned(pruned: "Pruned", *, dry_run: bool) -> None:
    if pruned.removed:
        ui.table(
            [(item.what, item.name, ui.size(item.size)) for item in pruned.removed],
            ("WOULD BE REMOVED" if dry_run else "REMOVED", "NAME", "SIZE"),
        )
    count = f"{len(pruned.removed)} files, {ui.size(pruned.size)}"
    kept = f"; {len(pruned.kept)} stay (`devbox gc --dry-run` says why)" if pruned.kept else ""
    ui.done(f"{'Would free' if dry_run else 'Freed'} {count}{kept}.")


def _rows() -> list[_Row]:
    from devbox.box import catalogue, image, recipe, store
    from devbox.config.model import BoxRef

    def sha256(source: "Source") -> str | None:
        blob = store.find(image.source_key(source)) if source.digest or source.recipe else None
        return blob.sha256 if blob else None

    rows = []
    for box in catalogue.boxes():
        stored = {arch: sha256(source) for arch, source in box.sources.items()}
        pinned = all(source.digest for source in box.sources.values())
        rows.append(_Row(box.name, box.title, box.aliases, stored, pinned))
    for name in recipe.RECIPES:
        stored = {arch: sha256(catalogue.locate(BoxRef(recipe=name), arch)) for arch in Arch}
        rows.append(_Row(name, recipe.RECIPES[name].title, (), stored, pinned=True, recipe=True))
    return rows


def _blob(blob: "Blob") -> dict[str, object]:
    return {"label": blob.label, "format": blob.format, "size": blob.size, "sha256": blob.sha256}


def _native() -> Arch:
    from devbox.config import build, values

    return build.native(values.this_host().machine)


def _digest(text: str) -> Digest:
    value = text.strip().lower().removeprefix("sha256:")
    if not re.fullmatch(r"[0-9a-f]{64}", value):
        raise DevboxError("box.bad-digest", "A sha256 is 64 hexadecimal digits.", exit_code=ExitCode.USAGE)
    return Digest("sha256", value)
