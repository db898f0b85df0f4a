"""Debian 13, and the road by UEFI: the same verbs, another box and another firmware."""

from collections.abc import Iterator

import pytest

from tests.checkout import Checkout

pytestmark = pytest.mark.e2e

DEVBOXFILE = """\
version: 1
name: trixie
box: {recipe: debian-13}
firmware: uefi
memory: 1GiB
disk: 8GiB
folders: []
provision:
  - name: note
    file: {path: /etc/devbox-was-here, content: "yes\\n"}
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, person: dict[str, str]) -> Iterator[Checkout]:
    checkout = Checkout(tmp_path_factory.mktemp("trixie"), person)
    checkout.write(DEVBOXFILE)
    yield checkout
    checkout.devbox("destroy", "--yes")


def test_debian_13_boots_by_uefi_and_is_provisioned(checkout: Checkout) -> None:
    assert checkout.devbox("up").returncode == 0
    told = checkout.devbox("run", "--", "sh", "-c", ". /etc/os-release; echo $ID $VERSION_ID; cat /etc/devbox-was-here")
    assert told.stdout == "debian 13\nyes\n"
    assert checkout.devbox("run", "--", "test", "-d", "/sys/firmware/efi").returncode == 0


def test_a_reload_brings_it_back(checkout: Checkout) -> None:
    checkout.write(DEVBOXFILE.replace("memory: 1GiB", "memory: 1280MiB"))
    assert "devbox reload" in checkout.devbox("up").stderr
    assert checkout.devbox("reload").returncode == 0
    total = checkout.devbox("run", "--", "awk", "/MemTotal/ {print $2}", "/proc/meminfo").stdout
    assert int(total) > 1100 * 1024
    assert "note" not in checkout.devbox("provision", "--check").stdout.replace("preview", "")
