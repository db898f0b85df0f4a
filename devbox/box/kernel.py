"""Kernel, initrd and command line of a box, taken out of its image once, so that its first boot needs no boot loader.

They lie in the store like everything that came in, under index keys made of the image's digest (`kernel-…`,
`initrd-…`, `cmdline-…`), and go when the image goes. Only for boxes whose traits name the boot loader entry to read.
What the image says is judged before it is used, and the tools that open it are bounded.
"""

import json
import os
import re
import struct
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from devbox import proc
from devbox.box import partial, store
from devbox.box.store import Blob, Image
from devbox.config.model import Arch
from devbox.errors import DevboxError

PARTS = ("kernel", "initrd", "cmdline")
_ESP = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b").bytes_le
_SECTOR = 512
_MOST_ESP = 2 << 30
_MOST = {"kernel": 128 << 20, "initrd": 512 << 20, "entry": 4096}
_MAGIC = {Arch.X86_64: (0x202, b"HdrS"), Arch.AARCH64: (0x38, b"ARM\x64")}
_PATH = re.compile(r"(/[A-Za-z0-9_+-][A-Za-z0-9._+-]*)+")
_CMDLINE = re.compile(r"root=(UUID=|PARTUUID=|LABEL=|/dev/)[A-Za-z0-9/_.:-]+( [A-Za-z0-9_.,:=/-]+)*")


@dataclass(frozen=True, slots=True)
class Kernel:
    kernel: Path
    initrd: Path
    cmdline: str


@dataclass(frozen=True, slots=True)
class Entry:
    """What a boot loader entry says: two paths on the EFI system partition, and the kernel's command line."""

    kernel: str
    initrd: str
    cmdline: str


def find(sha256: str) -> Kernel | None:
    """Those of the image with that digest, if they were taken out and are whole."""
    blobs = [store.find(f"{part}-{sha256}") for part in PARTS]
    kernel, initrd, cmdline = (blob.path if blob else None for blob in blobs)
    if not (kernel and initrd and cmdline):
        return None
    return Kernel(kernel, initrd, cmdline.read_text().strip())


def ensure(image: Image) -> Kernel | None:
    """Those of the image, taken out of it if need be; None for a box that is not started this way.

    Raises `box.kernel` where the image holds none that we understand, and `tool.missing`.
    """
    if not image.traits.entry:
        return None
    if known := find(image.sha256):
        return known
    with store.lock(f"kernel-{image.sha256}"):
        if known := find(image.sha256):
            return known
        _take(image)
    return find(image.sha256)


def _take(image: Image) -> None:
    with _aside(f"kernel-{image.sha256}") as aside:
        table = _copy(image, aside("table"), 0, 34 * _SECTOR).read_bytes()
        start, size = esp(table)
        partition = _copy(image, aside("esp"), start, size)
        text = _file(partition, f"/{image.traits.entry}", aside("entry"), _MOST["entry"])
        entry = parse(text.read_text(errors="replace"))
        made = {
            "kernel": _file(partition, entry.kernel, aside("kernel"), _MOST["kernel"]),
            "initrd": _file(partition, entry.initrd, aside("initrd"), _MOST["initrd"]),
            "cmdline": aside("cmdline"),
        }
        made["cmdline"].write_text(f"{entry.cmdline}\n")
        offset, magic = _MAGIC[image.traits.arch]
        with made["kernel"].open("rb") as file:
            if file.read(1024)[offset : offset + len(magic)] != magic:
                raise _unfit(f"{entry.kernel} is no kernel for {image.traits.arch}")
        for part in reversed(PARTS):  # the kernel last: the others mean nothing without it
            _publish(made[part], f"{part} of {image.traits.label} ({image.traits.arch})", f"{part}-{image.sha256}")


def _publish(file: Path, label: str, key: str) -> Blob:
    return store.publish_file(file, label=label, keys=[key])


def esp(table: bytes) -> tuple[int, int]:
    """Where the EFI system partition begins and how long it is, in bytes, by the disk's first 34 sectors. Pure."""
    if table[_SECTOR : _SECTOR + 8] != b"EFI PART":
        raise _unfit("it has no GUID partition table")
    for at in range(2 * _SECTOR, len(table) - 127, 128):
        if table[at : at + 16] == _ESP:
            first, last = struct.unpack_from("<QQ", table, at + 32)
            size = (last - first + 1) * _SECTOR
            if not 34 <= first <= last or size > _MOST_ESP:
                raise _unfit(f"its EFI system partition is absurd ({first} to {last})")
            return first * _SECTOR, size
    raise _unfit("it has no EFI system partition")


def parse(text: str) -> Entry:
    """A boot loader entry (the Boot Loader Specification's type 1), judged. Pure. Raises `box.kernel`."""
    said = dict(line.split(None, 1) for line in text.splitlines() if len(line.split(None, 1)) == 2)
    entry = Entry(*(said.get(word, "").strip() for word in ("linux", "initrd", "options")))
    if not (_PATH.fullmatch(entry.kernel) and _PATH.fullmatch(entry.initrd)):
        raise _unfit("its boot loader entry names no kernel and initrd")
    if len(entry.cmdline) > 1024 or not _CMDLINE.fullmatch(entry.cmdline):
        raise _unfit(f"its kernel command line is not understood: {entry.cmdline[:200]!r}")
    return entry


def _copy(image: Image, target: Path, start: int, size: int) -> Path:
    """A piece of the image's disk as a file, holes left out."""
    inside = {"driver": image.format, "file": {"driver": "file", "filename": os.fspath(image.path)}}
    source = json.dumps({"driver": "raw", "offset": start, "size": size, "file": inside})
    limits = proc.Limits(memory=4 << 30, file_size=size + (1 << 20), cpu_seconds=300)
    tool = proc.find_tool("qemu-img")
    done = proc.run([tool, "convert", "-O", "raw", f"json:{source}", target], timeout=600, limits=limits)
    if done.status != 0:
        raise _unfit("qemu-img cannot read it", done.error_text)
    return target


def _file(partition: Path, path: str, target: Path, most: int) -> Path:
    tool = proc.find_tool("mcopy", hint="Install it: apt install mtools")
    limits = proc.Limits(memory=1 << 30, file_size=most, cpu_seconds=60)
    environment = {"MTOOLSRC": os.devnull}
    done = proc.run([tool, "-n", "-i", partition, f"::{path}", target], timeout=120, limits=limits, env=environment)
    if done.status != 0 or not target.is_file():
        raise _unfit(f"{path} cannot be read from it", done.error_text)
    return target


@contextmanager
def _aside(key: str) -> Iterator["_Names"]:
    """Names for what is made, beside the other unfinished files of the store, and gone afterwards."""
    names = _Names(store.partial(key))
    names.sweep()
    try:
        yield names
    finally:
        names.sweep()


@dataclass(frozen=True, slots=True)
class _Names:
    part: Path

    def __call__(self, what: str) -> Path:
        return self.part.with_suffix(f".{what}")

    def sweep(self) -> None:
        for what in ("table", "esp", "entry", *PARTS):
            partial.discard(self(what))


def _unfit(why: str, details: str = "") -> DevboxError:
    return DevboxError("box.kernel", f"The image gives no kernel for a quick first boot: {why}.", details=details)
