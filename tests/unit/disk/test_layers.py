"""Layers: the chain of keys, and what the store holds of them whenever making one is cut off."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devbox import fs, paths, proc
from devbox.box import qcow2, store
from devbox.config.model import Arch, Firmware
from devbox.disk import chain, flatten, identity, layers, overlay
from devbox.disk.layers import Entry, Layer, Link
from devbox.disk.record import Record
from devbox.errors import DevboxError
from tests.unit.disk import machines

MIB = machines.MIB
RECORD = machines.RECORD
COUNTS: dict[str, Any] = {
    "image": "b" * 64,
    "disk_size": 2 << 30,
    "firmware": Firmware.UEFI,
    "user": "me",
    "uid": 5,
    "gid": 6,
}
COUNTS |= {"arch": Arch.AARCH64}
OWN: dict[str, Any] = {
    "id": "f" * 12,
    "project": Path("/q"),
    "device": 9,
    "inode": 9,
    "name": "two",
    "uuid": "v",
    "host_key": "l",
}
OWN |= {"mac": "52:54:00:00:00:02", "created": "2027-01-01T00:00:00+00:00", "layer": "c" * 64, "machine": "verify"}

words = st.text("abc", max_size=3)
links = st.lists(st.builds(Link, words, words, st.dictionaries(words, words, max_size=2)), min_size=1, max_size=6)


@pytest.mark.parametrize("field", COUNTS)
def test_what_counts_for_the_root(field: str) -> None:
    other = replace(RECORD, **{field: COUNTS[field]})
    assert layers.root_key(other, {}) != layers.root_key(RECORD, {})


@pytest.mark.parametrize("field", OWN)
def test_what_is_a_machines_own_does_not(field: str) -> None:
    assert layers.root_key(replace(RECORD, **{field: OWN[field]}), {}) == layers.root_key(RECORD, {})


def test_the_first_boot_counts() -> None:
    assert layers.root_key(RECORD, {"shell": "/bin/sh"}) != layers.root_key(RECORD, {"shell": "/bin/bash"})


@given(links, st.data())
def test_a_chain_changes_from_the_step_on_that_changed(steps: list[Link], data: st.DataObject) -> None:
    keys = layers.chain("root", steps)
    assert layers.chain("root", steps) == keys
    assert len(set(keys)) == len(steps)
    assert not set(keys) & set(layers.chain("other", steps))
    at = data.draw(st.integers(0, len(steps) - 1))
    assert layers.chain("root", steps[:at]) == keys[:at], "a prefix has the keys of a prefix"
    field = data.draw(st.sampled_from(["digest", "key", "condition"]))
    old = getattr(steps[at], field)
    changed: Any = {**old, "new": "x"} if field == "condition" else f"{old}x"
    other = layers.chain("root", [*steps[:at], replace(steps[at], **{field: changed}), *steps[at + 1 :]])
    assert other[:at] == keys[:at]
    assert all(one != two for one, two in zip(other[at:], keys[at:], strict=True))


@given(links, st.data())
def test_order_matters(steps: list[Link], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(steps))
    assert (layers.chain("root", shuffled) == layers.chain("root", steps)) == (shuffled == steps)


class Killed(BaseException):
    """What stands for kill -9."""


@pytest.fixture
def made(tmp_path: Path) -> Record:
    """A machine whose image is in the store, born with a provisional identity."""
    record, image = machines.record(tmp_path)
    stored = tmp_path / "copy"
    stored.write_bytes(image.path.read_bytes())
    blob = store.publish(stored, image.sha256, qcow2.inspect(image.path, "qcow2"), label="tiny", keys=[])
    identity.begin(record)
    overlay.ensure(record, replace(image, path=blob.path))
    return record


def cut(record: Record, key: str) -> Layer:
    """What a cut leaves: the disk's file under its digest, and a new one above. No QEMU runs."""
    frozen = chain.active(record.dir)
    os.utime(frozen, (1_000_000_000, 1_000_000_000))
    sha256 = fs.sha256_file(frozen)
    overlay.hold(frozen, record.dir.parent(sha256))
    new = chain.new_name(record.dir)
    overlay.put_above(record.dir.parent(sha256), new, record.disk_size)
    words = ["rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", sha256]
    assert proc.run([proc.find_tool("qemu-img"), *words, new], timeout=60).status == 0
    chain.activate(record.dir, new)
    chain.sweep(record.dir)
    return Layer(
        sha256=sha256,
        chain=key,
        parent="",
        image=record.image,
        label="tiny",
        mac=record.mac,
        steps=("a",),
        seconds=7.5,
        created=layers.now(),
    )


def lose(entry: Entry) -> None:
    """As `prune` does it."""
    store.forget(layers.index_key(entry.layer.chain))
    entry.layer.blob.unlink()
    store.record_path(entry.layer.sha256).unlink()
    shutil.rmtree(entry.layer.folder)


def test_made_found_used_and_removed(made: Record, tmp_path: Path) -> None:
    one = layers.publish(made, cut(made, "k1"))
    write(made, 1)
    two = layers.publish(made, cut(made, "k2"))
    assert one
    assert two
    assert (one.parent, two.parent) == (made.image, one.sha256)
    assert layers.longest(["k0", "k1", "k2", "k3"]) == (3, two)
    assert layers.longest(["k1", "x"]) == (1, one)
    assert layers.longest(["x"]) is None
    assert [blob.sha256 for blob in layers.stack(two)] == [two.sha256, one.sha256]
    assert all(verdict.whole for verdict in store.verify_all())
    assert [(entry.layer, entry.depth, entry.reachable) for entry in layers.entries()] == [
        (one, 1, True),
        (two, 2, True),
    ]

    other = replace(made, id="ba9876543210")
    fs.make_private_dir(other.dir.folder)
    identity.begin(other, two.folder)
    assert (other.dir.provisional / "id_ed25519").read_bytes() == (made.dir.provisional / "id_ed25519").read_bytes()
    image = replace(machines.image(tmp_path / "store"), path=store.blob_path(made.image))
    fork = overlay.ensure(other, image, layers.stack(two))
    assert [path.name for path in chain.parents(other.dir)] == [two.sha256, one.sha256, made.image]

    for entry in layers.entries():
        lose(entry)
    assert layers.longest(["k1", "k2"]) is None
    assert not list(paths.layers_dir().iterdir())
    assert proc.run([proc.find_tool("qemu-img"), "check", "-q", fork.path], timeout=60).status == 0
    assert chain.missing(other.dir, made.image) is None


def write(record: Record, pattern: int) -> None:
    words = ["-f", "qcow2", "-c", f"write -P {pattern} {pattern}M 64k"]
    assert proc.run([proc.find_tool("qemu-io"), *words, chain.active(record.dir)], timeout=60).status == 0


def test_the_first_wins_and_an_orphan_is_not_kept(made: Record) -> None:
    one = layers.publish(made, cut(made, "k1"))
    assert one
    write(made, 1)
    assert layers.publish(made, cut(made, "k1")) is None, "there is one"
    write(made, 2)
    assert layers.publish(made, cut(made, "k2")) is None, "its parent's bytes are not in the store"
    assert [entry.layer for entry in layers.entries()] == [one]


def test_a_machine_with_its_own_identity_makes_none(made: Record) -> None:
    identity.settled(made)
    assert layers.publish(made, cut(made, "k1")) is None
    assert layers.entries() == ()


@pytest.mark.parametrize("gone", ["image", "parent", "keys", "spoilt"])
def test_a_layer_that_lacks_something_is_not_found(made: Record, gone: str) -> None:
    one = layers.publish(made, cut(made, "k1"))
    write(made, 1)
    two = layers.publish(made, cut(made, "k2"))
    assert one
    assert two
    if gone == "keys":
        (two.folder / "host_ed25519").unlink()
    elif gone == "spoilt":
        two.blob.chmod(0o600)
        with two.blob.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"X")
    else:
        store.blob_path(made.image if gone == "image" else one.sha256).unlink()
    found = layers.longest(["k1", "k2"])
    assert found is None if gone in {"image", "parent"} else found == (1, one)


def test_a_lost_record_is_made_again_for_a_layer_only(made: Record, tmp_path: Path) -> None:
    one = layers.publish(made, cut(made, "k1"))
    assert one
    store.record_path(one.sha256).unlink()
    assert layers.find("k1") == one
    store.record_path(one.sha256).unlink()
    (one.folder / "meta.json").unlink()
    with pytest.raises(DevboxError, match="backing file"):
        store.have(one.sha256)
    assert layers.find("k1") is None


EFFECTS = (
    (fs, "write_atomic"),
    (fs, "publish"),
    (fs, "fsync_dir"),
    (overlay, "hold"),
    (Path, "rename"),
    (Path, "unlink"),
)


def test_a_kill_at_any_effect_leaves_a_store_that_verifies(made: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    """The n-th effect on the disk does not happen, nor anything after it; for each n until all of it is done."""
    layer, count = cut(made, "k1"), 0
    while True:
        with monkeypatch.context() as patched:
            left = [count]
            for owner, name in EFFECTS:
                patched.setattr(owner, name, _counting(getattr(owner, name), left))
            try:
                done = layers.publish(made, layer)
            except Killed:
                done = None
        assert all(verdict.whole for verdict in store.verify_all())
        assert chain.missing(made.dir, made.image) is None
        found = layers.find("k1")
        assert found is None or found.sha256 == layer.sha256
        if done:
            break
        again = layers.publish(made, layer) if found is None else found
        assert layers.find("k1") == again
        lose(layers.entries()[0])
        count += 1
    assert count > 8, "it has more effects than that"


def _counting(effect: Callable[..., Any], left: list[int]) -> Callable[..., Any]:
    def maybe(*words: Any, **named: Any) -> Any:
        if left[0] <= 0:
            raise Killed
        left[0] -= 1
        return effect(*words, **named)

    return maybe


def test_a_deep_chain_is_made_flat_and_machines_on_it_keep_theirs(made: Record) -> None:
    chained = []
    for number in range(1, layers.DEEPEST + 2):
        write(made, number)
        chained.append(layers.publish(made, cut(made, f"k{number}")))
    below, deep = chained[-2], chained[-1]
    assert below
    assert deep
    assert (flatten.is_deep(below), flatten.is_deep(deep)) == (False, True)
    flat = flatten.flatten(deep)
    assert layers.find(deep.chain) == flat
    assert [blob.sha256 for blob in layers.stack(flat)] == [flat.sha256]
    assert flat.parent == made.image
    assert not flatten.is_deep(flat)
    for number in range(1, layers.DEEPEST + 2):
        words = ["-r", "-f", "qcow2", "-c", f"read -v -P {number} {number}M 64k"]
        read = proc.run([proc.find_tool("qemu-io"), *words, flat.blob], timeout=60)
        assert b"Pattern verification failed" not in read.stdout
        assert read.status == 0
    assert deep.blob.exists(), "whoever stands on it"
    old = next(entry for entry in layers.entries() if entry.layer == deep)
    assert (old.reachable, old.depth) == (False, layers.DEEPEST + 1)
    assert all(verdict.whole for verdict in store.verify_all())
    assert layers.find(below.chain) == below


def test_a_flat_one_is_made_only_of_what_is_whole(made: Record) -> None:
    write(made, 1)
    layer = layers.publish(made, cut(made, "k1"))
    assert layer
    store.blob_path(made.image).unlink()
    with pytest.raises(DevboxError) as failed:
        flatten.flatten(layer)
    assert failed.value.id == "layer.not-flat"
    assert [path.name for path in layer.blob.parent.glob(".*")] == []
