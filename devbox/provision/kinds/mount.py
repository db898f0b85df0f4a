"""`mount` (internal): a synced folder of the host, by virtiofs or 9p; mounted now, and at every boot by fstab."""

from collections.abc import Mapping
from dataclasses import dataclass
from shlex import quote
from typing import Any

from devbox.provision import fstab, inputs
from devbox.provision.facts import Facts
from devbox.provision.step import Action, Kind, Source, State

_OPTIONS = {"9p": "trans=virtio,version=9p2000.L,msize=262144", "virtiofs": ""}


@dataclass(frozen=True, slots=True)
class Mount:
    tag: str
    path: str
    type: str  # "virtiofs" or "9p"
    readonly: bool = False

    @property
    def options(self) -> str:
        return ",".join(word for word in ("ro" if self.readonly else "rw", _OPTIONS[self.type]) if word)

    @property
    def escaped(self) -> str:
        return fstab.escaped(self.path)

    @property
    def fstab(self) -> str:
        return f"{self.tag} {self.escaped} {self.type} {self.options},nofail 0 0"


def parse(raw: Mapping[str, Any], source: Source) -> Mount:  # noqa: ARG001
    return Mount(raw["tag"], inputs.absolute(str(raw["path"])), str(raw["type"]), raw.get("readonly", False))


_PROBE = """while read -r from to type options rest; do
  [ "$to" = "$path" ] || continue
  found=$type mode=rw
  case ,$options, in *,ro,*) mode=ro ;; esac
done </proc/mounts
[ -z "$found" ] || { field mounted "$found"; field mode "$mode"; }
while IFS= read -r line; do
  [ "$line" != "$fstab" ] || field fstab present
done </etc/fstab
:"""


def probe(mount: Mount) -> str:
    return f"found='' path={quote(mount.escaped)} fstab={quote(mount.fstab)}\n{_PROBE}"


def desired(mount: Mount, facts: Facts) -> State:  # noqa: ARG001
    return (("mounted", mount.type), ("mode", "ro" if mount.readonly else "rw"), ("fstab", "present"))


_APPLY = """
mkdir -p "$path"
! have modprobe || modprobe -q -a $modules || :
mounted=''
while read -r from to rest; do [ "$to" != "$escaped" ] || mounted=1; done </proc/mounts
[ -z "$mounted" ] || umount "$path"
mount -t "$type" -o "$options" "$tag" "$path"
replaced() { case $1 in *" $escaped "*) ;; *) return 1 ;; esac; }
"""


def apply(mount: Mount, facts: Facts) -> Action:  # noqa: ARG001
    modules = "9p 9pnet_virtio" if mount.type == "9p" else "virtiofs"
    words = (
        f"path={quote(mount.path)} escaped={quote(mount.escaped)} type={mount.type} tag={quote(mount.tag)}\n"
        f"options={quote(mount.options)} fstab={quote(mount.fstab)} modules='{modules}'\n"
    )
    return Action(f"{words}{_APPLY}{fstab.REPLACE}".encode())


KIND = Kind(parse=parse, probe=probe, desired=desired, apply=apply)
