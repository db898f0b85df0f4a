"""`disk` (internal): a data disk of the machine; its file system is made when it is blank, grown with it, and mounted
now and at every boot. One that holds anything else is never touched.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from shlex import quote
from typing import Any

from devbox.provision import fstab, inputs
from devbox.provision.facts import Facts
from devbox.provision.step import Action, Kind, Source, State


@dataclass(frozen=True, slots=True)
class Disk:
    """`serial` finds the device, `uuid` is the file system's, `size` the disk's in bytes, `owner` an account."""

    name: str
    serial: str
    uuid: str
    size: int
    path: str
    owner: str
    blank: bool = False  # this computer says so: the guest's own look alone is not enough to format it

    @property
    def sectors(self) -> str:
        return str(self.size // 512)

    @property
    def escaped(self) -> str:
        return fstab.escaped(self.path)

    @property
    def fstab(self) -> str:
        return f"UUID={self.uuid} {self.escaped} ext4 defaults,nofail 0 2"

    @property
    def words(self) -> str:
        """The shell variables that the scripts use."""
        pairs = {
            "name": self.name,
            "serial": self.serial,
            "uuid": self.uuid,
            "sectors": self.sectors,
            "path": self.path,
            "escaped": self.escaped,
            "owner": self.owner,
            "fstab": self.fstab,
            "blank": "1" if self.blank else "",
        }
        return "".join(f"{name}={quote(value)}\n" for name, value in pairs.items())


def parse(raw: Mapping[str, Any], source: Source) -> Disk:  # noqa: ARG001
    return Disk(**{**raw, "path": inputs.absolute(str(raw["path"]))})


# The serial ends without a line's end, so `read` fails although it has read it. The file `grown` says how large the
# disk was when its file system was last made as large as it.
_FIND = """device='' grown=$state/disk-$uuid
set +f
set -- /sys/block/*/serial
set -f
for file do
  word=''
  read -r word <"$file" 2>/dev/null || :
  [ "$word" != "$serial" ] || { device=${file#/sys/block/} device=/dev/${device%/serial}; }
done
"""

_PROBE = """[ -n "$device" ] || return 0
while read -r from to type rest; do
  [ "$from" != "$device" ] || [ "$to" != "$escaped" ] || field mounted "$type"
done </proc/mounts
while IFS= read -r line; do
  [ "$line" != "$fstab" ] || field fstab present
done </etc/fstab
if [ -r "$grown" ]; then read -r word <"$grown" && field sectors "$word"; fi
:"""


def probe(disk: Disk) -> str:
    return f"{disk.words}{_FIND}{_PROBE}"


def desired(disk: Disk, facts: Facts) -> State:  # noqa: ARG001
    return (("mounted", "ext4"), ("fstab", "present"), ("sectors", disk.sectors))


_APPLY = """
[ -n "$device" ] || fail "The data disk $name is not attached to the machine: devbox reload"
account "$owner" || fail "The account $owner does not exist."
! have modprobe || modprobe -q ext4 || :

# What is on it. 2: nothing that is known. BusyBox's blkid takes no -p, fails, and so nothing is touched.
have blkid || fail "The box has no blkid, so nothing can tell what the data disk $name holds: install util-linux."
# The kernel may have looked at another disk in this place: one that was there when its memory was saved.
grep -q "^$device " /proc/mounts || blockdev --flushbufs "$device"
found=$(blkid -p -o export "$device") && status=0 || status=$?
case $status in
  0) ;;
  2) found='' ;;
  *) fail "blkid cannot tell what the data disk $name ($device) holds (status $status), so it is left alone." ;;
esac
case "$nl$found$nl" in
  *"${nl}UUID=$uuid$nl"*) rm -f "$state/making-$uuid" ;;
  "$nl$nl")
    # What is left of a file system that was being made when the machine lost its power is no more than blank.
    making=$state/making-$uuid
    [ ! -e "$making" ] || blank=1
    filled=$(head -c 1048576 "$device" | tr -d '\\000' | wc -c)
    [ ! -e "$making" ] || filled=0
    [ "$filled" -eq 0 ] && [ -n "$blank" ] || fail "The data disk $name ($device) is not blank, so it is left alone."
    have mkfs.ext4 || fail "The box has no mkfs.ext4, which a data disk needs: install e2fsprogs."
    mkdir -p "$state"
    : >"$making"
    sync
    echo "Making a file system on the data disk $name ($device)"
    mkfs.ext4 -q -L "$name" -U "$uuid" -E "root_owner=$account_uid:$account_gid" "$device"
    printf '%s\\n' "$sectors" >"$grown"
    rm -f "$making"
    ;;
  *)
    kind=$(printf '%s\\n' "$found" | sed -n 's/^TYPE=//p; s/^PTTYPE=/partition table: /p' | head -n 1)
    fail "The data disk $name ($device) holds what devbox did not put there (${kind:-unknown}), so it is left alone."
    ;;
esac

here=''
while read -r from to rest; do
  if [ "$from" = "$device" ] && [ "$to" = "$escaped" ]; then here=1
  elif [ "$from" = "$device" ] || [ "$to" = "$escaped" ]; then umount "$(printf '%b' "$to")"; fi
done </proc/mounts
mkdir -p "$path"
[ -n "$here" ] || mount -t ext4 "$device" "$path"

word=''
[ ! -r "$grown" ] || read -r word <"$grown" || :
if [ "$word" != "$sectors" ]; then
  have resize2fs || fail "The box has no resize2fs, which a data disk needs: install e2fsprogs."
  resize2fs "$device"
  mkdir -p "$state"
  printf '%s\\n' "$sectors" >"$grown"
fi

replaced() { case $1 in *" $escaped "* | "UUID=$uuid "*) ;; *) return 1 ;; esac; }
"""


def apply(disk: Disk, facts: Facts) -> Action:  # noqa: ARG001
    return Action(f"{disk.words}{_FIND}{_APPLY}{fstab.REPLACE}".encode())


KIND = Kind(parse=parse, probe=probe, desired=desired, apply=apply)
