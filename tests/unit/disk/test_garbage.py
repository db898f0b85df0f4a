import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from devbox import fs, paths
from devbox.box import store
from devbox.box.prune import Item, Pruned
from devbox.disk import garbage, trash
from devbox.disk import record as records
from devbox.disk.garbage import Policy
from devbox.disk.record import Record
from tests.unit.disk.stores import age, blob, layer, machine, template, there

POLICY = Policy(trash_days=7, unused_days=30, limit=None)
ALL = Policy(trash_days=7, unused_days=0, limit=None)
MIB = 1 << 20


def gc(policy: Policy = POLICY, *, stopped: Callable[[Record], bool] = lambda _record: True) -> Pruned:
    """What it says beforehand is what it does."""
    told = garbage.collect(policy, dry_run=True, stopped=stopped)
    done = garbage.collect(policy, dry_run=False, stopped=stopped)
    assert _named(done) == _named(told)
    assert garbage.collect(policy, dry_run=False, stopped=stopped).removed == ()
    return done


def _named(pruned: Pruned) -> tuple[list[tuple[str, str, int]], list[tuple[str, str, str]]]:
    return (
        sorted((item.what, item.name, item.size) for item in pruned.removed),
        sorted((item.what, item.name, item.why) for item in pruned.kept),
    )


def why(items: tuple[Item, ...], name: str) -> str:
    (found,) = [item.why for item in items if item.name == name]
    return found


@contextmanager
def another_devbox(path: Path) -> Iterator[None]:
    """Another process holds this lock."""
    context = multiprocessing.get_context("fork")
    held, end = context.Event(), context.Event()

    def hold() -> None:
        with fs.lock(path, wait=0):
            held.set()
            end.wait(60)

    process = context.Process(target=hold)
    process.start()
    assert held.wait(60)
    try:
        yield
    finally:
        end.set()
        process.join()


def test_what_nobody_uses_goes_when_it_is_old_and_stays_when_it_is_young(tmp_path: Path) -> None:
    old, young, held, named = blob("old"), blob("young", days=3), blob("held"), blob("named")
    user = machine(tmp_path, "user", held, image=named)
    done = gc()
    assert [there(each) for each in (old, young, held, named)] == [False, True, True, True]
    assert why(done.removed, "old") == "no machine uses it; last asked for 400 days ago"
    assert why(done.kept, "young") == "asked for 3 days ago, and kept for 30 days"
    assert why(done.kept, "held") == why(done.kept, "named") == f"used by {user.project}"
    assert done.size >= 8192


def test_with_all_the_young_go_too_but_not_what_was_asked_for_just_now() -> None:
    young, found = blob("young", days=3), blob("found", days=0)
    done = gc(ALL)
    assert (there(young), there(found)) == (False, True)
    assert why(done.kept, "found") == "asked for a moment ago"


def test_what_a_kept_layer_stands_on_stays_and_a_chain_goes_as_a_whole(tmp_path: Path) -> None:
    image = blob("image")
    lower = layer("lower", image)
    upper, lonely = layer("upper", lower), layer("lonely", image)
    kernel, initrd = blob("kernel", f"kernel-{image}"), blob("initrd", f"initrd-{image}")
    other = blob("other")
    stray = blob("stray", f"kernel-{other}")
    record = machine(tmp_path, "user", upper, layer=upper)
    template(upper)
    template(lonely)
    done = gc()
    assert [there(each) for each in (image, lower, upper, kernel, initrd)] == [True] * 5
    assert [there(each) for each in (lonely, other, stray)] == [False] * 3
    assert why(done.kept, "lower") == "the layer upper needs it"
    assert why(done.kept, "kernel") == "it belongs to the image image"
    assert not (paths.layers_dir() / lonely).exists()
    assert (paths.layers_dir() / upper).exists()

    trash.discard(record)
    for digest in (image, lower, upper):
        (trash.entries()[0][0] / digest).unlink(missing_ok=True)
    gone = {item.name for item in gc().removed}
    assert gone == {"image", "lower", "upper", "kernel", "initrd"}


def test_a_kernel_stays_with_a_machine_whose_image_is_its_own_copy(tmp_path: Path) -> None:
    kernel = blob("kernel", "kernel-" + "a" * 64)
    machine(tmp_path, "user", image="a" * 64)
    gc()
    assert there(kernel)


def test_layers_over_their_limit_go_the_longest_unused_first_and_never_from_under_another(tmp_path: Path) -> None:
    image = blob("image")
    used = layer("used", image, size=MIB, days=20)
    machine(tmp_path, "user", used, layer=used)
    below = layer("below", image, size=MIB, days=9)
    above = layer("above", below, size=MIB, days=5)
    alone = layer("alone", image, size=MIB, days=7)
    done = gc(Policy(7, 30, limit=4 * MIB))  # their keys take something too
    assert [there(each) for each in (used, below, above, alone)] == [True, True, True, False]
    assert why(done.removed, "alone") == "all layers may take 4.0 MiB, and it was not asked for longest"
    done = gc(Policy(7, 30, limit=MIB))
    assert [there(each) for each in (used, below, above, image)] == [True, False, False, True]
    assert why(done.kept, "used").startswith("used by ")


def test_the_memory_of_a_layer_counts_for_the_limit_and_goes_with_it(tmp_path: Path) -> None:
    image = blob("image", days=1)
    big, small = layer("big", image, size=MIB, days=4), layer("small", image, size=MIB, days=5)
    kept, gone = template(small, days=5), template(big, days=4, size=8 * MIB)
    gc(Policy(7, 30, limit=20 * MIB))
    assert kept.exists()
    assert gone.exists()
    gc(Policy(7, 30, limit=9 * MIB))  # the older goes first, with little gain, then the one with much
    assert not there(small)
    assert not kept.exists()
    assert not there(big)
    assert not gone.exists()


def test_memory_that_was_not_used_for_long_goes_and_its_layer_stays() -> None:
    top = layer("top", blob("image", days=2), days=2)
    memory = template(top, days=40)
    (paths.templates_dir() / ".new-broken").mkdir()
    age(paths.templates_dir() / ".new-broken", 1)
    (paths.templates_dir() / ".new-being-made").mkdir()
    gc()
    assert there(top)
    assert not memory.exists()
    assert [path.name for path in paths.templates_dir().iterdir()] == [".new-being-made"]


def test_destroyed_machines_stay_for_their_days_and_then_free_what_they_held(tmp_path: Path) -> None:
    held = blob("held")
    record = machine(tmp_path, "user", held)
    entry = trash.discard(record)
    done = gc()
    assert why(done.kept, "held") == f"used by {record.project}, in the trash"
    assert why(done.kept, str(record.project)).startswith("destroyed a moment ago, and kept for 7 days")
    old = entry.with_name(f"{int(entry.name.partition('-')[0]) - 8 * 86400}-{record.id}")
    entry.rename(old)
    done = gc()
    assert {item.what for item in done.removed} == {"trash", "image"}
    assert not there(held)
    assert list(paths.trash_dir().iterdir()) == []


def test_what_another_devbox_works_on_stays(tmp_path: Path) -> None:
    busy, free = blob("busy"), blob("free")
    (paths.cache_dir() / "artefacts").mkdir()
    artefact = paths.cache_dir() / "artefacts" / ("b" * 64)
    artefact.write_bytes(b"x")
    age(artefact, 400)
    part = store.partial("sha256-busy")
    part.write_bytes(b"x")
    age(part, 400)
    locks = store.folder("locks")
    with (
        another_devbox(locks / f"blob-{busy}"),
        another_devbox(locks / f"artefact-{'b' * 64}"),
        another_devbox(locks / "sha256-busy"),
    ):
        done = garbage.collect(POLICY, dry_run=False, stopped=lambda _: True)
    assert (there(busy), there(free), artefact.exists(), part.exists()) == (True, False, True, True)
    assert why(done.kept, "busy") == "another devbox works on it"
    assert gc().size > 0
    assert (there(busy), artefact.exists(), part.exists()) == (False, False, False)


def test_an_image_that_a_machine_took_between_the_look_and_the_deletion_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = blob("image")
    top = layer("top", image)
    take = store.lock

    @contextmanager
    def late(key: str, *, wait: float = 0) -> Iterator[None]:
        with take(key, wait=wait):
            if key == f"blob-{top}" and not (tmp_path / "taken").exists():
                os.link(store.blob_path(top), tmp_path / "taken")
            yield

    monkeypatch.setattr(store, "lock", late)
    done = garbage.collect(POLICY, dry_run=False, stopped=lambda _: True)
    assert done.removed == ()
    assert (there(image), there(top)) == (True, True)


def test_a_download_that_was_broken_off_can_go_on_for_a_day() -> None:
    fresh, old = store.partial("sha512-fresh"), store.partial("sha512-old")
    for path in (fresh, old):
        path.write_bytes(b"x" * 4096)
    age(old, 2)
    done = gc()
    assert (fresh.exists(), old.exists()) == (True, False)
    assert why(done.kept, "sha512-fresh") == "it was broken off a moment ago, and can go on from there"
    assert why(done.removed, "sha512-old") == "it was broken off"


def test_what_crashes_left_goes_from_machines_that_nobody_works_on(tmp_path: Path) -> None:
    record = machine(tmp_path, "user")
    folder = record.dir.folder
    (paths.machines_dir() / ".new-0123456789ab").mkdir()
    aside, frozen = folder / ".disk.qcow2.0123abcd", folder / "frozen-00ff00ff.qcow2"
    below, active = folder / "disk-aa.qcow2", folder / "disk-bb.qcow2"
    for path in (aside, frozen, below):
        path.write_bytes(b"x" * 4096)
    machine_disk = blob("disk", on=below.name)
    store.blob_path(machine_disk).rename(active)
    record.dir.disk.symlink_to(active.name)
    (folder / "snapshots").mkdir()
    (folder / "snapshots" / "one.json").write_text('{"disk": "disk-cc.qcow2"}')
    (folder / "disk-cc.qcow2").write_bytes(b"x")
    (folder / "disk-dd.qcow2").write_bytes(b"x")

    assert gc(stopped=lambda _: False).size > 0  # what is half-made is no machine yet
    assert not (paths.machines_dir() / ".new-0123456789ab").exists()
    with another_devbox(record.dir.lock):
        assert garbage.collect(POLICY, dry_run=False, stopped=lambda _: True).removed == ()
    assert aside.exists()
    assert {item.name for item in gc().removed} == {aside.name, frozen.name, "disk-dd.qcow2"}
    assert {path.name for path in folder.glob("disk*")} == {
        "disk.qcow2",
        "disk-aa.qcow2",
        "disk-bb.qcow2",
        "disk-cc.qcow2",
    }
    assert records.find(record.project) == record


def test_a_machine_that_is_just_being_made_is_left_alone(tmp_path: Path) -> None:
    half = fs.make_private_dir(paths.machines_dir() / ".new-0123456789ab")
    with another_devbox(paths.machines_dir() / ".lock"):
        done = garbage.collect(ALL, dry_run=False, stopped=lambda _: True)
    assert half.exists()
    assert why(done.kept, half.name) == "another devbox is making a machine"


def test_ansible_collections_and_checked_files_go_by_age() -> None:
    folder = fs.make_private_dir(paths.cache_dir() / "ansible")
    old, young, broken = folder / ("a" * 32), folder / ("b" * 32), folder / f"{'c' * 32}.k3d_9x"
    for path, days in ((old, 40), (young, 4), (broken, 2)):
        path.mkdir()
        age(path, days)
    documents = fs.make_private_dir(paths.cache_dir() / "documents")
    (documents / "1.json").write_text("{}")
    (documents / "2.json").write_text("{}")
    age(documents / "1.json", 40)
    gc()
    assert [path.exists() for path in (old, young, broken)] == [False, True, False]
    assert [path.name for path in documents.iterdir()] == ["2.json"]


def test_an_empty_computer_has_nothing_to_free() -> None:
    assert gc() == Pruned((), ())


def test_layers_alone_go_and_images_that_nobody_uses_stay(tmp_path: Path) -> None:
    unused = blob("unused")
    image = blob("image")
    old, young = layer("old", image, size=MIB, days=40), layer("young", image, size=MIB, days=1)
    done = garbage.collect_layers(POLICY, dry_run=False)
    assert [item.digest for item in done.removed] == [old]
    assert [there(each) for each in (unused, image, young)] == [True, True, True]
