from pathlib import Path

import pytest

from devbox.config import lock
from devbox.config.lock import Lock, Pin
from devbox.config.model import Arch, BoxRef, Digest
from devbox.errors import DevboxError

URL = "https://x.example/a.qcow2"
PIN = Pin(URL, URL, Digest("sha512", "ab" * 64), "cd" * 32, 5)


def test_there_is_none_at_first(tmp_path: Path) -> None:
    assert lock.read(tmp_path).pinned("default", Arch.X86_64, BoxRef(name="debian-12")) is None


def test_what_is_written_is_read(tmp_path: Path) -> None:
    plain = Pin("debian-12", "", None, "ef" * 32, 7)
    written = Lock(tmp_path).with_pin("default", Arch.X86_64, PIN).with_pin("default", Arch.AARCH64, plain)
    lock.write(tmp_path, written)
    found = lock.read(tmp_path)
    assert found == written
    assert found.pinned("default", Arch.X86_64, BoxRef(url=URL)) == Digest("sha512", "ab" * 64)
    assert found.pinned("default", Arch.AARCH64, BoxRef(name="debian-12")) == Digest("sha256", "ef" * 32)
    assert (tmp_path / "Devboxfile.lock").stat().st_mode & 0o777 == 0o644


def test_the_order_of_pins_does_not_show(tmp_path: Path) -> None:
    texts = []
    for order in ((Arch.X86_64, Arch.AARCH64), (Arch.AARCH64, Arch.X86_64)):
        made = Lock(tmp_path)
        for arch in order:
            made = made.with_pin("default", arch, PIN)
        lock.write(tmp_path, made)
        texts.append((tmp_path / "Devboxfile.lock").read_bytes())
    assert texts[0] == texts[1]


def test_a_pin_is_for_what_it_was_made_for(tmp_path: Path) -> None:
    made = Lock(tmp_path).with_pin("default", Arch.X86_64, PIN)
    assert made.pinned("default", Arch.X86_64, BoxRef(url="https://x.example/b.qcow2")) is None
    assert made.pinned("default", Arch.AARCH64, BoxRef(url=URL)) is None
    assert made.pinned("other", Arch.X86_64, BoxRef(url=URL)) is None


def test_a_box_has_the_same_name_in_every_checkout(tmp_path: Path) -> None:
    inside = BoxRef(path=tmp_path.resolve() / "images" / "a.img")
    assert lock.source_of(inside, tmp_path) == "path:images/a.img"
    assert lock.source_of(BoxRef(path=Path("/srv/a.img")), tmp_path) == "path:/srv/a.img"
    assert lock.source_of(BoxRef(recipe="debian-12", packages=("git",)), tmp_path) == "recipe:debian-12 git"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('cdcd"', '"', "7:19: machines.default.x86_64.sha256: must be 64 small hexadecimal digits"),
        ("sha512:", "md5:", "machines.default.x86_64.digest: must be `sha256:` or `sha512:`"),
        ('"size": 5', '"size": "5"', "machines.default.x86_64.size: must be a number: leave out the quotes"),
        ('"x86_64"', '"riscv"', "machines.default.riscv: there is no such key"),
        ('"version": 1', '"version": 2', "version: must be `1`, not `2`"),
        ("{", "<<<<<<< ours\n{", "1:1: a merge was left unfinished here"),
        ("{", "[" * 100_000, "nest deeper than 32"),
    ],
)
def test_a_spoilt_lock_is_told_with_its_line(tmp_path: Path, old: str, new: str, told: str) -> None:
    lock.write(tmp_path, Lock(tmp_path).with_pin("default", Arch.X86_64, PIN))
    path = tmp_path / "Devboxfile.lock"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(DevboxError) as caught:
        lock.read(tmp_path)
    assert caught.value.id == "config.invalid"
    assert told in caught.value.message
    assert "devbox lock" in caught.value.hint


def test_an_empty_lock_is_told(tmp_path: Path) -> None:
    (tmp_path / "Devboxfile.lock").touch()
    with pytest.raises(DevboxError, match=r"Devboxfile.lock:1:1: the file is empty"):
        lock.read(tmp_path)
