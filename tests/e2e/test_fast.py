"""The fast profile on real Debian: a first boot without boot loader and cloud-init, and the same machine after it."""

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checkout import Checkout

pytestmark = pytest.mark.e2e

DEVBOXFILE = """\
version: 1
name: NAME
hostname: shop.internal
box: {recipe: debian-12}
memory: 1GiB
disk: 6GiB
folders: []
user: {groups: [adm, builders]}
"""
# What both profiles must have alike, each part by a command of the guest's own.
# (ext4 says mb_optimize_scan of a file system that grew, until the next boot.)
SAME = r"""
id; getent passwd dev; getent group dev adm builders; grep ^dev: /etc/subuid /etc/subgid
hostname; hostname -f; cat /etc/hostname; tr -s '[:space:]' ' ' </etc/hosts
readlink /etc/resolv.conf; grep -v '^#' /etc/resolv.conf
df -B64M --output=size /; findmnt -no SOURCE,FSTYPE,OPTIONS / | sed s/,mb_optimize_scan=0//; cat /etc/fstab
sudo -n sh -c '
  stat -c "%n %a %U" /root/.ssh/* /home/dev/.ssh /home/dev/.ssh/* /etc/sudoers.d /etc/ssh/*_key /etc/machine-id
  wc -c </root/.ssh/authorized_keys; cut -d: -f1,2 /etc/shadow | grep -e root -e dev
  cat /etc/default/locale; grep -hv -e "^#" -e "^$" /etc/sudoers.d/*'
systemctl --failed --no-legend; systemctl list-timers --all --no-legend | grep -o '[a-z0-9_-]*\.timer' | sort
networkctl --no-legend | awk '{print $3, $4, $5}'; ls /var/lib/systemd/random-seed
"""


def guest(checkout: Checkout, text: str) -> str:
    done = checkout.devbox("run", "--", "sh", "-c", text)
    assert done.returncode == 0, done.stderr
    return done.stdout


def folder(checkout: Checkout) -> Path:
    identity: str = json.loads(checkout.devbox("status", "--json", timeout=60).stdout)["id"]
    return Path(checkout.env["DEVBOX_STATE_DIR"]) / "machines" / identity


def qemu(checkout: Checkout) -> tuple[int, list[str]]:
    pid = json.loads(checkout.devbox("status", "--json", timeout=60).stdout)["pid"]
    return pid, Path(f"/proc/{pid}/cmdline").read_text().split("\0")


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory, person: dict[str, str]) -> Iterator[Checkout]:
    root = tmp_path_factory.mktemp("fast")
    checkout = Checkout(root, person)
    checkout.write(DEVBOXFILE.replace("NAME", "fast"))
    yield checkout
    checkout.devbox("destroy", "--yes")


def test_killed_in_the_middle_it_begins_again(fast: Checkout) -> None:
    """QEMU is started with the kernel, and nothing secret on its command line; then all of it is killed."""
    with fast.start("up", "--no-provision") as interrupted:
        deadline = time.monotonic() + 300
        pid, words = 0, [""]
        while "-kernel" not in words:
            assert time.monotonic() < deadline
            assert interrupted.poll() is None
            for file in Path(fast.env["DEVBOX_RUNTIME_DIR"]).glob("*/qemu.pid"):
                pid = int(file.read_text() or 0)
                words = Path(f"/proc/{pid}/cmdline").read_text().split("\0") if pid else words
            time.sleep(0.1)
        interrupted.kill()
        interrupted.communicate()
    where = folder(fast)
    private = re.sub(r"-----.*?-----|\s", "", (where / "host_ed25519").read_text())
    assert private[:40] not in "".join(words)
    assert f"type=11,path={where}/first_boot" in words
    assert (where / "first_boot").stat().st_mode & 0o777 == 0o600
    assert not (where / "seed.iso").exists()
    os.kill(pid, signal.SIGKILL)

    assert fast.devbox("up", "--no-provision").returncode == 0
    assert (where / "adopted").exists()
    assert not (where / "first_boot").exists()
    assert not (where / "seed.iso").exists()


def test_the_machine_is_set_up_without_cloud_init(fast: Checkout) -> None:
    assert "status: disabled" in guest(fast, "cloud-init status || :")
    assert guest(fast, "systemctl is-system-running --wait").strip() == "running"
    assert guest(fast, "ls -d /var/lib/cloud/instance 2>/dev/null || echo none") == "none\n"
    assert guest(fast, "whoami; sudo -n id -u") == "dev\n0\n"
    assert "-kernel" not in qemu(fast)[1]
    host = (folder(fast) / "known_hosts").read_text().split()[2]
    assert guest(fast, "cat /etc/ssh/ssh_host_*_key.pub").split()[1] == host
    before = json.loads(fast.devbox("status", "--json").stdout)
    assert fast.devbox("up").returncode == 0
    assert json.loads(fast.devbox("status", "--json").stdout)["pid"] == before["pid"]


def test_a_reboot_of_the_first_run_goes_by_the_boot_loader(fast: Checkout) -> None:
    assert "ip=dhcp" in guest(fast, "cat /proc/cmdline")
    pid, _ = qemu(fast)
    text = fast.root / "Devboxfile"
    text.write_text(text.read_text() + "provision:\n  - reboot: {}\n")
    assert fast.devbox("up").returncode == 0
    cmdline = guest(fast, "cat /proc/cmdline")
    assert "BOOT_IMAGE=" in cmdline
    assert "ip=dhcp" not in cmdline
    assert qemu(fast)[0] == pid
    assert guest(fast, "sudo -n cat /root/.ssh/authorized_keys") == ""


def test_later_boots_are_plain(fast: Checkout) -> None:
    assert fast.devbox("halt").returncode == 0
    assert fast.devbox("up").returncode == 0
    assert "BOOT_IMAGE=" in guest(fast, "cat /proc/cmdline")
    assert "status: disabled" in guest(fast, "cloud-init status || :")
    assert guest(fast, "systemctl is-system-running --wait").strip() == "running"


def test_it_is_the_machine_that_the_plain_profile_makes(fast: Checkout, tmp_path: Path, person: dict[str, str]) -> None:
    plain = Checkout(tmp_path, person)
    plain.write(DEVBOXFILE.replace("NAME", "plain") + "boot: firmware\n")
    try:
        assert plain.devbox("up", "--no-layers").returncode == 0
        assert (folder(plain) / "seed.iso").exists()
        assert "BOOT_IMAGE=" in guest(plain, "cat /proc/cmdline")
        assert "status: done" in guest(plain, "cloud-init status --wait")
        assert guest(fast, SAME) == guest(plain, SAME)
        ids = [guest(one, "cat /etc/machine-id") for one in (fast, plain)]
        assert ids[0] != ids[1]
        assert {len(one) for one in ids} == {33}
    finally:
        plain.devbox("destroy", "--yes")
