"""Projects, images and records for the tests of this stage and of those that stand on it."""

import hashlib
from pathlib import Path

from devbox import proc
from devbox.box.store import Image
from devbox.box.traits import Traits
from devbox.config.model import Arch, BoxRef, Firmware, MachineSpec, Project
from devbox.disk import record as records
from devbox.disk.record import Record

MIB = 1 << 20
RECORD = Record(
    id="0123456789ab",
    project=Path("/p"),
    device=1,
    inode=2,
    name="one",
    machine="default",
    arch=Arch.X86_64,
    image="a" * 64,
    image_format="qcow2",
    image_label="tiny",
    os="debian",
    lacks=(),
    firmware=Firmware.BIOS,
    cpu="max",
    machine_type="q35",
    disk_size=1 << 30,
    uuid="u",
    mac="52:54:00:00:00:01",
    user="dev",
    uid=1000,
    gid=1000,
    host_key="k",
    created="2026-01-01T00:00:00+00:00",
)


def project(root: Path, *, disk: int = 64 * MIB, arch: Arch = Arch.X86_64) -> Project:
    root.mkdir(parents=True, exist_ok=True)
    machine = MachineSpec(name="default", boxes={arch: BoxRef(name="tiny")}, arch=arch, disk=disk, hostname="tiny")
    return Project(root=root, name="tiny", machine=machine)


def image(folder: Path, *, size: int = 8 * MIB, format: str = "qcow2", os: str = "debian") -> Image:
    """A real, empty image of `size` bytes, read-only as the store's are."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"blob.{format}"
    done = proc.run([proc.find_tool("qemu-img"), "create", "-q", "-f", format, path, str(size)], timeout=60)
    assert done.status == 0, done.error_text
    path.chmod(0o444)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    traits = Traits(label="tiny", arch=Arch.X86_64, os=os, lacks=frozenset({"virtiofs", "9p"}))
    return Image(sha256=sha256, path=path, format=format, virtual_size=size, traits=traits)


def record(tmp_path: Path, *, disk: int = 64 * MIB) -> tuple[Record, Image]:
    made = image(tmp_path / "store")
    return records.ensure(project(tmp_path / "project", disk=disk), made, Firmware.BIOS), made
