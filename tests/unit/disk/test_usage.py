import os
from pathlib import Path

from devbox import fs, paths
from devbox.box import store
from devbox.disk import trash, usage
from devbox.disk.usage import Used
from tests.unit.disk.stores import blob, layer, machine, template

MIB = 1 << 20


def of(what: str) -> list[Used]:
    return [one for one in usage.survey() if one.what == what]


def test_every_file_counts_once_however_many_names_it_has(tmp_path: Path) -> None:
    image = blob("image", size=4 * MIB)
    first = machine(tmp_path, "first", image, image=image)
    second = machine(tmp_path, "second", image, image=image)
    (stored,) = of("images")
    assert (stored.size, stored.apparent) == (4 * MIB, 4 * MIB)
    assert stored.user in {str(first.project), str(second.project)}
    disks = of("machines' disks")
    assert {one.user for one in disks} == {str(first.project), str(second.project)}
    assert all(one.size < MIB for one in disks)
    entry = trash.discard(second)
    os.link(store.blob_path(image), entry / "another")
    (gone,) = of("trash")
    assert (gone.name, gone.size < MIB) == (str(second.project), True)
    everything = {(info.st_dev, info.st_ino): info for root in _roots() for _, info in fs.walk(root)}
    assert sum(one.size for one in usage.survey()) == sum(info.st_blocks * 512 for info in everything.values())


def _roots() -> tuple[Path, ...]:
    return paths.cache_dir(), paths.state_dir()


def test_holes_take_nothing(tmp_path: Path) -> None:
    record = machine(tmp_path, "sparse")
    with record.dir.disk.open("wb") as disk:
        disk.truncate(1 << 30)
        disk.write(b"x")
    (one,) = of("machines' disks")
    assert one.size < MIB < 1 << 30 < one.apparent + 1


def test_each_thing_is_in_its_class_with_who_uses_it(tmp_path: Path) -> None:
    image = blob("image")
    top = layer("top", image)
    kernel = blob("kernel", f"kernel-{image}")
    record = machine(tmp_path, "user", top, layer=top)
    template(top)
    store.partial("sha512-x").write_bytes(b"x" * 4096)
    (store.folder("damaged") / "bad.1").write_bytes(b"x")
    artefacts = fs.make_private_dir(paths.cache_dir() / "artefacts")
    (artefacts / ("b" * 64)).write_bytes(b"x")
    record.dir.memory.write_bytes(b"m" * MIB)
    fs.make_private_dir(record.dir.snapshots / "one")
    (record.dir.snapshots / "one" / "memory.state").write_bytes(b"s" * 8192)
    data = fs.make_private_dir(paths.data_dir() / "0123456789ab")
    (data / "data.json").write_text('{"name": "db", "project": "/p"}')
    (data / "disk.qcow2").write_bytes(b"d" * 4096)
    (paths.machines_dir() / ".new-0123456789ab").mkdir()
    found = {one.what: one for one in usage.survey()}
    assert set(found) == set(usage.CLASSES) - {"trash"}
    assert found["layers"].user == str(record.project)
    assert found["images"].user == ""
    assert found["kernels"].name == "kernel"
    assert found["machines' memory"].size == MIB
    assert 8192 <= found["snapshots"].size < MIB
    assert (found["data disks"].name, found["data disks"].user) == ("db of /p", "/p")
    assert store.blob_path(kernel).exists()


def test_an_empty_computer() -> None:
    assert {one.what for one in usage.survey()} == {"other"}
