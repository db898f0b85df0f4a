import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from devbox.box import image, recipe, store
from devbox.config import lock as locks
from devbox.config.lock import FilePin
from devbox.config.model import Arch
from devbox.errors import ExitCode
from devbox.provision import artefacts
from tests.unit.commands.invoke import invoke
from tests.unit.commands.world import NEW, OLD, TOOL, World, sha256, sha512, worlds


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    yield from worlds(tmp_path, monkeypatch)


def tool(url: str, name: str = "tool", more: str = "") -> str:
    return f'{{name: {name}, download: {{url: "{url}", path: /opt/{name}{more}}}}}'


def test_an_image_without_a_digest_is_pinned_once(world: World) -> None:
    (world.root / "disk.raw").write_bytes(OLD)
    world.ask("{path: disk.raw, format: raw}")
    shown = invoke("lock", "--approve=all")
    assert shown.status == ExitCode.DONE
    assert sha256(OLD) in shown.stderr
    (pin,) = json.loads(world.lock_text())["machines"]["default"].values()
    assert pin == {"source": "path:disk.raw", "sha256": sha256(OLD), "size": len(OLD)}
    assert store.have(sha256(OLD)) is not None

    shown = invoke("lock")
    assert shown.status == ExitCode.DONE
    assert "is locked" in shown.stderr
    assert "is up to date" in shown.stderr


def test_what_has_a_published_digest_is_fetched_to_know_the_rest(world: World) -> None:
    url = world.publish("/old.img", OLD)
    world.catalogue(url, OLD)
    world.ask()
    assert invoke("lock").status == ExitCode.DONE
    (pin,) = json.loads(world.lock_text())["machines"]["default"].values()
    assert pin == {
        "source": "deb",
        "url": url,
        "digest": f"sha512:{sha512(OLD)}",
        "sha256": sha256(OLD),
        "size": len(OLD),
    }


def test_without_a_network_the_published_digest_must_do(world: World) -> None:
    url = world.publish("/old.img", OLD)
    world.catalogue(url, OLD)
    world.ask()
    world.server.close()
    shown = invoke("lock")
    assert shown.status == ExitCode.DONE
    assert "by its published digest" in shown.stderr
    (pin,) = json.loads(world.lock_text())["machines"]["default"].values()
    assert pin == {"source": "deb", "url": url, "digest": f"sha512:{sha512(OLD)}"}
    world.server.ended.set()


def test_a_recipe_is_locked_without_being_built(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "build", lambda *_: pytest.fail("built"))
    world.ask("{recipe: debian-12, packages: [git]}")
    assert invoke("lock", "--arch", "x86_64", "--arch", "aarch64").status == ExitCode.DONE
    pins = json.loads(world.lock_text())["machines"]["default"]
    assert pins.keys() == {"aarch64", "x86_64"}
    for arch, pin in pins.items():
        inputs = recipe.inputs_digest("debian-12", Arch(arch), ("git",))
        assert pin == {"source": "recipe:debian-12 git", "inputs": inputs}


def test_nothing_is_fetched_before_approval(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.ask("{url: 'https://images.test/x'}")
    monkeypatch.setattr(image, "pin", lambda _: pytest.fail("fetched"))
    assert invoke("lock").status == ExitCode.FAILED
    assert not (world.root / "Devboxfile.lock").exists()


def test_files_of_steps_are_locked_with_their_size(world: World) -> None:
    one, two = world.publish("/one", TOOL), world.publish("/two", OLD)
    key = world.publish("/key.asc", b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n")
    world.catalogue(world.publish("/img", NEW), NEW)
    repository = f'{{repository: {{name: r, url: "https://deb.test", key: {{url: "{key}"}}}}}}'
    world.ask("deb", tool(one), tool(two, "two", f", sha256: {sha256(OLD)}"), repository)
    shown = invoke("lock")
    assert shown.status == ExitCode.DONE
    assert f"no digest for {one}: compare sha256:{sha256(TOOL)}" in shown.stderr
    assert f"no digest for {two}" not in shown.stderr
    files = locks.read(world.root).files
    assert files[one] == FilePin(sha256(TOOL), len(TOOL))
    assert files[two] == FilePin(sha256(OLD), len(OLD))
    assert files[key].size == 37
    assert artefacts.path(sha256(TOOL)).read_bytes() == TOOL
    asked = world.asked()
    assert "up to date" in invoke("lock").stderr
    assert world.asked() == asked


def test_a_file_that_is_not_what_the_devboxfile_says_is_not_locked(world: World) -> None:
    one = world.publish("/one", TOOL)
    world.catalogue(world.publish("/img", NEW), NEW)
    world.ask("deb", tool(one, more=f", sha256: {sha256(OLD)}"))
    assert invoke("lock").status == ExitCode.FAILED
    assert not (world.root / "Devboxfile.lock").exists()


def locked(world: World) -> tuple[str, str]:
    one, two = world.publish("/one", TOOL), world.publish("/two", TOOL)
    world.catalogue(world.publish("/old.img", OLD), OLD)
    world.ask("deb", tool(one, "one"), tool(two, "two"))
    assert invoke("lock").status == ExitCode.DONE
    world.catalogue(world.publish("/new.img", NEW), NEW)
    world.publish("/one", b"newer one")
    world.publish("/two", b"newer two")
    return one, two


def test_update_moves_everything_and_shows_it(world: World) -> None:
    one, two = locked(world)
    before = world.lock_text()
    assert "up to date" in invoke("lock").stderr
    assert world.lock_text() == before
    shown = invoke("lock", "--update")
    assert shown.status == ExitCode.DONE
    assert f"deb (x86_64): sha512:{sha512(OLD)[:16]}… → sha512:{sha512(NEW)[:16]}…, from http://" in shown.stderr
    assert f"{one}: sha256:{sha256(TOOL)[:16]}… → sha256:{sha256(b'newer one')[:16]}…" in shown.stderr
    now = locks.read(world.root)
    assert {now.files[one], now.files[two]} == {FilePin(sha256(text), 9) for text in (b"newer one", b"newer two")}
    assert world.resolve() == NEW
    again = invoke("lock", "--update")
    assert "has not moved" in again.stderr
    assert "up to date" in again.stderr


@pytest.mark.parametrize("by", ["name", "address"])
def test_update_of_one_leaves_the_others(world: World, by: str) -> None:
    one, two = locked(world)
    old = locks.read(world.root)
    assert invoke("lock", "--update", "two" if by == "name" else two).status == ExitCode.DONE
    now = locks.read(world.root)
    assert now.pins == old.pins
    assert (now.files[one], now.files[two]) == (old.files[one], FilePin(sha256(b"newer two"), 9))
    assert invoke("lock", "--update", "deb").status == ExitCode.DONE
    assert locks.read(world.root).files == now.files
    assert locks.read(world.root).pins != old.pins


def test_update_moves_other_architectures_by_what_is_published(world: World) -> None:
    world.catalogue(world.publish("/old.img", OLD), OLD)
    world.ask()
    assert invoke("lock", "--arch", "x86_64", "--arch", "aarch64").status == ExitCode.DONE
    url = world.publish("/new.img", NEW)
    world.catalogue(url, NEW)
    shown = invoke("lock", "--update", "--arch", "aarch64")
    assert "deb (aarch64): " in shown.stderr
    assert "deb (x86_64)" not in shown.stderr
    assert invoke("lock", "--update").status == ExitCode.DONE
    assert {pin.url for pin in locks.read(world.root).pins.values()} == {url}


def test_an_unknown_name_is_told_with_those_there_are(world: World) -> None:
    locked(world)
    shown = invoke("lock", "--update", "three")
    assert shown.status == ExitCode.USAGE
    assert "nothing to lock that is called 'three'" in shown.stderr
    assert "There is: deb, one, two." in shown.stderr


def test_what_the_devboxfile_no_longer_fetches_is_dropped(world: World) -> None:
    one, _ = locked(world)
    world.ask("deb", tool(one, "one"))
    assert invoke("lock").status == ExitCode.DONE
    assert locks.read(world.root).files.keys() == {one}


def test_a_step_without_a_digest_is_refused_until_it_is_locked(world: World) -> None:
    world.catalogue(world.publish("/img", OLD), OLD)
    world.ask("deb", tool(world.publish("/one?token=secret", TOOL)))
    shown = invoke("validate")
    assert shown.status == ExitCode.USAGE
    assert "give its sha256, or let `devbox lock` fetch it once" in shown.stderr
    assert "secret" not in shown.stderr
    assert invoke("lock").status == ExitCode.DONE
    assert invoke("validate").status == ExitCode.DONE
