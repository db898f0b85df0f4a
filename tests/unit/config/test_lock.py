import re
from pathlib import Path

import pytest

from devbox import proc
from devbox.config import lock
from devbox.config.lock import FilePin, Lock, Pin
from devbox.config.model import Arch, BoxRef, Digest
from devbox.errors import DevboxError
from devbox.version import __version__

URL = "https://x.example/a.qcow2"
FILE = FilePin("78" * 32, 4)
PIN = Pin(URL, URL, Digest("sha512", "ab" * 64), "cd" * 32, 5)


def test_there_is_none_at_first(tmp_path: Path) -> None:
    assert lock.read(tmp_path).pin("default", Arch.X86_64, BoxRef(name="debian-12")) is None


def proof(found: Lock, arch: Arch, ref: BoxRef, machine: str = "default") -> Digest | None:
    pin = found.pin(machine, arch, ref)
    return pin.proof if pin else None


def test_what_is_written_is_read(tmp_path: Path) -> None:
    plain = Pin("debian-12", "", None, "ef" * 32, 7)
    recipe = Pin("recipe:debian-13 git", inputs="12" * 32, sha256="34" * 32, size=9)
    bare = Pin("fedora", "https://x.example/f", Digest("sha512", "56" * 64))
    written = Lock(tmp_path).with_pin("default", Arch.X86_64, PIN).with_pin("default", Arch.AARCH64, plain)
    written = written.with_pin("two", Arch.X86_64, recipe).with_pin("two", Arch.AARCH64, bare)
    written = written.with_file("https://x.example/é?a=1", FilePin("78" * 32, 3)).with_file("https://b", FILE)
    lock.write(tmp_path, written)
    found = lock.read(tmp_path)
    assert found == written
    assert proof(found, Arch.X86_64, BoxRef(url=URL)) == Digest("sha512", "ab" * 64)
    assert proof(found, Arch.AARCH64, BoxRef(name="debian-12")) == Digest("sha256", "ef" * 32)
    assert (tmp_path / "Devboxfile.lock").stat().st_mode & 0o777 == 0o644
    lock.write(tmp_path, found)
    assert lock.read(tmp_path) == written


FORMAT_1 = """\
{
  "devbox": "0.2.0",
  "machines": {
    "default": {
      "x86_64": {
        "sha256": "SHA",
        "size": 512,
        "source": "path:disk.raw"
      }
    }
  },
  "version": 1
}
"""


def test_a_lock_of_format_1_is_read_still(tmp_path: Path) -> None:
    (tmp_path / "Devboxfile.lock").write_text(FORMAT_1.replace("SHA", "ab" * 32))
    found = lock.read(tmp_path)
    assert found.writer == "0.2.0"
    assert found == Lock(tmp_path, {("default", Arch.X86_64): Pin("path:disk.raw", "", None, "ab" * 32, 512)})
    lock.write(tmp_path, found)
    assert (lock.read(tmp_path), lock.read(tmp_path).writer) == (found, __version__)


def test_a_lock_of_the_future_asks_for_another_devbox(tmp_path: Path) -> None:
    (tmp_path / "Devboxfile.lock").write_text('{"version": 3, "images": []}')
    with pytest.raises(DevboxError, match="format 3") as caught:
        lock.read(tmp_path)
    assert (caught.value.id, caught.value.hint) == ("config.version", "Update devbox.")


def merged(tmp_path: Path, base: Lock, ours: Lock, theirs: Lock) -> tuple[int, str]:
    """What `git merge` makes of three versions of the file: the number of conflicts, and the text."""
    files = []
    for number, version in enumerate((ours, base, theirs)):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        lock.write(folder, version)
        files.append(folder / "Devboxfile.lock")
    done = proc.run([proc.find_tool("git"), "merge-file", "-p", "-L", "ours", "-L", "base", "-L", "theirs", *files])
    return done.status, done.text


def test_two_branches_that_add_something_merge(tmp_path: Path) -> None:
    base = Lock(tmp_path).with_pin("default", Arch.X86_64, PIN)
    for name in "bdf":
        base = base.with_file(f"https://{name}.example/", FILE)
    ours = base.with_file("https://c.example/", FILE)
    theirs = base.with_file("https://e.example/", FILE).with_pin("default", Arch.AARCH64, PIN)
    conflicts, text = merged(tmp_path, base, ours, theirs)
    assert conflicts == 0, text
    (tmp_path / "Devboxfile.lock").write_text(text)
    both = theirs.with_file("https://c.example/", FILE)
    assert lock.read(tmp_path) == both


def test_a_conflict_shows_what_it_is_about_and_nothing_else(tmp_path: Path) -> None:
    base = Lock(tmp_path).with_pin("default", Arch.AARCH64, PIN).with_pin("default", Arch.X86_64, PIN)
    pins = [Pin(URL, URL, Digest("sha512", word * 64), word * 32, 5) for word in ("11", "22")]
    ours, theirs = (base.with_pin("default", Arch.X86_64, pin) for pin in pins)
    conflicts, text = merged(tmp_path, base, ours, theirs)
    assert conflicts > 0
    inside = re.findall(r"<<<<<<< ours\n(.*?)=======\n(.*?)>>>>>>> theirs\n", text, re.DOTALL)
    lines = [line.strip() for part in inside for side in part for line in side.splitlines()]
    changed = [f'"digest": "sha512:{word * 64}",' for word in ("11", "22")]
    changed += [f'"sha256": "{word * 32}",' for word in ("11", "22")]
    assert sorted(lines) == sorted(changed)


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
    assert proof(made, Arch.X86_64, BoxRef(url="https://x.example/b.qcow2")) is None
    assert proof(made, Arch.AARCH64, BoxRef(url=URL)) is None
    assert proof(made, Arch.X86_64, BoxRef(url=URL), "other") is None
    # The Devboxfile's own digest goes first; either of the two that the lock has proves that it is the same file.
    for digest, same in (
        (PIN.digest, True),
        (Digest("sha256", PIN.sha256), True),
        (Digest("sha512", "0" * 128), False),
    ):
        assert (proof(made, Arch.X86_64, BoxRef(url=URL, digest=digest)) == PIN.digest) is same


def test_a_box_has_the_same_name_in_every_checkout(tmp_path: Path) -> None:
    inside = BoxRef(path=tmp_path.resolve() / "images" / "a.img")
    assert lock.source_of(inside, tmp_path) == "path:images/a.img"
    assert lock.source_of(BoxRef(path=Path("/srv/a.img")), tmp_path) == "path:/srv/a.img"
    assert lock.source_of(BoxRef(recipe="debian-12", packages=("git",)), tmp_path) == "recipe:debian-12 git"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('cdcd"', '"', "13:19: machines.default.x86_64.sha256: must be 64 small hexadecimal digits"),
        ("sha512:", "md5:", "machines.default.x86_64.digest: must be `sha256:` or `sha512:`"),
        ('"size": 5', '"size": "5"', "machines.default.x86_64.size: must be a number: leave out the quotes"),
        ('"x86_64"', '"riscv"', "machines.default.riscv: there is no such key"),
        ('"version": 2', '"version": 0', "version: must be `1` or `2`, not `0`"),
        ('"size": 5', '"size": -5', "machines.default.x86_64.size: must be at least 0, not `-5`"),
        ('"source"', '"sauce"', "machines.default.x86_64.sauce: there is no such key; did you mean `source`?"),
        ('78"', '"', "downloads.https://b.sha256: must be 64 small hexadecimal digits"),
        ('"source": "', '"source": "\\ud800', "Devboxfile.lock:15:22: "),
        ("{", "<<<<<<< ours\n{", "1:1: a merge was left unfinished here"),
        ("{", "[" * 100_000, "nest deeper than 32"),
    ],
)
def test_a_spoilt_lock_is_told_with_its_line(tmp_path: Path, old: str, new: str, told: str) -> None:
    lock.write(tmp_path, Lock(tmp_path).with_pin("default", Arch.X86_64, PIN).with_file("https://b", FILE))
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
