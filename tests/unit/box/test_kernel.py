"""Kernels are taken out of a real disk with a real FAT file system, by the tools that devbox itself uses."""

import os
import struct
import subprocess
from pathlib import Path

import pytest

from devbox.box import kernel, qcow2, store
from devbox.box.kernel import Entry
from devbox.box.store import Image
from devbox.box.traits import Traits
from devbox.config.model import Arch
from devbox.errors import DevboxError
from tests.unit.box.conftest import sha256

CMDLINE = "root=UUID=1c396d25-3933-42c3-bf54-df00b340c351 ro console=tty0 console=ttyS0,115200"
ENTRY = f"title Debian\nlinux /devbox/6.1.0-56/vmlinuz\ninitrd /devbox/6.1.0-56/initrd.img\noptions {CMDLINE}\n"
KERNEL = bytes(0x202) + b"HdrS" + bytes(3000)
INITRD = b"\x1f\x8b an initrd, not a multiple of a sector"


def image(
    folder: Path, files: dict[str, bytes], *, arch: Arch = Arch.X86_64, entry: str = "loader/entries/d.conf"
) -> Image:
    """A qcow2 disk as the recipes write them: the EFI system partition first."""
    tree, disk, esp = folder / "tree", folder / "disk", folder / "esp"
    for name, data in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(data)
    esp.touch()
    os.truncate(esp, 8 << 20)
    disk.touch()
    os.truncate(disk, 12 << 20)
    table = "label: gpt\nstart=2048, size=8MiB, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B\nsize=1MiB\n"
    subprocess.run(["/usr/sbin/sfdisk", "-q", disk], input=table.encode(), check=True)
    subprocess.run(["/usr/sbin/mkfs.vfat", "-h", "2048", esp], check=True, capture_output=True)
    for top in tree.iterdir():
        subprocess.run(["mcopy", "-s", "-i", esp, top, "::/"], check=True)
    with disk.open("r+b") as file:
        file.seek(1 << 20)
        file.write(esp.read_bytes())
    made = folder / 'a, "disk".qcow2'
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", disk, made], check=True)
    return Image(sha256(made.read_bytes()), made, "qcow2", 12 << 20, Traits("box", arch, entry=entry))


def whole(**changes: bytes) -> dict[str, bytes]:
    files = {
        "loader/entries/d.conf": ENTRY.encode(),
        "devbox/6.1.0-56/vmlinuz": KERNEL,
        "devbox/6.1.0-56/initrd.img": INITRD,
    }
    return {**files, **{name.replace("__", "/"): data for name, data in changes.items()}}


def test_they_are_taken_out_once_and_found_by_the_image(tmp_path: Path) -> None:
    made = image(tmp_path, whole())
    assert kernel.find(made.sha256) is None
    known = kernel.ensure(made)
    assert known is not None
    assert (known.kernel.read_bytes(), known.initrd.read_bytes(), known.cmdline) == (KERNEL, INITRD, CMDLINE)
    assert not list(store.folder("partial").iterdir())
    made.path.unlink()
    assert kernel.ensure(made) == known == kernel.find(made.sha256)
    assert all(verdict.whole for verdict in store.verify_all())
    assert kernel.find(made.sha256) == known


def test_a_damaged_one_is_never_used(tmp_path: Path) -> None:
    made = image(tmp_path, whole())
    known = kernel.ensure(made)
    assert known is not None
    known.initrd.chmod(0o644)
    known.initrd.write_bytes(b"another initrd")
    assert kernel.find(made.sha256) is None
    assert kernel.ensure(made) == known
    assert known.initrd.read_bytes() == INITRD


def test_a_box_without_an_entry_is_not_even_opened() -> None:
    assert kernel.ensure(Image("0" * 64, Path("/nowhere"), "qcow2", 1, Traits("box", Arch.X86_64))) is None


@pytest.mark.parametrize(
    ("files", "arch"),
    [
        ({"devbox/6.1.0-56/vmlinuz": b"#!/bin/sh"}, Arch.X86_64),
        ({}, Arch.AARCH64),
        ({"loader/entries/d.conf": ENTRY.replace("/vmlinuz", "/nothing").encode()}, Arch.X86_64),
        ({"loader/entries/d.conf": b"x" * 5000}, Arch.X86_64),
    ],
    ids=["no kernel", "of another architecture", "not there", "an absurd entry"],
)
def test_what_is_not_understood_is_refused_and_leaves_nothing(
    files: dict[str, bytes], arch: Arch, tmp_path: Path
) -> None:
    made = image(tmp_path, {**whole(), **files}, arch=arch)
    with pytest.raises(DevboxError) as caught:
        kernel.ensure(made)
    assert caught.value.id == "box.kernel"
    assert not list(store.folder("partial").iterdir())
    assert not store.entries()


def test_entries_are_read_as_the_specification_says() -> None:
    expected = Entry("/devbox/6.1.0-56/vmlinuz", "/devbox/6.1.0-56/initrd.img", CMDLINE)
    assert kernel.parse(ENTRY) == expected
    assert kernel.parse(ENTRY.replace("linux /", "linux\t  /")) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        ENTRY.replace("linux ", "efi "),
        ENTRY.replace("/devbox/6.1.0-56/vmlinuz", "/devbox/../../etc/shadow"),
        ENTRY.replace("/devbox/6.1.0-56/vmlinuz", "-i /dev/sda"),
        ENTRY.replace("root=", "init=/bin/sh root="),
        ENTRY.replace(" ro ", ' ro systemd.run="rm -rf /" '),
        ENTRY.replace(" ro ", f" {'a' * 1100} "),
    ],
)
def test_entries_that_say_something_else_are_refused(text: str) -> None:
    with pytest.raises(DevboxError) as caught:
        kernel.parse(text)
    assert caught.value.id == "box.kernel"


def test_tables_that_lie_are_refused() -> None:
    header = bytes(512) + b"EFI PART" + bytes(504)
    esp = bytes.fromhex("28732ac11ff8d211ba4b00a0c93ec93b") + bytes(16)
    assert kernel.esp(header + esp + struct.pack("<QQ", 2048, 4095) + bytes(80)) == (1 << 20, 1 << 20)
    for table in (
        b"",
        bytes(34 * 512),
        header + bytes(32 * 512),
        header + esp + struct.pack("<QQ", 4095, 2048) + bytes(80),
        header + esp + struct.pack("<QQ", 0, 4095) + bytes(80),
        header + esp + struct.pack("<QQ", 2048, 1 << 40) + bytes(80),
    ):
        with pytest.raises(DevboxError):
            kernel.esp(table)


def test_a_file_that_is_no_disk_is_never_judged_as_one(tmp_path: Path) -> None:
    aside = tmp_path / "kernel"
    aside.write_bytes(qcow2_like := b"QFI\xfb" + b"not a disk")
    blob = store.publish_file(aside, label="kernel", keys=["kernel-1"])
    assert blob.sha256 == sha256(qcow2_like)
    os.utime(blob.path, (1, 1))  # hashed again
    assert store.find("kernel-1") is not None
    with pytest.raises(DevboxError):
        qcow2.inspect(blob.path, "raw")
