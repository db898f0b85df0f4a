from dataclasses import replace
from pathlib import Path

import pytest

from devbox.box import catalogue, recipe
from devbox.config.model import Arch, BoxRef, Digest, Firmware
from devbox.errors import DevboxError, ExitCode

PIN = Digest("sha256", "ab" * 32)
NAMED = (
    "debian-12",
    "debian-13",
    "ubuntu-22.04",
    "ubuntu-24.04",
    "ubuntu-26.04",
    "fedora-43",
    "fedora-44",
    "almalinux-9",
    "almalinux-10",
    "rocky-9",
    "rocky-10",
    "centos-stream-9",
    "centos-stream-10",
    "opensuse-leap-15",
    "opensuse-leap-16",
    "archlinux",
    "alpine-3.22",
    "alpine-3.23",
)


def refused(id: str, ref: BoxRef, arch: Arch = Arch.X86_64) -> DevboxError:
    with pytest.raises(DevboxError) as caught:
        catalogue.resolve(ref, arch)
    assert caught.value.id == id
    return caught.value


def test_every_distribution_asked_for_is_there_for_both_architectures() -> None:
    boxes = {box.name: box for box in catalogue.boxes()}
    assert sorted(boxes) == sorted(NAMED)
    assert {tuple(box.sources) for box in boxes.values()} == {(Arch.X86_64, Arch.AARCH64)}


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("arch", Arch)
def test_each_box_has_a_digest_or_says_that_it_has_none(name: str, arch: Arch) -> None:
    ref = BoxRef(name=name)
    if name.startswith("opensuse"):
        assert "devbox lock" in refused("box.unpinned", ref, arch).hint
        assert catalogue.resolve(ref, arch, PIN).digest == PIN
    else:
        source = catalogue.resolve(ref, arch, PIN)
        assert source.digest not in {None, PIN}
    source = catalogue.locate(ref, arch)
    assert source.url.startswith("https://")
    assert source.traits.label == name
    if arch is Arch.AARCH64 or name.startswith("alpine"):
        assert source.traits.firmware == (Firmware.UEFI,)
    elif name.startswith("centos"):
        assert source.traits.firmware == (Firmware.BIOS,)
    else:
        assert source.traits.firmware == (Firmware.BIOS, Firmware.UEFI)


def test_no_name_stands_for_two_boxes() -> None:
    every = [name for box in catalogue.boxes() for name in (box.name, *box.aliases)]
    assert len(every) == len(set(every))
    assert catalogue.names() == tuple(sorted(every))


@pytest.mark.parametrize(
    ("alias", "name"), [("debian", "debian-13"), ("ubuntu-lts", "ubuntu-26.04"), ("arch", "archlinux")]
)
def test_an_alias_is_its_box(alias: str, name: str) -> None:
    named = catalogue.resolve(BoxRef(name=name), Arch.X86_64)
    assert catalogue.resolve(BoxRef(name=alias), Arch.X86_64) == named


def test_a_wrong_name_gets_a_guess() -> None:
    error = refused("box.unknown", BoxRef(name="debain-12"))
    assert "Did you mean debian-12?" in error.message
    assert "devbox box list" in error.hint
    assert error.exit_code is ExitCode.USAGE
    assert "debian-13" in refused("box.unknown", BoxRef(recipe="debian13")).message


@pytest.mark.parametrize("name", ["../boxes/debian-12", "/etc/passwd", "", ".", "zzz"])
def test_a_name_is_no_path(name: str) -> None:
    if name:
        refused("box.unknown", BoxRef(name=name))


def test_a_digest_of_ones_own_goes_first() -> None:
    assert catalogue.resolve(BoxRef(name="debian-12", digest=PIN), Arch.X86_64).digest == PIN


def test_an_image_by_address_or_path(tmp_path: Path) -> None:
    by_url = BoxRef(url="https://images.test/d/disk.raw.xz?token=x", format="raw")
    refused("box.unpinned", by_url)
    source = catalogue.resolve(by_url, Arch.AARCH64, PIN)
    assert (source.traits.label, source.digest, source.format) == ("disk.raw.xz", PIN, "raw")
    assert source.traits.firmware == (Firmware.UEFI,)
    by_path = BoxRef(path=tmp_path / "disk.qcow2", digest=PIN)
    assert catalogue.resolve(by_path, Arch.X86_64).path == tmp_path / "disk.qcow2"
    refused("box.unpinned", replace(by_path, digest=None))


@pytest.mark.parametrize("name", recipe.RECIPES)
@pytest.mark.parametrize("arch", Arch)
def test_a_recipe_needs_no_digest(name: str, arch: Arch) -> None:
    source = catalogue.resolve(BoxRef(recipe=name, packages=("git",)), arch)
    assert (source.recipe, source.packages, source.traits.arch, source.traits.os) == (name, ("git",), arch, "debian")


def test_a_box_without_the_architecture(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "only.yaml").write_text(
        "title: Only\nos: debian\nuser: debian\nimages:\n  aarch64:\n"
        "    url: https://images.test/i\n    pinned: false\n    format: qcow2\n    firmware: [uefi]\n"
    )
    monkeypatch.setattr("devbox.paths.resource_dir", lambda _: tmp_path)
    assert "only for aarch64" in refused("box.no-arch", BoxRef(name="only")).message
