"""Archives of every usual sort, turned on this computer into one plain tar that any guest unpacks, and its manifest.

Only what stays inside: no absolute paths, no `..`, no devices, no links that lead out. Owners and times are dropped.
"""

import bz2
import gzip
import hashlib
import lzma
import posixpath
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from devbox import fs
from devbox.box import partial
from devbox.errors import DevboxError
from devbox.provision import tree
from devbox.provision.tree import File, Link, Tree

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.zst", ".tzst", ".tar.bz2", ".tbz2", ".zip")
_MOST = 32 << 30  # bytes that an archive may hold; a larger one is a mistake or a trap
_MTIME = 1_000_000_000
# RuntimeError is what zipfile says of encryption.
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, RuntimeError, gzip.BadGzipFile)


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    mode: int  # with its type
    size: int = 0
    target: str = ""  # of a link
    hard: bool = False
    data: IO[bytes] | None = None


def convert(archive: Path, out: Path, *, strip: int, name: str) -> Tree:
    """Writes `archive` as a plain tar without its first `strip` folders. Raises `download.archive`, `store.full`."""
    try:
        with partial.full_disk_told(out), tarfile.open(out, "w", format=tarfile.GNU_FORMAT) as tar:
            made = _Made(tar, strip)
            with _members(archive) as members:
                for member in members:
                    made.take(member)
        if not made.files and not made.links:
            raise _Refused(f"nothing of it is left without its first {strip} folders" if strip else "it is empty")
        return tree.of_entries(made.folders, made.files.values(), made.links.values())
    except (*_BROKEN, _Refused) as trouble:
        reason = str(trouble) if isinstance(trouble, _Refused) else f"it is damaged ({trouble})"
    except DevboxError as trouble:
        if trouble.id != "step.invalid":
            raise
        reason = trouble.message
    partial.discard(out)
    raise DevboxError("download.archive", f"{name} cannot be unpacked: {reason}.")


class _Refused(Exception):
    """A member that must not be unpacked."""


@dataclass(slots=True)
class _Made:
    tar: tarfile.TarFile
    strip: int
    folders: set[str] = field(default_factory=set)
    files: dict[str, File] = field(default_factory=dict)
    links: dict[str, Link] = field(default_factory=dict)
    size: int = 0

    def take(self, member: _Member) -> None:
        name = self._place(member.name)
        if not name:
            return
        info = tarfile.TarInfo(name)
        info.mtime, info.mode = _MTIME, 0o755
        parents = [name[:at] for at, letter in enumerate(name) if letter == "/"]
        if any(parent in self.links or parent in self.files for parent in parents):
            raise _Refused(f"{name} lies below a link or a file")
        self.folders.update(parents)
        if stat.S_ISDIR(member.mode):
            if name in self.links or name in self.files:
                raise _Refused(f"{name} is there twice, as different things")
            self.folders.add(name)
            info.type = tarfile.DIRTYPE
            self.tar.addfile(info)
            return
        if name in self.folders:
            raise _Refused(f"{name} is there twice, as different things")
        self.files.pop(name, None)
        self.links.pop(name, None)
        if member.hard:
            self._hard(info, member)
        elif stat.S_ISLNK(member.mode):
            self._link(info, member)
        elif stat.S_ISREG(member.mode) and member.data:
            self._file(info, member)
        else:
            raise _Refused(f"{name} is neither a file nor a folder nor a link")

    def _place(self, name: str) -> str:
        """The name without what is stripped; "" for what is left out with it."""
        if name.startswith("/") or "\0" in name:
            raise _Refused(f"{name} is an absolute path")
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise _Refused(f"{name} leads out of it")
        return "/".join(parts[self.strip :])

    def _hard(self, info: tarfile.TarInfo, member: _Member) -> None:
        target = self.files.get(self._place(member.target))
        if target is None:
            raise _Refused(f"{info.name} is a link to what is not in it")
        info.type, info.linkname = tarfile.LNKTYPE, target.name
        self.tar.addfile(info)
        self.files[info.name] = File(info.name, target.sha256, target.program)

    def _link(self, info: tarfile.TarInfo, member: _Member) -> None:
        end = posixpath.normpath(posixpath.join(posixpath.dirname(info.name), member.target))
        if not member.target or member.target.startswith("/") or end.split("/")[0] == "..":
            raise _Refused(f"{info.name} is a link to {member.target or 'nothing'}, out of it")
        info.type, info.linkname = tarfile.SYMTYPE, member.target
        self.tar.addfile(info)
        self.links[info.name] = Link(info.name, member.target)

    def _file(self, info: tarfile.TarInfo, member: _Member) -> None:
        assert member.data is not None
        self.size += member.size
        if self.size > _MOST:
            raise _Refused(f"it holds more than {_MOST >> 30} GiB")
        program = bool(member.mode & stat.S_IXUSR)
        info.size, info.mode = member.size, 0o755 if program else 0o644
        hashed = _Hashed(member.data)
        self.tar.addfile(info, hashed)
        self.files[info.name] = File(info.name, hashed.digest.hexdigest(), program)


class _Hashed:
    """A file that is hashed while it is read."""

    def __init__(self, data: IO[bytes]) -> None:
        self.digest = hashlib.sha256()
        self._data = data

    def read(self, count: int = -1) -> bytes:
        piece = self._data.read(count)
        self.digest.update(piece)
        return piece


class _Told:
    """A reader whose own error of damaged data, which no other module may know, becomes EOFError."""

    def __init__(self, reader: IO[bytes], error: type[Exception]) -> None:
        self._reader, self._error = reader, error

    def read(self, count: int = -1) -> bytes:
        try:
            return self._reader.read(count)
        except self._error as damage:
            raise EOFError(str(damage)) from damage


@contextmanager
def _members(archive: Path) -> Iterator[Iterator[_Member]]:
    with archive.open("rb") as file:
        start = file.read(6)
        file.seek(0)
        if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            with zipfile.ZipFile(file) as packed:
                yield _of_zip(packed)
        else:
            plain = _plain(file, start)
            with tarfile.open(fileobj=plain, mode="r|") as tar:
                yield _of_tar(tar)
            while plain.read(fs.CHUNK):  # to the end, where the sum is
                pass


def _plain(file: IO[bytes], start: bytes) -> Any:
    if start.startswith(b"\x1f\x8b"):
        return gzip.open(file)
    if start.startswith(b"BZh"):
        return _Told(bz2.open(file), OSError)
    if start == b"\xfd7zXZ\0":
        return lzma.open(file)
    if start.startswith(b"\x28\xb5\x2f\xfd"):
        import zstandard  # noqa: PLC0415 - 20 ms that other archives do not need

        reader = zstandard.ZstdDecompressor(max_window_size=1 << 31).stream_reader(file, read_size=fs.CHUNK)
        return _Told(reader, zstandard.ZstdError)
    return file


def _of_tar(tar: tarfile.TarFile) -> Iterator[_Member]:
    for info in tar:
        if info.isreg():
            yield _Member(info.name, stat.S_IFREG | info.mode, info.size, data=tar.extractfile(info))
        elif info.islnk():
            yield _Member(info.name, stat.S_IFREG, target=info.linkname, hard=True)
        elif info.issym():
            yield _Member(info.name, stat.S_IFLNK, target=info.linkname)
        else:
            yield _Member(info.name, stat.S_IFDIR if info.isdir() else stat.S_IFCHR)


def _of_zip(packed: zipfile.ZipFile) -> Iterator[_Member]:
    for info in packed.infolist():
        mode = info.external_attr >> 16
        if info.is_dir():
            yield _Member(info.filename, stat.S_IFDIR)
        elif stat.S_ISLNK(mode):
            yield _Member(info.filename, stat.S_IFLNK, target=packed.read(info).decode(errors="replace"))
        else:
            kind = stat.S_IFMT(mode) or stat.S_IFREG
            with packed.open(info) as data:
                yield _Member(info.filename, kind | stat.S_IMODE(mode), info.file_size, data=data)
