"""`download`: a file from an address by its digest, put in its place or unpacked. This computer fetches it, so that a
guest needs neither network nor programs for it, and another machine gets it from here.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any
from urllib.parse import unquote, urlsplit

from devbox import fs
from devbox.box import partial
from devbox.provision import artefacts, inputs, tree
from devbox.provision.facts import Facts
from devbox.provision.kinds.file import File, put
from devbox.provision.kinds.file import probe as probe_file
from devbox.provision.kinds.file import reads as reads_file
from devbox.provision.step import Action, Kind, Reads, Source, State, invalid
from devbox.provision.tree import Stated

_CONTENT, _TAR, _MANIFEST = "content", "tree.tar", "manifest"
_IS_CALLED = "as in the archive"
_SECRET = re.compile(r"//[^/@]*@|[?#].*")  # of an address, what is not shown


@dataclass(frozen=True, slots=True)
class Download:
    """Either `file` (whose content is not used) or `folder` is where it goes."""

    url: str
    sha256: str
    file: File | None = None
    folder: str = ""
    stated: Stated = Stated()
    strip: int = 0

    @property
    def version(self) -> str:
        """Of what is unpacked: the archive, and what was left out of it."""
        return f"{self.sha256}-{self.strip}" if self.strip else self.sha256

    @property
    def title(self) -> str:
        return f"Fetching {_SECRET.sub('//', self.url, 1) if '@' in self.url else self.url.partition('?')[0]}"

    def made(self, suffix: str) -> Path:
        """What an archive is turned into on this computer."""
        return artefacts.path(f"{self.version}-{suffix}")


def parse(raw: Mapping[str, Any], source: Source) -> Download:
    url = raw["url"]
    base = Download(url, artefacts.digest(raw), stated=Stated(raw.get("owner", ""), raw.get("group", "")))
    if "path" in raw:
        if "strip" in raw:
            raise invalid("`strip` is for what is unpacked (`unpack`)")
        mode = inputs.mode(raw.get("mode"))
        return replace(base, file=File(inputs.absolute(raw["path"]), b"", mode, base.stated.owner, base.stated.group))
    if "mode" in raw:
        raise invalid("`mode` is for a file (`path`); programs of an archive stay programs")
    from devbox.provision import archive  # noqa: PLC0415 - 15 ms that a run without archives does not need

    name = unquote(urlsplit(url).path)
    if not name.lower().endswith(archive.SUFFIXES):
        known = ", ".join(archive.SUFFIXES)
        raise invalid(f"{name.rpartition('/')[2] or url} is not an archive that devbox can unpack ({known})")
    if source.user != "root":
        raise invalid("an archive is unpacked by root; say whose it is with `owner`")
    return replace(base, folder=inputs.absolute(raw["unpack"]), strip=raw.get("strip", 0))


def reads(download: Download) -> Reads:
    return reads_file(download.file) if download.file else Reads()


def _head(download: Download) -> str:
    key = hashlib.sha256(download.folder.encode()).hexdigest()[:16]
    return f'{tree.shell(download.folder, download.stated, _IS_CALLED)}manifest="$state/trees/{key}"\n'


_PROBE = """[ -r "$manifest" ] || return 0
tree=$(cat "$manifest")
field sha256 "${tree%%"$nl"*}"
tree=${tree#*"$nl"}
tree_state"""


def probe(download: Download) -> str:
    return probe_file(download.file) if download.file else _head(download) + _PROBE


def desired(download: Download, facts: Facts) -> State:  # noqa: ARG001
    if download.file:
        return (("type", "file"), ("sha256", download.sha256), *download.file.stated)
    return (("sha256", download.version), ("files", _IS_CALLED))


_UNPACK = """
[ -e "$incoming/tree.tar" ] && [ -e "$incoming/manifest" ] || stale
tree=$(cat "$incoming/manifest")
tree=${tree#*"$nl"}
tree_begin
tar -xf "$incoming/tree.tar" -C "$aside" || fail "The archive could not be unpacked in $dest; is the disk full?"
[ ! -r "$manifest" ] || tree_remove "$(cat "$manifest")"
tree_put
umask 077
[ -d "$state/trees" ] || mkdir -p "$state/trees"
cat "$incoming/manifest" >"$manifest.new"
mv -f "$manifest.new" "$manifest"
"""


def apply(download: Download, facts: Facts) -> Action:  # noqa: ARG001
    file = download.file
    if file is None:
        incoming = {_TAR: download.made("tar"), _MANIFEST: download.made("manifest")}
        return Action(f"{_head(download)}{_UNPACK}".encode(), incoming=incoming)
    words = f"path={quote(file.path)} sha256={download.sha256} content=$incoming/{_CONTENT}\n"
    return Action(f"{words}{put(file)}".encode(), incoming={_CONTENT: artefacts.path(download.sha256)})


def fetch(download: Download) -> None:
    whole = artefacts.ensure(download.url, download.sha256, title=download.title)
    if download.file:
        return
    from devbox.provision import archive  # noqa: PLC0415

    # Made anew each time, as nothing tells whether an old one is whole, and it is needed only when the guest differs.
    tar, manifest = download.made("tar"), download.made("manifest")
    with artefacts.making(tar.name) as part:
        name = unquote(urlsplit(download.url).path).rpartition("/")[2]
        found = archive.convert(whole, part, strip=download.strip, name=name)
        fs.publish(part, tar)
        with partial.full_disk_told(manifest):
            fs.write_atomic(manifest, f"{download.version}\n{found.manifest}\n".encode())


def identity(download: Download, facts: Facts) -> Any:  # noqa: ARG001
    """Without the address: whatever comes from another one has the same digest."""
    return replace(download, url="")


KIND = Kind(
    parse=parse, probe=probe, desired=desired, apply=apply, reads=reads, identity=identity, fetch=fetch
)  # fmt: skip
