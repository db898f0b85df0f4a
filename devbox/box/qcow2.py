"""Reads and judges an image's header before any QEMU tool opens the file.

In: a file and the format it is declared to have. Out: a `Header`, or `box.unsafe` with the reason. Refused is
whatever could make QEMU read another file, or costs more than an honest image does. Never writes, never runs QEMU.
The layout is docs/interop/qcow2.txt of QEMU 10.0.
"""

import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

from devbox.errors import DevboxError

MAX_VIRTUAL = 16 << 40
_MAX_L1 = 32 << 20  # bytes; QEMU's own bound
_MAX_REFCOUNT_TABLE = 8 << 20  # bytes; QEMU's own bound
_MAX_SCAN = 64 << 20  # bytes of L2 tables that are read to look for compressed clusters
_MAX_EXTENSIONS = 64
_MAX_NAME = 1023  # bytes of a backing file's name; QEMU's own bound
_DIGEST = re.compile(r"[0-9a-f]{64}")
_OFFSET = 0x00FF_FFFF_FFFF_FE00  # the bits of an L1 entry that are an offset
_COMPRESSED_BYTES = frozenset(byte for byte in range(256) if byte & 0x40)  # bit 62 of an L2 entry, big endian

_MAGICS = (
    (b"QFI\xfb", "qcow2"),
    (b"KDMV", "VMDK"),
    (b"COWD", "VMDK"),
    (b"# Disk DescriptorFile", "VMDK descriptor"),
    (b"vhdxfile", "VHDX"),
    (b"conectix", "VHD"),
    (b"QED\0", "QED"),
    (b"WithoutFreeSpace", "Parallels"),
    (b"WithouFreSpacExt", "Parallels"),
    (b"LUKS\xba\xbe", "LUKS"),
    (b"Bochs Virtual HD Image", "Bochs"),
    (b"#!/bin/sh\n#V2.0 Format\n", "cloop"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
    (b"PK\x03\x04", "zip"),
)


@dataclass(frozen=True, slots=True)
class Header:
    """`compressed`: some clusters are (or may be), which makes random reads 7 to 16 times slower. `parent`: the sha256
    of what a layer stands on.
    """

    format: str
    virtual_size: int
    compressed: bool
    parent: str = ""


def sniff(path: Path) -> str:
    """What the file's first bytes say that it is: a name out of `_MAGICS`, or "" (nothing known, so maybe raw)."""
    with path.open("rb") as file:
        return _sniff(file.read(512))


def backing(path: Path) -> str:
    """The name of the file under it, as the header gives it; "" where there is none, or it is no qcow2 image."""
    try:
        with path.open("rb") as file:
            return _backing(file, file.read(512))
    except (OSError, struct.error):
        return ""


def _backing(file: IO[bytes], start: bytes) -> str:
    at, length = struct.unpack_from(">QI", start, 8)
    if _sniff(start) != "qcow2" or not at or not 0 < length <= _MAX_NAME:
        return ""
    file.seek(at)
    return file.read(length).decode(errors="replace")


def inspect(path: Path, format: str, *, name: str = "", parent: str = "") -> Header:
    """Raises `box.unsafe` (about `name`) when the file is not an honest image of that format, complete in itself, or
    standing on nothing but `parent`, a sha256, where it is a layer.
    """
    name = name or path.name
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(512)
        found = _sniff(start)
        if format == "raw":
            if found:
                _refuse(name, f"it is declared raw, but begins like {found}")
            if not 0 < size <= MAX_VIRTUAL or size % 512:
                _refuse(name, f"{size} bytes are not a disk's size")
            return Header("raw", size, compressed=False)
        if found != "qcow2":
            _refuse(name, f"it is {found or 'not a qcow2 image'}, and only qcow2 is taken here")
        try:
            _require(not parent or bool(_DIGEST.fullmatch(parent)), "what it is to stand on is no digest")
            return _qcow2(file, start, size, parent)
        except _Unsafe as reason:
            _refuse(name, str(reason), reason)
        except struct.error as short:
            _refuse(name, "its header is cut short", short)


class _Unsafe(Exception):
    pass


def _refuse(name: str, reason: str, cause: Exception | None = None) -> NoReturn:
    raise DevboxError("box.unsafe", f"The image {name} is refused: {reason}.") from cause


def _sniff(start: bytes) -> str:
    if start[64:68] == b"\x7f\x10\xda\xbe":
        return "VDI"
    return next((name for magic, name in _MAGICS if start.startswith(magic)), "")


def _require(fine: bool, reason: str) -> None:  # noqa: FBT001 - reads as the sentence it is
    if not fine:
        raise _Unsafe(reason)


def _qcow2(file: IO[bytes], start: bytes, size: int, parent: str) -> Header:
    version, at, length, cluster_bits, virtual, crypt, l1_count, l1_at, refs_at, refs_clusters, snapshots = (
        struct.unpack_from(">IQIIQIIQQII", start, 4)[:11]
    )
    _require(version in {2, 3}, f"qcow2 version {version} is unknown")
    if parent:
        _require(_backing(file, start) == parent, "it stands on another file than the layer that it was made on")
    else:
        _require(not at and not length, "it names a backing file, so it would read another file of this computer")
    _require(9 <= cluster_bits <= 21, f"clusters of 2^{cluster_bits} bytes are absurd")
    cluster = 1 << cluster_bits
    _require(0 < virtual <= MAX_VIRTUAL, f"a disk of {virtual} bytes is absurd")
    _require(crypt == 0, "it is encrypted")
    _require(snapshots == 0, "it holds internal snapshots (`qemu-img convert -O qcow2` makes a copy without them)")
    incompatible, header_length = _version3(start, cluster) if version == 3 else (0, 72)
    _extensions(file, header_length, cluster, layer=bool(parent))

    entry = 16 if incompatible & 16 else 8  # extended L2 entries
    per_table = cluster // entry
    needed = -(-virtual // (cluster * per_table))
    _require(needed <= l1_count <= _MAX_L1 // 8, f"its first table has {l1_count} entries where {needed} are needed")
    _require(_inside(l1_at, l1_count * 8, cluster, size), "its first table lies outside the file")
    _require(refs_clusters * cluster <= _MAX_REFCOUNT_TABLE, "its reference table is absurdly long")
    _require(_inside(refs_at, refs_clusters * cluster, cluster, size), "its reference table lies outside the file")
    file.seek(l1_at)
    table = file.read(needed * 8)
    compressed = _any_compressed(file, _l2_tables(table, cluster, size), cluster, entry)
    return Header("qcow2", virtual, compressed, parent)


def _version3(start: bytes, cluster: int) -> tuple[int, int]:
    """The incompatible features and the header's length, both judged."""
    incompatible, _compatible, _autoclear, refcount_order, length = struct.unpack_from(">QQQII", start, 72)
    _require(not incompatible & 4, "it keeps its data in another file")
    _require(not incompatible & 2, "it is marked as corrupt")
    _require(not incompatible & 1, "it was not closed properly (`qemu-img check -r all` repairs it)")
    _require(not incompatible & ~0b11111, f"it needs features that are unknown here ({incompatible:#x})")
    _require(refcount_order <= 6, "its reference counts are absurdly wide")
    _require(104 <= length <= min(cluster, 512) and length % 8 == 0, f"a header of {length} bytes is absurd")
    kind = start[104] if length >= 112 else 0
    _require(kind in {0, 1}, f"its clusters are compressed by an unknown method ({kind})")
    _require((kind != 0) == bool(incompatible & 8), "its header contradicts itself about compression")
    return incompatible, length


def _extensions(file: IO[bytes], at: int, cluster: int, *, layer: bool) -> None:
    forbidden = {
        0x44415441: "it names an external data file",
        0x0537BE77: "it is encrypted",
    }
    file.seek(0)
    area = file.read(cluster)
    for _ in range(_MAX_EXTENSIONS):
        if at + 8 > len(area):
            return
        kind, length = struct.unpack_from(">II", area, at)
        if kind == 0:
            return
        if kind == 0xE2792ACA:
            _require(layer, "it names a backing file's format")
            _require(area[at + 8 : at + 8 + length] in {b"qcow2", b"raw"}, "it stands on a file of another format")
        _require(kind not in forbidden, forbidden.get(kind, ""))
        at += 8 + (length + 7) // 8 * 8
        _require(at <= cluster, "a header extension is longer than the header")
    raise _Unsafe("it has too many header extensions")


def _inside(at: int, length: int, cluster: int, size: int) -> bool:
    return at >= cluster and at % cluster == 0 and at + length <= size


def _l2_tables(table: bytes, cluster: int, size: int) -> Iterator[int]:
    for (raw,) in struct.iter_unpack(">Q", table):
        at = raw & _OFFSET
        if at:
            _require(_inside(at, cluster, cluster, size), "its second tables lie outside the file: it is cut short")
            yield at


def _any_compressed(file: IO[bytes], tables: Iterator[int], cluster: int, entry: int) -> bool:
    budget, found = _MAX_SCAN, False
    for at in tables:
        if found or budget <= 0:
            found = True  # Too much to read: what may be compressed is treated as if it were.
            continue  # The remaining offsets are still judged.
        budget -= cluster
        file.seek(at)
        found = not _COMPRESSED_BYTES.isdisjoint(file.read(cluster)[::entry])
    return found
