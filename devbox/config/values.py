"""The short forms of a Devboxfile (sizes, times, ports, folders, versions): text in, values out. Pure.

What the schema lets through may still not make sense; then `Mistake` is raised with a sentence about it.
"""

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from devbox.config.model import AutoPorts, Disk, Folder, FolderType, Port, SyncMode
from devbox.config.problems import show

_UNITS = {"B": 1} | {
    unit: base**power
    for power, letter in enumerate("KMGT", 1)
    for unit, base in ((f"{letter}iB", 1024), (f"{letter}B", 1000))
}
_UNITS["kB"] = 1000
_SIZE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)([kKMGT]i?B)\Z")
_LOOSE_SIZE = re.compile(r"\s*([0-9]{1,9}(?:\.[0-9]{1,3})?)\s*([kmgt])(i?)(b?)(?:ytes?)?\s*\Z", re.IGNORECASE)
_DURATION = re.compile(r"(?:([0-9]{1,4})h)?(?:([0-9]{1,5})m)?(?:([0-9]{1,6})s)?\Z")
_PORT = re.compile(r"(?:(?:\[([0-9a-fA-F:.]+)\]|((?:[0-9]+\.){3}[0-9]+)):)?(?:([0-9]+):)?([0-9]+)(?:/(tcp|udp))?\Z")
_SPECIFIER = re.compile(r"\s*(>=|<=|==|!=|>|<)\s*([0-9.]+)\s*\Z")
_MIB = 1 << 20
# Mounting over one of these would take the guest's own system away.
_GUESTS_OWN = frozenset(
    ("/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/proc", "/root", "/run", "/sbin", "/sys", "/usr", "/var")
)


class Mistake(ValueError):
    """A value that has the right form and makes no sense; its text is the sentence for it."""


def size(text: str) -> int:
    """`1.5GB` in bytes, rounded down to whole MiB, which is what machines and disks are made of."""
    found = _SIZE.match(text)
    if not found:
        raise Mistake(f"{show(text)} is not a size")
    count = int(float(found[1]) * _UNITS[found[2]]) // _MIB * _MIB
    if count > 1 << 50:
        raise Mistake(f"{show(text)} is more than any machine has")
    return count


def size_text(count: int) -> str:
    """Bytes as a Devboxfile would write them: `1536MiB`, `2GiB`."""
    mib = count // _MIB
    return f"{mib // 1024}GiB" if mib and mib % 1024 == 0 else f"{mib}MiB"


def duration(value: float | str) -> float:
    """Seconds for `90`, `"90s"`, `"1h30m"`."""
    if not isinstance(value, str):
        return float(value)
    found = _DURATION.match(value)
    if not found or not value:
        raise Mistake(f"{show(value)} is not a time")
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    total = hours * 3600 + minutes * 60 + seconds
    if not total:
        raise Mistake("must be more than nothing")
    return float(total)


def port(value: int | str | Mapping[str, Any]) -> Port:
    if not isinstance(value, Mapping):
        found = _PORT.match(str(value))
        if not found:
            raise Mistake(f"{show(value)} is not a port")
        six, four, host, guest, protocol = found.groups()
        bind = six or four or ""
        made = Port(int(guest), int(host) if host else None, bind or "127.0.0.1", protocol or "tcp")
    else:
        host = None if value.get("host", "auto") == "auto" else int(value["host"])
        made = Port(
            int(value["guest"]),
            host,
            value.get("bind", "127.0.0.1"),
            value.get("protocol", "tcp"),
            value.get("name", ""),
        )
    for number in (made.guest, made.host):
        if number is not None and not 1 <= number <= 65535:
            raise Mistake(f"a port is a number from 1 to 65535, not {number}")
    address(made.bind)
    if ":" in made.bind:
        raise Mistake(f"{show(made.bind)} is an IPv6 address, and QEMU forwards from IPv4 addresses only")
    return made


def auto_ports(value: bool | Mapping[str, Any]) -> AutoPorts | None:  # noqa: FBT001 - as it is written
    """The rules; None: no port is found and forwarded."""
    if not isinstance(value, Mapping):
        return AutoPorts() if value else None
    default = AutoPorts()
    first, last = _port_range(value.get("range", f"{default.first}-{default.last}"))
    ignore = tuple(_port_range(one) for one in value["ignore"]) if "ignore" in value else default.ignore
    return AutoPorts(ignore, first, last)


def _port_range(value: int | str) -> tuple[int, int]:
    first, _, last = str(value).partition("-")
    low, high = int(first), int(last or first)
    if not 1 <= low <= high <= 65535:
        raise Mistake(f"{show(value)} is not a range of ports: 1 to 65535, the smaller number first")
    return low, high


def disk(value: Mapping[str, Any], least: int) -> Disk:
    count = size(value["size"])
    if count < least:
        raise Mistake(f"must be at least {size_text(least)}, not `{value['size']}`")
    return Disk(value["name"], count, guest_folder(value["mount"]), value.get("fs", "ext4"))


def address(text: str) -> str:
    """The text, if it is an IP address."""
    if text == "127.0.0.1":
        return text
    try:
        ipaddress.ip_address(text)
    except ValueError:
        hint = "; did you mean `127.0.0.1`?" if text == "localhost" else ""
        raise Mistake(f"{show(text)} is not an IP address{hint}") from None
    return text


def folder(value: str | Mapping[str, Any], root: Path) -> Folder:
    """A shared folder; the host's path is made absolute and its links are followed, so that what is said is shared."""
    if isinstance(value, str):
        host_text, guest_text, *flag = value.split(":")
        value = {"host": host_text, "guest": guest_text, "readonly": flag == ["ro"]}
    return Folder(
        existing_folder(value["host"], root),
        guest_folder(value["guest"]),
        FolderType(value.get("type", "auto")),
        value.get("readonly", False),
        tuple(value.get("ignore", ())),
        SyncMode(value.get("mode", "push")),
    )


def host_path(text: str, root: Path) -> Path:
    """A path as the Devboxfile writes it, absolute and with its links followed."""
    path = Path.home() / text[2:] if text.startswith("~/") or text == "~" else root / text
    try:
        return path.resolve()
    except (OSError, RuntimeError) as trouble:
        raise Mistake(f"{show(text)} cannot be followed: {trouble}") from trouble


def existing_folder(text: str, root: Path) -> Path:
    path = host_path(text, root)
    if not path.is_dir():
        what = "is a file; a folder is needed" if path.exists() else "does not exist on this computer"
        raise Mistake(f"the folder {show(text)} {what}")
    return path


def existing_file(text: str, root: Path) -> Path:
    path = host_path(text, root)
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist on this computer"
        raise Mistake(f"the file {show(text)} {what}")
    return path


def guest_folder(text: str) -> PurePosixPath:
    path = PurePosixPath("/" + text.lstrip("/"))
    if ".." in path.parts:
        raise Mistake(f"{show(text)} has `..` in it; write the folder that is meant")
    if str(path) in _GUESTS_OWN:
        raise Mistake(
            f"a folder at {show(text)} would hide the machine's own; choose another place, such as `/workspace`"
        )
    return path


def fits(version: str, requires: str) -> bool:
    """Whether `version` (dotted numbers) is within `requires` (`>=0.3, <1`)."""
    return all(_fits_one(version, specifier) for specifier in requires.split(","))


def _fits_one(version: str, specifier: str) -> bool:
    found = _SPECIFIER.match(specifier)
    if not found:
        raise Mistake(f"{show(specifier)} is no comparison with a version")
    have, want = _numbers(version), _numbers(found[2])
    compare: dict[str, bool] = {
        ">=": have >= want,
        "<=": have <= want,
        "==": have == want,
        "!=": have != want,
        ">": have > want,
        "<": have < want,
    }
    return compare[found[1]]


def _numbers(version: str) -> tuple[int, ...]:
    parts = [int(part) for part in version.split(".") if part.isdecimal()]
    return tuple((*parts, 0, 0, 0, 0)[:4])


def slug(text: str, default: str = "project") -> str:
    """Text as a name: small letters, digits and `-`, at most 40."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-") or default


def likely(form: str, value: Any) -> str:
    """What was probably meant by a value that is not of that form; "" where nothing is likely."""
    guess = _GUESSES.get(form)
    return guess(value) if guess and isinstance(value, str | int | float) and not isinstance(value, bool) else ""


def _likely_size(value: Any) -> str:
    if not isinstance(value, str) or value.strip().isdecimal():
        # Vagrant and QEMU count memory in MiB, disks are thought of in GiB.
        number = int(value)
        return f"{number}MiB" if number >= 128 else f"{number}GiB" if number > 0 else ""
    found = _LOOSE_SIZE.match(value)
    if not found:
        return ""
    # `2G` and `2gb` are meant as the binary unit by nearly everyone who writes them; `2GB` is a size already.
    return f"{found[1]}{found[2].upper()}iB"


_GUESSES: dict[str, Callable[[Any], str]] = {
    "size": _likely_size,
    "slug": lambda value: slug(str(value), ""),
    "guest-path": lambda value: f"/{value}" if re.match(r"[\w.]", str(value)) else "",
    "requires": lambda value: f'">={value}"' if re.match(r"[0-9]+(\.[0-9]+)*\Z", str(value)) else "",
    "folder": lambda value: f"{value}:/workspace" if ":" not in str(value) else "",
}


@dataclass(frozen=True, slots=True)
class Host:
    """What this computer has, as far as a Devboxfile may ask for it; memory in bytes."""

    machine: str
    cpus: int
    memory: int


def this_host() -> Host:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Host(os.uname().machine, os.cpu_count() or 1, memory)
