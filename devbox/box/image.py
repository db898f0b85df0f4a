"""The stage's public function: a `Source` in, a verified, stored `Image` out, made only if it is not there.

Look → lock → look again → make aside → verify → publish. Whatever a kill leaves behind is found or made again.
"""

import hashlib
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from devbox import fs, ui
from devbox.box import online, partial, qcow2, recipe, store
from devbox.box.partial import Partial
from devbox.box.store import Blob, File, Image
from devbox.box.traits import Source
from devbox.config.model import Digest
from devbox.errors import DevboxError, ExitCode

_MAX_FILE = 64 << 30


@dataclass(frozen=True, slots=True)
class Pinned:
    """An image that came without a digest, and the digest and size of the file it came as."""

    image: Image
    digest: Digest
    size: int


def ensure(source: Source) -> Image:
    """The image, from the store if it is there, else fetched, copied or built. `source` has a digest or is a recipe."""
    name = source_key(source)
    found = _found(name, source)
    if found and not partial.is_left(store.partial(name)):
        return found
    with store.lock(name):
        if found := _found(name, source):
            _discard(store.partial(name))  # a kill came between publishing and this
            return found
        blob, _ = _make(source, name)
        return _image(blob, source)


def pin(source: Source) -> Pinned:
    """Fetch or copy an image without a digest, and say which it has: for `devbox lock` and `devbox box add`."""
    name = f"new-{hashlib.sha256(source.origin.encode()).hexdigest()}"
    with store.lock(name):
        blob, came = _make(source, name)
    return Pinned(_image(blob, source), came.digests[0], came.size)


def stored(key: str, source: Source) -> Image | None:
    """The image that is in the store under this key, by which `source` is known or was."""
    return _found(key, source)


def file_of(source: Source) -> File | None:
    """The file that a stored image came as; None where the store does not know (any more)."""
    return store.came_as(source_key(source))


def source_key(source: Source) -> str:
    """The name under which the store finds what this source becomes."""
    if source.recipe:
        return f"recipe-{recipe.inputs_digest(source.recipe, source.traits.arch, source.packages)}"
    if source.digest is None:
        raise DevboxError("box.unpinned", f"The image {source.origin} has no digest.", hint="devbox lock")
    return store.key(source.digest)


def identity(source: Source) -> str:
    """Names what this source asks for: its digest, or that of what goes into a recipe; "" where there is none."""
    if source.recipe:
        return source_key(source).replace("-", ":", 1)
    return str(source.digest) if source.digest else ""


@dataclass(frozen=True, slots=True)
class _Came:
    """What arrived as the partial file: the sha256 first among its digests."""

    size: int
    digests: tuple[Digest, ...]


def _found(name: str, source: Source) -> Image | None:
    blob = store.find(name)
    if blob is None:
        return None
    found = _image(blob, source)
    return replace(found, source=name.replace("-", ":", 1)) if source.recipe else found  # of an older devbox, maybe


def _image(blob: Blob, source: Source) -> Image:
    if blob.format != source.format:
        raise DevboxError(
            "box.format",
            f"The image {source.traits.label} is {blob.format}, but is declared to be {source.format}.",
            hint=f"Write `format: {blob.format}` for this box",
            exit_code=ExitCode.USAGE,
        )
    return Image(blob.sha256, blob.path, blob.format, blob.virtual_size, source.traits, identity(source))


def _make(source: Source, name: str) -> tuple[Blob, _Came]:
    part = store.partial(name)
    came = _bring(source, part)
    keys = [name] if source.recipe else [store.key(digest) for digest in came.digests]
    try:
        blob = _finish(source, part, came, keys)
    except DevboxError as trouble:
        if trouble.id != "store.full":  # the download itself is fine and need not come again
            _discard(part)
        raise
    _discard(part)
    return blob, came


def _discard(part: Path) -> None:
    for each in (_unpacked(part), _flat(part), part):  # the one that `is_left` looks for is the last to go
        partial.discard(each)


def _unpacked(part: Path) -> Path:
    return part.with_suffix(".unpacked")


def _flat(part: Path) -> Path:
    return part.with_suffix(".flat")


def _bring(source: Source, part: Path) -> _Came:
    """The published file, or what the recipe makes, as the partial file, verified by its digest if there is one."""
    if source.recipe:
        online.require(f"The image of the recipe {source.recipe} ({source.traits.arch})")
        partial.discard(part)
        recipe.build(source.recipe, source.traits.arch, source.packages, part)
        return _Came(part.stat().st_size, (Digest("sha256", fs.sha256_file(part)),))
    if source.path:
        return _copy(source.path, part, source.digest)
    # httpx costs 80 ms, and nearly every `up` finds its image here.
    from devbox.box import download, elsewhere  # noqa: PLC0415

    title = f"Fetching {source.traits.label} ({source.traits.arch}) from {urlsplit(source.url).hostname}"
    try:
        got = elsewhere.fetch(source.url, part, source.digest, title=title, otherwise=download.ADD)
    except DevboxError as trouble:
        if trouble.id == "download.gone" and source.latest:
            trouble.hint = (
                f"Publishers remove old builds. Their newest one: box: {{url: {source.latest}}}, then devbox lock"
            )
        raise
    return _Came(got.size, got.digests)


def _copy(path: Path, part: Path, digest: Digest | None) -> _Came:
    """A copy, since the file may change under us; it is hashed on the way."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # never wait for a FIFO's writer
    except OSError as trouble:
        raise DevboxError(
            "box.file", f"The image {path} cannot be read: {trouble.strerror}.", exit_code=ExitCode.USAGE
        ) from trouble
    # Without a digest both: whoever adds a file by hand may mean a box that is published under its sha512.
    both = digest is None or digest.algorithm == "sha512"
    algorithms = ("sha256", "sha512") if both else ("sha256",)
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode) or info.st_size > _MAX_FILE:
        os.close(fd)
        raise DevboxError("box.file", f"{path} is not an image's file.", exit_code=ExitCode.USAGE)
    with os.fdopen(fd, "rb", buffering=0) as file, Partial(part, algorithms) as out:
        partial.require_space(part.parent, info.st_size)
        out.keep(0)
        with ui.transfer(f"Reading {path}", info.st_size) as advance:
            while chunk := file.read(fs.CHUNK):
                out.write(chunk)
                advance(len(chunk))
        came = _Came(out.size, out.digests())
    if digest and digest not in came.digests:
        partial.discard(part)
        got = next(each for each in came.digests if each.algorithm == digest.algorithm)
        raise DevboxError("box.digest", f"{path} is not the image asked for: it is {got}, and {digest} was expected.")
    return came


def _finish(source: Source, part: Path, came: _Came, keys: Sequence[str]) -> Blob:
    """From a verified file to the stored one: unpacked, judged, without compressed clusters, under its own sha256."""
    label = f"{source.traits.label} ({source.traits.arch})"
    unpacked, flat = _unpacked(part), _flat(part)
    made, sha256 = part, came.digests[0].value
    try:
        kind = qcow2.sniff(part)
        if kind in {"xz", "gzip", "zstd"}:
            from devbox.box import unpack  # noqa: PLC0415 - zstandard, needed by few images only

            made, sha256 = unpacked, unpack.unpack(part, unpacked, kind, name=label)
        header = qcow2.inspect(made, source.format, name=label)
        if header.compressed:
            from devbox.box import unpack  # noqa: PLC0415

            header = unpack.flatten(made, flat, header, name=label)
            made, sha256 = flat, fs.sha256_file(flat)
        came_as = File(came.digests[0].value, came.size)
        return store.publish(made, sha256, header, label=label, keys=keys, came_as=came_as)
    finally:
        partial.discard(unpacked)
        partial.discard(flat)
