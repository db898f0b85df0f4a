import json
from pathlib import Path

import pytest

from devbox import paths
from devbox.disk import trash
from tests.unit.commands.invoke import invoke
from tests.unit.disk.stores import blob, layer, machine, template, there

MIB = 1 << 20


def test_gc_says_what_it_would_do_and_does_it(tmp_path: Path) -> None:
    unused, held, young = blob("unused", size=MIB), blob("held"), blob("young", days=2)
    record = machine(tmp_path, "user", held)
    told = invoke("gc", "--dry-run")
    lines = [line.split(maxsplit=2)[:2] for line in told.stdout.splitlines()]
    assert ["WOULD", "GO"] in lines
    assert ["image", "unused"] in lines
    assert f"used by {record.project}" in told.stdout
    assert told.stderr == "✓ Would free 1.0 MiB (1 items).\n"
    assert there(unused)
    done = invoke("gc")
    assert done.stdout.split() == told.stdout.replace("WOULD GO", "WENT").split()
    assert done.stderr == "✓ Freed 1.0 MiB (1 items).\n"
    assert [there(each) for each in (unused, held, young)] == [False, True, True]
    assert invoke("gc").stderr == "✓ There is nothing to free.\n"
    assert "young" in invoke("gc", "--all").stdout
    assert not there(young)


def test_gc_for_programs(tmp_path: Path) -> None:
    blob("unused", size=MIB)
    entry = trash.discard(machine(tmp_path, "user"))
    told = json.loads(invoke("gc", "--json", "--dry-run").stdout)
    assert (told["dry_run"], told["freed"]) == (True, MIB)
    assert [(item["what"], item["name"], item["size"]) for item in told["removed"]] == [("image", "unused", MIB)]
    assert [(item["what"], item["name"]) for item in told["kept"]] == [("trash", str(tmp_path / "user"))]
    assert {item["what"] for item in json.loads(invoke("gc", "--json", "--trash").stdout)["removed"]} == {
        "image",
        "trash",
    }
    assert not entry.exists()


def test_gc_goes_by_the_users_configuration() -> None:
    young = blob("young", days=2)
    old = layer("old", young, days=2)
    configuration = paths.preferences_file()
    configuration.parent.mkdir(parents=True)
    configuration.write_text("layers: {limit: 1KiB}\n")
    invoke("gc")
    assert (there(old), there(young)) == (False, True)
    configuration.write_text("gc: {unused_days: 1}\n")
    invoke("gc")
    assert not there(young)
    configuration.write_text("gc: {unused_days: -1}\n")
    assert "unused_days" in invoke("gc").stderr


def test_box_prune_leaves_layers_and_what_they_stand_on() -> None:
    image, other = blob("image"), blob("other")
    top = layer("top", image)
    shown = invoke("box", "prune")
    assert [there(each) for each in (image, top, other)] == [True, True, False]
    assert "2 stay" in shown.stderr


def test_layers_are_used_by_who_has_them_further_down_too(tmp_path: Path) -> None:
    image = blob("image")
    lower = layer("lower", image)
    upper = layer("upper", lower)
    for digest, parent in ((lower, image), (upper, lower)):
        meta = {
            "schema": 1,
            "chain": digest,
            "parent": parent,
            "image": image,
            "label": "a box",
            "mac": "",
            "steps": [],
        }
        meta |= {"seconds": 1.0, "created": "2026-01-01T00:00:00+00:00"}
        (paths.layers_dir() / digest / "meta.json").write_text(json.dumps(meta))
    record = machine(tmp_path, "user", image, lower, upper, image=image, layer=upper)
    told = json.loads(invoke("layers", "--json").stdout)["layers"]
    assert {one["sha256"]: one["used_by"] for one in told} == dict.fromkeys((lower, upper), str(record.project))


def test_du_shows_each_class_and_what_gc_would_free(tmp_path: Path) -> None:
    image = blob("image", size=2 * MIB)
    top = layer("top", image, size=MIB)
    template(top)
    record = machine(tmp_path, "user", image, image=image)
    shown = invoke("du")
    rows = {line[:24].strip(): line[24:].split() for line in shown.stdout.splitlines()}
    assert rows["images"] == ["1", "2.0", "MiB", "2.0", "MiB", "-"]
    assert rows["layers"][0] == "1"
    assert rows["layers"][-2:] == ["1.0", "MiB"]
    assert rows["memory for warm starts"][-2:] == ["76.0", "KiB"]
    assert "trash" not in rows
    assert "devbox du -v" in shown.stderr
    named = invoke("du", "-v").stdout
    assert str(record.project) in named
    assert "USED BY" in named


def test_du_for_programs(tmp_path: Path) -> None:
    image = blob("image", size=2 * MIB)
    record = machine(tmp_path, "user", image)
    told = json.loads(invoke("du", "--json").stdout)
    assert told["classes"]["images"] == {"count": 1, "size": 2 * MIB, "length": 2 * MIB, "gc_frees": 0}
    assert told["size"] == sum(one["size"] for one in told["classes"].values())
    (item,) = [one for one in told["items"] if one["what"] == "images"]
    assert (item["name"], item["used_by"]) == ("image", str(record.project))


@pytest.mark.parametrize("verb", ["du", "gc"])
def test_nothing_here(verb: str) -> None:
    shown = invoke(verb)
    assert shown.status == 0
