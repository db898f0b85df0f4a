import multiprocessing
import os
from pathlib import Path

import pytest

from devbox import paths
from devbox.box import prune, qcow2, store
from devbox.box.references import Uses
from devbox.box.store import Blob
from devbox.config.model import Digest
from tests.unit.box.conftest import sha256

DATA = b"\x90" * 4096
NAME = sha256(DATA)
HEADER = qcow2.Header("raw", 4096, compressed=False)
KEY = store.key(Digest("sha512", "ab" * 64))


def put(data: bytes = DATA, keys: tuple[str, ...] = (KEY,)) -> Blob:
    aside = store.partial(keys[0])
    aside.write_bytes(data)
    return store.publish(aside, sha256(data), HEADER, label="test", keys=keys)


def damaged() -> list[str]:
    return [path.name.partition(".")[0] for path in store.folder("damaged").iterdir()]


def grow_old(sha256: str) -> None:
    os.utime(store.record_path(sha256), (1, 1))


def test_what_is_published_is_found_by_each_of_its_names() -> None:
    blob = put()
    assert blob == Blob(NAME, store.blob_path(NAME), 4096, "raw", 4096, "test", 1)
    assert store.have(NAME) == store.find(KEY) == store.find(f"sha256-{NAME}") == blob
    assert blob.path.stat().st_mode & 0o777 == 0o444
    assert not store.partial(KEY).exists()
    assert store.have("0" * 64) is None
    assert store.find("sha512-none") is None


def test_publishing_again_keeps_the_file_that_machines_may_link() -> None:
    inode = put().path.stat().st_ino
    assert put().path.stat().st_ino == inode


def test_a_damaged_blob_is_never_used_but_set_aside_and_replaced(capfd: pytest.CaptureFixture[str]) -> None:
    path = put().path
    path.chmod(0o644)
    path.write_bytes(b"\x91" * 4096)
    assert store.find(KEY) is None
    assert damaged() == [NAME]
    said = capfd.readouterr().err
    assert "is damaged" in said
    assert sha256(b"\x91" * 4096) in said
    assert put() == store.have(NAME)


def test_publishing_over_a_damaged_blob_sets_it_aside() -> None:
    path = put().path
    path.chmod(0o644)
    path.write_bytes(b"short")
    assert put().path.read_bytes() == DATA
    assert damaged() == [NAME]


def test_a_blob_whose_times_changed_is_hashed_and_kept(capfd: pytest.CaptureFixture[str]) -> None:
    blob = put()
    os.utime(blob.path, (5, 5))
    assert store.have(NAME) == blob
    assert "Checking the stored image" in capfd.readouterr().err
    assert store.have(NAME) == blob
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("record", [None, b"", b"{}", b"[1]", b'{"size": 1}'])
def test_a_lost_record_is_made_again(record: bytes | None) -> None:
    path = put().path
    store.record_path(NAME).unlink()
    if record is not None:
        store.record_path(NAME).write_bytes(record)
    found = store.have(NAME)
    assert found is not None
    assert (found.path, found.format, found.virtual_size) == (path, "raw", 4096)


@pytest.mark.parametrize("index", [b"", b"{}", b'{"sha256": 1}', b'{"sha256": "../../../etc/passwd"}', b"\xff"])
def test_a_broken_index_file_means_not_here(index: bytes) -> None:
    put()
    (store.folder("index") / f"{KEY}.json").write_bytes(index)
    assert store.find(KEY) is None


def test_something_else_in_a_blobs_place() -> None:
    path = store.folder("blobs/sha256") / NAME
    path.symlink_to("/etc/hostname")
    assert store.have(NAME) is None
    path.mkdir()
    assert store.have(NAME) is None
    assert damaged() == [NAME, NAME]


def test_verify_finds_what_changed_behind_the_records_back() -> None:
    path, other = put().path, put(DATA * 2, keys=("recipe-x",))
    info = path.stat()
    path.chmod(0o644)
    path.write_bytes(b"\x91" * 4096)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    assert store.have(NAME) is not None  # nothing but the bytes has changed
    assert {verdict.blob.sha256: verdict.whole for verdict in store.verify_all()} == {NAME: False, other.sha256: True}
    assert store.have(NAME) is None
    assert [blob.sha256 for blob in store.entries()] == [other.sha256]


def _put_many(number: int) -> None:
    for _ in range(5):
        aside = store.partial(f"recipe-{number}")
        aside.write_bytes(DATA)
        store.publish(aside, NAME, HEADER, label="test", keys=[f"recipe-{number}"])


def test_processes_that_add_the_same_blob_agree() -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_put_many, args=(number,)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert {store.find(f"recipe-{number}") for number in range(4)} == {store.have(NAME)}
    assert damaged() == []
    assert list(store.folder("partial").iterdir()) == []


def test_prune_removes_what_nobody_uses(tmp_path: Path) -> None:
    linked, named = put(DATA, keys=("recipe-1",)), put(DATA * 2, keys=("recipe-2",))
    fresh, unused = put(DATA * 3, keys=("recipe-3",)), put(DATA * 4, keys=("recipe-4",))
    os.link(linked.path, tmp_path / "base.img")
    for blob in (linked, named, unused):
        grow_old(blob.sha256)
    store.partial("recipe-5").write_bytes(DATA)
    (store.folder("damaged") / f"{'0' * 64}.1").write_bytes(DATA)

    told = prune.prune(Uses({named.sha256: "/p"}), dry_run=True)
    assert {(item.what, item.name) for item in told.removed} == {
        ("image", "test"),
        ("unfinished", "recipe-5"),
        ("damaged", "0" * 12),
    }
    assert len(told.kept) == 3
    assert unused.path.exists()

    assert prune.prune(Uses({named.sha256: "/p"}), dry_run=False) == told
    assert told.size >= 6 * 4096
    assert not unused.path.exists()
    assert store.find("recipe-4") is None
    assert (store.find("recipe-1"), store.find("recipe-2")) != (None, None)
    assert store.find("recipe-3") == fresh
    assert not store.partial("recipe-5").exists()
    assert list(store.folder("damaged").iterdir()) == []


def _hold(key: str, held: "multiprocessing.synchronize.Event", end: "multiprocessing.synchronize.Event") -> None:
    with store.lock(key):
        held.set()
        end.wait(60)


def test_prune_leaves_a_download_that_is_under_way() -> None:
    context = multiprocessing.get_context("fork")
    held, end = context.Event(), context.Event()
    process = context.Process(target=_hold, args=("recipe-9", held, end))
    process.start()
    held.wait(60)
    store.partial("recipe-9").write_bytes(DATA)
    pruned = prune.prune(Uses(), dry_run=False)
    end.set()
    process.join()
    assert (pruned.removed, [item.what for item in pruned.kept]) == ((), ["unfinished"])
    assert store.partial("recipe-9").exists()


def test_prune_forgets_old_notes_about_blobs_that_are_gone() -> None:
    blob = put()
    note = store.folder("index") / f"{KEY}.json"
    blob.path.unlink()
    prune.prune(Uses(), dry_run=False)
    assert note.exists()  # its blob may be about to come
    os.utime(note, (1, 1))
    grow_old(NAME)
    prune.prune(Uses(), dry_run=False)
    assert not note.exists()
    assert not store.record_path(NAME).exists()


def test_the_store_is_private() -> None:
    put()
    assert paths.cache_dir().stat().st_mode & 0o077 == 0
