"""What the probe run tells of the guest: stable facts, which kinds and templates may use, and volatile ones, which
they may not. All of it is data from the guest, to be shown only through `ui.clean` and never to be executed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

ARCHES = MappingProxyType({"amd64": "x86_64", "arm64": "aarch64"})


@dataclass(frozen=True, slots=True)
class Facts:
    """Stable facts: no step of ours changes them. `names` is the closed set that templates see."""

    os: str = ""
    like: tuple[str, ...] = ()
    version: str = ""
    codename: str = ""
    arch: str = ""
    init: str = ""  # "systemd", "openrc" or ""
    manager: str = ""  # "apt", "dnf", "zypper", "apk", "pacman" or ""
    names: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Volatile:
    boot: str = ""


def from_lines(stable: Mapping[str, str], names: Mapping[str, Any]) -> Facts:
    """Facts from the guest's `field=value` lines and from what the host knows of the machine."""
    arch = stable.get("arch", "")
    facts = {name: stable.get(name, "") for name in ("os", "version", "codename", "init", "manager")}
    arch = ARCHES.get(arch, arch)
    system = {"id": facts["os"], "version": facts["version"], "codename": facts["codename"]}
    return Facts(
        **facts,
        arch=arch,
        like=tuple(stable.get("like", "").split()),
        names=MappingProxyType({**names, "arch": arch, "os": system}),
    )
