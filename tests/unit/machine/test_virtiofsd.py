"""The helper's arguments: both kinds of virtiofsd, and no promise that it cannot keep."""

import socket
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from devbox.config.model import FolderType
from devbox.errors import DevboxError
from devbox.machine import virtiofsd
from devbox.share.folders import Mount
from tests.unit.machine.test_argv import LINUX, machine

MOUNT = Mount("tag", Path("/home/ada/a,b\\c"), PurePosixPath("/workspace"), FolderType.VIRTIOFS)


def test_the_rust_one() -> None:
    words = list(virtiofsd.argv(MOUNT, LINUX, 7))
    assert words[words.index("--shared-dir") + 1] == "/home/ada/a,b\\c"
    assert words[words.index("--sandbox") + 1] == "none", "without root there is no namespace to be had for sure"
    assert "namespace" in virtiofsd.argv(MOUNT, replace(LINUX, uid=0), 7)


def test_the_c_one_reads_an_option_list() -> None:
    facts = replace(LINUX, virtiofsd_unprivileged=False, uid=0)
    words = virtiofsd.argv(MOUNT, facts, 7)
    assert "source=/home/ada/a\\,b\\\\c" in words
    assert "--fd=7" in words


def test_a_helper_that_a_kill_left_waiting_hears_a_hang_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    (tmp_path / "gone.fs").touch()
    with socket.socket(socket.AF_UNIX) as helper:
        helper.bind("left.fs")
        helper.listen(1)
        virtiofsd.end_leftovers(Path())
        helper.settimeout(10)
        with helper.accept()[0] as line:
            assert line.recv(1) == b""


def test_what_it_cannot_do_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DevboxError, match="keep the guest from writing"):
        virtiofsd.argv(replace(MOUNT, readonly=True), LINUX, 7)
    with pytest.raises(DevboxError, match="not installed"):
        virtiofsd.start(machine(mounts=(MOUNT,)), replace(LINUX, virtiofsd=None), tmp_path / "log")
