"""Makes a verified download into what is stored: unpacks .xz, .gz and .zst, and rewrites compressed qcow2 clusters.

Unpacking is streaming and bounded in size, ratio and memory; the digest of the result is computed while it is written.
Random reads through compressed clusters are 7 (zstd) to 16 (zlib) times slower, so images lie uncompressed.
"""

import gzip
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import zstandard

from devbox import fs, proc, ui
from devbox.box import partial, qcow2
from devbox.box.partial import Partial
from devbox.errors import DevboxError

KINDS = frozenset({"xz", "gzip", "zstd"})
MAX_SIZE = 64 << 30
MAX_RATIO = 200  # a sparse disk packs well, a bomb packs a thousandfold
_FREE = 1 << 30  # bytes for which the ratio is not looked at
_MEMORY = 512 << 20
_PIECE = 8 << 10
_QEMU_IMG = "Install QEMU's tools: apt install qemu-utils (Debian, Ubuntu), dnf install qemu-img, brew install qemu"


def unpack(packed: Path, target: Path, kind: str, *, name: str) -> str:
    """Writes the content of `packed` to `target`; its sha256. Raises `box.unpack`, `box.bomb`, `store.full`."""
    size = packed.stat().st_size
    bound = min(MAX_SIZE, max(_FREE, size * MAX_RATIO))
    partial.discard(target)
    with packed.open("rb") as file, Partial(target) as out, ui.transfer(f"Unpacking {name} ({kind})", size) as advance:
        told = 0
        try:
            for chunk in _chunks(file, kind):
                if out.size + len(chunk) > bound:
                    raise DevboxError(
                        "box.bomb", f"{name} unpacks to more than {ui.size(bound)}, which no image of its size does."
                    )
                out.write(chunk)
                advance(file.tell() - told)
                told = file.tell()
        except (lzma.LZMAError, EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
            raise DevboxError(
                "box.unpack", f"{name} cannot be unpacked: {error}.", details=f"format: {kind}"
            ) from error
        return out.digests()[0].value


def flatten(packed: Path, target: Path, header: qcow2.Header, *, name: str) -> qcow2.Header:
    """A copy of the qcow2 image without compressed clusters; returns its header. Raises `box.convert`, `store.full`."""
    qemu_img = proc.find_tool("qemu-img", hint=_QEMU_IMG)
    partial.discard(target)
    limits = proc.Limits(memory=4 << 30, file_size=header.virtual_size + (1 << 30), cpu_seconds=3600)
    with ui.step(f"Unpacking the clusters of {name}, so that the machine reads them faster"):
        # Out of order and 16 at once: 1.8 s for 700 MB where the defaults take 4.
        done = proc.run(
            (qemu_img, "convert", "-f", "qcow2", "-O", "qcow2", "-W", "-m", "16", packed, target),
            timeout=7200,
            limits=limits,
        )
        if done.status != 0:
            partial.discard(target)
            if "No space left" in done.error_text:
                raise partial.full(target.parent)
            raise DevboxError("box.convert", f"qemu-img cannot read the image {name}.", details=done.error_text)
    made = qcow2.inspect(target, "qcow2", name=name)
    if made.virtual_size != header.virtual_size:
        raise DevboxError("box.convert", f"qemu-img made another disk out of {name} than it holds.")
    return made


def _chunks(file: IO[bytes], kind: str) -> Iterator[bytes]:
    if kind == "xz":
        yield from _xz(file)
    elif kind == "zstd":
        yield from _zstd(file)
    else:
        with gzip.GzipFile(fileobj=file) as reader:
            while chunk := reader.read(fs.CHUNK):
                yield chunk


def _zstd(file: IO[bytes]) -> Iterator[bytes]:
    """By hand, since zstandard's reader takes the end of the file for the end of the data, wherever it comes.

    In small pieces: four bytes can stand for 128 KiB, and all that a piece stands for comes at once.
    """
    unpacker = zstandard.ZstdDecompressor(max_window_size=_MEMORY // 4)
    data = file.read(_PIECE)
    while data:
        frame = unpacker.decompressobj()
        while not frame.eof:
            if not data:
                raise EOFError("it ends in the middle")
            if chunk := frame.decompress(data):
                yield chunk
            data = frame.unused_data if frame.eof else file.read(_PIECE)
        data = data or file.read(_PIECE)


def _xz(file: IO[bytes]) -> Iterator[bytes]:
    """By hand, since LZMAFile knows no memory limit: a header may ask for a dictionary of 4 GiB."""
    decompressor = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_MEMORY)
    data = b""
    while True:
        if decompressor.eof:
            data = decompressor.unused_data.lstrip(b"\0") or file.read(fs.CHUNK).lstrip(b"\0")
            if not data:
                return
            decompressor = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_MEMORY)
        elif decompressor.needs_input:
            data = file.read(fs.CHUNK)
            if not data:
                raise EOFError("it ends in the middle")
        chunk = decompressor.decompress(data, fs.CHUNK)
        data = b""
        if chunk:
            yield chunk
