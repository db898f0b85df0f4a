"""Box name and architecture in, `Source` out, from `boxes/*.yaml` and the recipes. Reads files; downloads nothing."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from devbox import paths
from devbox.box import recipe
from devbox.box.traits import Source, Traits
from devbox.config import document
from devbox.config.model import Arch, BoxRef, Digest, Firmware
from devbox.errors import DevboxError, ExitCode


@dataclass(frozen=True, slots=True)
class Box:
    """One catalogue file: what it is called and what each architecture's image is."""

    name: str
    title: str
    aliases: tuple[str, ...]
    sources: Mapping[Arch, Source]


def resolve(ref: BoxRef, arch: Arch, pinned: Digest | None = None) -> Source:
    """Where the image asked for comes from. `pinned` is what Devboxfile.lock holds for it.

    Raises `box.unknown`, `box.no-arch` and, for an image without any digest, `box.unpinned`.
    """
    source = locate(ref, arch)
    if source.recipe or source.digest:
        return source
    if pinned is None:
        raise DevboxError(
            "box.unpinned",
            f"The image {ref} has no digest, so nothing proves that it is the one you mean.",
            hint="Fetch it once and write its digest down: devbox lock",
        )
    return _with_digest(source, pinned)


def locate(ref: BoxRef, arch: Arch) -> Source:
    """As `resolve`, but an image without a digest is let through: for `devbox lock`, which makes one."""
    if ref.name:
        source = _named(ref.name, arch)
        return _with_digest(source, ref.digest) if ref.digest else source
    if ref.recipe:
        if ref.recipe not in recipe.RECIPES:
            raise _unknown(ref.recipe, tuple(recipe.RECIPES), "recipe")
        return Source(recipe.traits(ref.recipe, arch), recipe=ref.recipe, packages=ref.packages)
    name = Path(urlsplit(ref.url).path).name if ref.url else (ref.path or Path()).name
    return Source(foreign(name or "image", arch), url=ref.url, path=ref.path, digest=ref.digest, format=ref.format)


def foreign(label: str, arch: Arch) -> Traits:
    """What is assumed of an image that no catalogue describes: nothing that could make a first boot fail."""
    firmware = (Firmware.BIOS, Firmware.UEFI) if arch is Arch.X86_64 else (Firmware.UEFI,)
    return Traits(label, arch, firmware=firmware, lacks=frozenset({"9p", "virtiofs"}))


def boxes() -> tuple[Box, ...]:
    """The whole catalogue, by name."""
    return tuple(_load(path) for path in sorted(paths.resource_dir("boxes").glob("*.yaml")))


def names() -> tuple[str, ...]:
    """Every name that `box:` takes, aliases included."""
    return tuple(sorted({name for box in boxes() for name in (box.name, *box.aliases)}))


def _named(name: str, arch: Arch) -> Source:
    # A name is a file's name, so that the usual case reads one file; only an alias needs them all.
    file = paths.resource_dir("boxes") / f"{name}.yaml"
    if name.strip(".") and "/" not in name and file.is_file():
        box = _load(file)
    else:
        every = boxes()
        found = next((box for box in every if name in box.aliases), None)
        if found is None:
            raise _unknown(name, tuple(alias for box in every for alias in (box.name, *box.aliases)), "box")
        box = found
    if arch not in box.sources:
        raise DevboxError(
            "box.no-arch",
            f"The box {box.name} has no image for {arch}, only for {', '.join(box.sources)}.",
            hint="See which boxes there are: devbox box list",
            exit_code=ExitCode.USAGE,
        )
    return box.sources[arch]


def _unknown(name: str, known: tuple[str, ...], what: str) -> DevboxError:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    guess = f" Did you mean {close[0]}?" if close else ""
    return DevboxError(
        "box.unknown",
        f"There is no {what} called {name!r}.{guess}",
        hint="See which there are: devbox box list",
        exit_code=ExitCode.USAGE,
    )


def _load(path: Path) -> Box:
    """A file of ours, held to schemas/box.schema.json by a test, so not checked again at each start."""
    text = document.load_plain(path)
    sources = {Arch(arch): _source(path.stem, text, Arch(arch), image) for arch, image in text["images"].items()}
    return Box(path.stem, text["title"], tuple(text.get("aliases", ())), sources)


def _source(name: str, box: Mapping[str, Any], arch: Arch, image: Mapping[str, Any]) -> Source:
    traits = Traits(
        label=name,
        arch=arch,
        os=box["os"],
        user=box["user"],
        firmware=tuple(Firmware(word) for word in image["firmware"]),
        lacks=frozenset(box.get("lacks", ())),
        cpu=image.get("cpu", "max"),
    )
    digest = Digest(*image["digest"].split(":")) if "digest" in image else None
    return Source(traits, url=image["url"], digest=digest, format=image["format"], latest=image.get("latest", ""))


def _with_digest(source: Source, digest: Digest) -> Source:
    return Source(
        source.traits,
        url=source.url,
        path=source.path,
        digest=digest,
        format=source.format,
        latest=source.latest,
    )
