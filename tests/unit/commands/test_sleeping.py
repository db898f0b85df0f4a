"""The shell text that takes folders out of a guest and sets its clock, run by this computer's shell with stubs."""

import subprocess
from pathlib import Path

import pytest

from devbox.commands import sleeping


def run(tmp_path: Path, script: str, **stubs: str) -> tuple[str, list[str]]:
    """What the script says, and the calls of the stubs."""
    log = tmp_path / "calls"
    log.touch()
    for name, body in stubs.items():
        stub = tmp_path / "bin" / name
        stub.parent.mkdir(exist_ok=True)
        stub.write_text(f'#!/bin/sh\necho "{name} $*" >>{log}\n{body}\n')
        stub.chmod(0o755)
    path = f"{tmp_path}/bin:/usr/bin:/bin"
    done = subprocess.run(["sh"], input=script, env={"PATH": path}, capture_output=True, text=True, check=True)
    return done.stdout, log.read_text().splitlines()


@pytest.mark.parametrize(("guest", "is_set"), [(1000, False), (1001, False), (998, True), (5000, True), (0, True)])
def test_a_clock_that_is_off_by_more_than_a_second_is_set(tmp_path: Path, guest: int, *, is_set: bool) -> None:
    script = sleeping._SETTLE.replace("/sys/class/rtc/rtc0/since_epoch", str(tmp_path / "rtc")) + "clock 1000\n"
    date = f"case $1 in +%s) echo {guest} ;; esac"
    assert ("date -u -s @1000" in run(tmp_path, script, date=date)[1]) == is_set


@pytest.mark.parametrize(
    ("rtc", "guest", "taken"),
    [(1003, 7, 1004), (1000, 999, 1001), (1003, 1003, None), (2000, 7, 1000), (3, 7, 1000), (3, 1001, None)],
)
def test_the_machines_own_clock_is_taken_where_it_can_be_right(
    tmp_path: Path, rtc: int, guest: int, taken: int | None
) -> None:
    (tmp_path / "rtc").write_text(f"{rtc}\n")
    script = sleeping._SETTLE.replace("/sys/class/rtc/rtc0/since_epoch", str(tmp_path / "rtc")) + "clock 1000\n"
    tick = f"echo {rtc + 1} >{tmp_path}/rtc"  # at the beginning of the next second
    calls = run(tmp_path, script, date=f"case $1 in +%s) echo {guest} ;; esac", sleep=tick)[1]
    assert [call for call in calls if "-s" in call] == ([f"date -u -s @{taken}"] if taken else [])


def test_a_folder_in_use_is_named_with_its_users(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"tag {tmp_path} virtiofs rw 0 0\nother /other ext4 rw 0 0\n")
    script = sleeping._DETACH.replace("/proc/mounts", str(mounts))
    with subprocess.Popen(["sleep", "1000"], cwd=tmp_path) as user:
        said, calls = run(tmp_path, f"{script}detach tag '{tmp_path}'\ndetach gone /gone\n", umount="exit 1", sync="")
        forced = run(tmp_path, f"{script}force=1\ndetach tag '{tmp_path}'\n", umount='[ "$1" = -l ]', sync="")
        user.kill()
    assert said.startswith(f"{tmp_path} is in use by: ")
    assert f"sleep ({user.pid})" in said
    assert [call for call in calls if call.startswith("umount")] == [f"umount {tmp_path}"]
    assert forced[0] == ""
    assert f"umount -l {tmp_path}" in forced[1]


def test_a_folder_that_appears_late_is_mounted(tmp_path: Path) -> None:
    fstab = tmp_path / "fstab"
    fstab.write_text("tag /here virtiofs rw,nofail 0 0\n")
    script = sleeping._SETTLE.replace("/etc/fstab", str(fstab)).replace("/proc/mounts", "/dev/null")
    late = f'echo x >>{tmp_path}/tries; [ "$(wc -l <{tmp_path}/tries)" -ge 3 ] || {{ echo "no such tag"; exit 1; }}'
    said, calls = run(tmp_path, f"{script}attach tag /here\nattach unknown /there\n", mount=late, sleep="")
    assert said == ""
    assert calls.count("mount /here") == 3
    assert "mount /there" not in calls
    said, _ = run(tmp_path, f"{script}attach tag /here\n", mount="echo 'no such tag'; exit 1", sleep="")
    assert said == "/here: no such tag\n"
