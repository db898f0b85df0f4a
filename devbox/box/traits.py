"""What the later stages must know about an image (`Traits`) and where it comes from (`Source`): values only."""

from dataclasses import dataclass
from pathlib import Path

from devbox.config.model import Arch, Digest, Firmware


@dataclass(frozen=True, slots=True)
class Traits:
    """`user` is the vendor's login account ("" if unknown), `firmware` what the image boots by, `lacks` the folder
    types its kernel cannot mount ("9p", "virtiofs"), `cpu` the smallest CPU model it runs on under emulation.

    `entry` is set for boxes that the fast profile knows how to start (systemd 252 or newer, networkd): the boot loader
    entry on the EFI system partition that names kernel, initrd and command line.
    """

    label: str
    arch: Arch
    os: str = "unknown"
    user: str = ""
    firmware: tuple[Firmware, ...] = (Firmware.BIOS, Firmware.UEFI)
    lacks: frozenset[str] = frozenset()
    cpu: str = "max"
    entry: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """Exactly one of `url`, `path`, `recipe` is set. `digest` is of the published file, before any unpacking.

    `latest` is a moving address of the same box, only ever shown in a message: it has no digest.
    """

    traits: Traits
    url: str = ""
    path: Path | None = None
    recipe: str = ""
    packages: tuple[str, ...] = ()
    digest: Digest | None = None
    format: str = "qcow2"
    latest: str = ""

    @property
    def origin(self) -> str:
        return self.url or (str(self.path) if self.path else f"recipe {self.recipe}")
