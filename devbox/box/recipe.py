"""Recipes: a real cloud image built from a distribution's own package archive, where no image can be downloaded.

`inputs_digest` names what a recipe makes by what goes into it, not by when or from which mirror: an image that was
built once is found again. `build` makes it anew. Only Debian has recipes, by one mmdebstrap call (box/bootstrap.py).
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from devbox.box import bootstrap
from devbox.box.traits import Traits
from devbox.config.model import Arch, Firmware
from devbox.errors import DevboxError, ExitCode

_REVISION = 1  # to be raised when this module or bootstrap.py makes another image of the same inputs
_TREE = bootstrap.SCRIPTS / "debian"
_PACKAGES = (
    "ca-certificates",
    "cloud-guest-utils",
    "cloud-init",
    "dbus",
    "e2fsprogs",
    "fdisk",
    "init",
    "iproute2",
    "iputils-ping",
    "kmod",
    "less",
    "libpam-systemd",
    "linux-image-cloud-{debian_arch}",
    "nano",
    "netbase",
    "openssh-server",
    "procps",
    "python3",
    "rsync",
    "sudo",
    "systemd-boot-efi",
    "systemd-resolved",
    "systemd-timesyncd",
    "tzdata",
    "udev",
    "zstd",
)


@dataclass(frozen=True, slots=True)
class Recipe:
    title: str
    suite: str
    packages: tuple[str, ...] = _PACKAGES


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "debian-12": Recipe("Debian 12, built here from Debian's archive", "bookworm"),
        "debian-13": Recipe("Debian 13, built here from Debian's archive", "trixie"),
    }
)


def traits(name: str, arch: Arch) -> Traits:
    return Traits(
        label=f"{name} (recipe)",
        arch=arch,
        os="debian",
        firmware=(Firmware.BIOS, Firmware.UEFI) if arch is Arch.X86_64 else (Firmware.UEFI,),
        lacks=frozenset({"9p"}),
        cpu="qemu64" if arch is Arch.X86_64 else "max",
        # Written by recipes/debian/usr/local/sbin/boot-sync. Debian 13 started this way has had no network yet.
        entry="loader/entries/devbox.conf" if name == "debian-12" else "",
    )


def inputs_digest(name: str, arch: Arch, packages: tuple[str, ...]) -> str:
    """What the image is known by: everything that decides what is in it, but for the day and the mirror."""
    made = plan(name, arch, packages)
    value = {
        "revision": _REVISION,
        "suite": made.suite,
        "arch": made.arch.value,
        "variant": made.variant,
        "packages": sorted(made.packages),
        "sizes": [made.disk_mib, made.esp_mib],
        "left out": made.leave_out,
        "environment": dict(made.environment),
        "files": {path: [mode, hashlib.sha256(data).hexdigest()] for path, (mode, data) in made.files.items()},
        "scripts": [made.script, bootstrap.disk_script()],
    }
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def build(name: str, arch: Arch, packages: tuple[str, ...], target: Path) -> None:
    """Build the image into the file `target`, an uncompressed qcow2. The errors are `bootstrap.make`'s."""
    bootstrap.make(plan(name, arch, packages), target)


def plan(name: str, arch: Arch, packages: tuple[str, ...]) -> bootstrap.Plan:
    recipe = RECIPES[name]
    wrong = [package for package in packages if not re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", package)]
    if wrong:
        raise DevboxError(
            "recipe.package",
            f"This is not the name of a Debian package: {wrong[0]!r}.",
            hint="A recipe's `packages` are names alone, such as `git`; a `packages:` step takes versions too.",
            exit_code=ExitCode.USAGE,
        )
    time = "about two minutes" if arch.value == os.uname().machine else "emulated, ten minutes or more"
    own = tuple(package.format(debian_arch=bootstrap.DEBIAN_ARCH[arch]) for package in recipe.packages)
    return bootstrap.Plan(
        title=f"Building the box {name} ({arch}) from Debian's archive, once: {time}",
        suite=recipe.suite,
        arch=arch,
        variant="apt",
        packages=(*own, *packages),
        files=_files(),
        script=(bootstrap.SCRIPTS / "debian.sh").read_text(),
        environment={"DEVBOX_CONSOLE": "ttyS0,115200" if arch is Arch.X86_64 else "ttyAMA0"},
    )


def _files() -> dict[str, tuple[int, bytes]]:
    """The files of `recipes/debian` by their path in the guest; scripts are executable, whatever a wheel made of it."""
    found = {}
    for path in sorted(_TREE.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            found[f"/{path.relative_to(_TREE)}"] = (0o755 if data.startswith(b"#!") else 0o644, data)
    return found
