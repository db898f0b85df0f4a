"""A machine made of another one's disk: what both hold, what differs, and what a kill leaves. Real qcow2 files."""

from dataclasses import asdict
from pathlib import Path

import pytest

from devbox import proc
from devbox.box.store import Image
from devbox.disk import chain, fork, identity, keys, overlay, seed
from devbox.disk import record as records
from devbox.disk.record import Record
from devbox.errors import DevboxError
from tests.unit.disk import machines


def qemu_io(disk: Path, *commands: str) -> str:
    words = [word for command in commands for word in ("-c", command)]
    done = proc.run([proc.find_tool("qemu-io"), "-f", "qcow2", *words, disk], timeout=60)
    assert done.status == 0, done.error_text
    return done.text


def write(record: Record, pattern: int, offset: int = 0) -> None:
    qemu_io(record.dir.disk, f"write -P {pattern} {offset} 64k")


def holds(record: Record, pattern: int, offset: int = 0) -> bool:
    return "Pattern verification failed" not in qemu_io(record.dir.disk, f"read -P {pattern} {offset} 64k")


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return machines.image(tmp_path / "store")


@pytest.fixture
def parent(tmp_path: Path, image: Image) -> Record:
    record, _ = machines.record(tmp_path)
    overlay.ensure(record, image)
    seed.ensure(record, machines.project(record.project).machine)
    write(record, 1)
    return record


def test_both_go_on_from_the_same_disk_and_neither_sees_the_other(parent: Record) -> None:
    with records.locked(parent):
        made = fork.make(parent, "lab", fork.freeze(parent))
    assert records.find(parent.project, "lab") == made
    assert records.find(parent.project) == parent
    assert holds(parent, 1)
    assert holds(made, 1)
    write(parent, 2)
    write(made, 3)
    assert holds(parent, 2)
    assert holds(made, 3)
    shared = {path.name: path.stat().st_ino for path in chain.parents(made.dir)}
    assert shared == {path.name: path.stat().st_ino for path in chain.parents(parent.dir)}
    assert made.dir.disk.stat().st_blocks < 1024


def test_it_is_another_machine_with_the_identity_of_its_parent_for_a_while(parent: Record) -> None:
    made = fork.make(parent, "lab", fork.freeze(parent))
    before, after = asdict(parent), asdict(made)
    assert {name for name in before if before[name] != after[name]} <= {
        "id", "machine", "uuid", "host_key", "created"
    }  # fmt: skip
    assert {"id", "machine", "uuid", "host_key"} <= {name for name in before if before[name] != after[name]}
    born = identity.provisional(made)
    assert born is not None
    assert (born.host_line, born.login_key.read_bytes()) == (parent.host_key, parent.dir.login_key.read_bytes())
    assert born.instance == identity.own_instance(parent, keys.make(parent.dir.login_key))
    assert not made.dir.login_key.exists()
    assert not made.dir.seed.exists()


def test_the_parent_can_go_and_the_fork_lives_on(parent: Record) -> None:
    made = fork.make(parent, "lab", fork.freeze(parent))
    again = fork.make(made, "lab-2", fork.freeze(made))
    for path in sorted(parent.dir.folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert holds(made, 1)
    assert holds(again, 1)
    assert overlay.held_image(again).sha256 == parent.image


def test_a_name_is_given_once(parent: Record) -> None:
    frozen = fork.freeze(parent)
    fork.make(parent, "lab", frozen)
    with pytest.raises(DevboxError) as caught:
        fork.make(parent, "lab", frozen)
    assert caught.value.id == "clone.exists"
    assert "devbox up --machine lab" in caught.value.hint
    assert len(records.all_records()) == 2


def test_a_disk_from_before_layers_is_forked_too(parent: Record) -> None:
    own = chain.active(parent.dir)
    parent.dir.disk.unlink()
    own.rename(parent.dir.disk)
    made = fork.make(parent, "lab", fork.freeze(parent))
    assert holds(parent, 1)
    assert holds(made, 1)
    assert parent.dir.disk.is_symlink()


class Killed(BaseException):
    """Nothing after this is done."""


PLACES = "chain.new_name overlay.put_above chain.activate chain.sweep overlay.hold identity.place records.store"


@pytest.mark.parametrize("place", PLACES.split())
@pytest.mark.parametrize("time", [1, 2])
def test_a_kill_anywhere_costs_nothing(parent: Record, place: str, time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    left = time

    def die(*arguments: object, **options: object) -> object:
        nonlocal left
        left -= 1
        if left == 0:
            raise Killed
        return original(*arguments, **options)

    module, name = place.split(".")
    owner = {"chain": chain, "overlay": overlay, "identity": identity, "records": records}[module]
    original = getattr(owner, name)
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, die)
        try:
            fork.make(parent, "lab", fork.freeze(parent))
        except Killed:
            assert records.find(parent.project, "lab") is None
        else:
            assert left > 0
            return
    assert holds(parent, 1)
    made = fork.make(parent, "lab", fork.freeze(parent))
    assert holds(made, 1)
    assert holds(parent, 1)
    names = {entry.name for entry in parent.dir.folder.parent.iterdir()}
    assert names == {parent.id, made.id, ".lock"}
