import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from devbox import proc
from devbox.config.model import FolderType
from devbox.errors import DevboxError
from devbox.guest import openssh
from devbox.share import transfer
from devbox.share.folders import Mount
from tests.unit.guest import sshd

STRANGE = "a b,c 'd' \"e\" $HOME `id` %h \\ ünï:x"
# All that the way without rsync may use in the guest.
BUSYBOX = ("sh", "mkdir", "tar", "cp", "mktemp", "rm", "test", "id", "chmod", "cat")


@pytest.fixture(scope="module", params=["rsync", "guest without rsync"])
def guest(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The ssh_config of a "guest" (a real sshd here), with all programs or with BusyBox's few alone."""
    folder = tmp_path_factory.mktemp("sshd")
    programs = os.defpath
    if request.param != "rsync":
        busybox = shutil.which("busybox")
        if busybox is None:
            pytest.skip("busybox is not installed")
        (folder / "bin").mkdir()
        for name in BUSYBOX:
            (folder / "bin" / name).symlink_to(busybox)
        programs = str(folder / "bin")
    elif shutil.which("rsync") is None:
        pytest.skip("rsync is not installed")
    with sshd.serve(folder, programs=programs) as server:
        config = folder / "it's the ssh config"
        host = openssh.write_ssh_config(config, server.endpoint, "hello", folder)
        has_rsync = proc.run(openssh.ssh_argv(config, host, "command -v rsync"), timeout=60).status == 0
        assert has_rsync is (request.param == "rsync")
        yield config


def push(guest: Path, host: Path, there: Path, *ignore: str) -> None:
    transfer.push([Mount("tag", host, PurePosixPath(there), FolderType.RSYNC, ignore=ignore)], guest)


def fill(folder: Path) -> None:
    (folder / "src" / STRANGE).mkdir(parents=True)
    (folder / "src" / STRANGE / "file").write_bytes(os.urandom(100_000))
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    (folder / "empty").mkdir()
    (folder / "link").symlink_to("src")
    (folder / "dangling").symlink_to("/nowhere")
    (folder / ".devbox").mkdir()
    (folder / ".devbox" / "id").write_text("0123456789ab\n")
    (folder / ("n" * 200)).write_text("a long name")
    os.utime(folder / "run.sh", (1_000_000_000, 1_000_000_000))


def tree(folder: Path) -> dict[str, tuple[int, bytes | str]]:
    found: dict[str, tuple[int, bytes | str]] = {}
    for path in folder.rglob("*"):
        name, mode = str(path.relative_to(folder)), path.lstat().st_mode
        if path.is_symlink():
            found[name] = (mode, str(path.readlink()))
        else:
            found[name] = (mode, path.read_bytes() if path.is_file() else b"")
    return found


@pytest.mark.parametrize("name", ["plain", STRANGE])
def test_the_folder_arrives_as_it_is_but_for_devbox_s_own(guest: Path, tmp_path: Path, name: str) -> None:
    host, there = tmp_path / "host" / name, tmp_path / "guest" / name / "below"
    fill(host)
    push(guest, host, there)
    expected = {path: what for path, what in tree(host).items() if not path.startswith(".devbox")}
    assert tree(there) == expected
    assert (there / "run.sh").stat().st_mtime == 1_000_000_000


def test_only_what_is_newer_here_is_copied_and_nothing_deleted(guest: Path, tmp_path: Path) -> None:
    host, there = tmp_path / "host", tmp_path / "guest"
    host.mkdir()
    for name in ("theirs", "ours"):
        (host / name).write_text("from the host")
    push(guest, host, there)
    (there / "made there").write_text("stays")
    (there / "theirs").write_text("changed there")
    (host / "ours").write_text("changed here")
    now = (host / "ours").stat().st_mtime
    os.utime(there / "theirs", (now + 100, now + 100))
    os.utime(host / "ours", (now + 100, now + 100))
    push(guest, host, there)
    assert {path.name: path.read_text() for path in there.iterdir()} == {
        "made there": "stays",
        "theirs": "changed there",
        "ours": "changed here",
    }
    assert (host / "theirs").read_text() == "from the host"


def test_what_is_ignored_stays_here(guest: Path, tmp_path: Path) -> None:
    host, there = tmp_path / "host", tmp_path / "guest"
    for name in (
        "node_modules/a",
        "web/node_modules/b",
        "web/x.log",
        "build/c",
        "web/build/d",
        "web/build.txt",
        "e/f/g",
    ):
        (host / name).parent.mkdir(parents=True, exist_ok=True)
        (host / name).write_text(name)
    push(guest, host, there, "node_modules/", "*.log", "/build", "e/f")
    assert sorted(str(path.relative_to(there)) for path in there.rglob("*") if path.is_file()) == [
        "web/build.txt",
        "web/build/d",
    ]


def test_sockets_and_pipes_are_left_out(guest: Path, tmp_path: Path) -> None:
    host, there = tmp_path / "host", tmp_path / "guest"
    host.mkdir()
    (host / "file").write_text("x")
    os.mkfifo(host / "pipe")
    with socket.socket(socket.AF_UNIX) as held:
        held.bind(str(host / "socket"))
        push(guest, host, there)
    assert [path.name for path in there.iterdir()] == ["file"]


def test_a_failure_is_told(guest: Path, tmp_path: Path) -> None:
    (tmp_path / "host").mkdir()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DevboxError) as caught:
        push(guest, tmp_path / "host", tmp_path / "file")
    assert caught.value.id == "folder.copy-failed"
    assert caught.value.details
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_host_without_rsync_will_do(guest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = proc.find_tool

    def without(name: str, *, hint: str = "") -> Path:
        return find("no-such-rsync" if name == "rsync" else name, hint=hint)

    monkeypatch.setattr(proc, "find_tool", without)
    fill(tmp_path / "host")
    push(guest, tmp_path / "host", tmp_path / "guest")
    expected = {path: what for path, what in tree(tmp_path / "host").items() if not path.startswith(".devbox")}
    assert tree(tmp_path / "guest") == expected


@pytest.mark.parametrize(
    ("path", "pattern", "left_out"),
    [
        ("node_modules/", "node_modules/", True),
        ("node_modules", "node_modules/", False),
        ("a/node_modules/", "node_modules", True),
        ("a/b.log", "*.log", True),
        ("a/b.logs", "*.log", False),
        ("build/", "/build", True),
        ("a/build/", "/build", False),
        ("a/b/c", "b/c", True),
        ("a/bb/c", "b/c", False),
        ("a/b", "a/*", True),
        ("a/b/c", "/a/**", True),
        ("a/x1", "x[0-9]", True),
        ("a/xy", "x[!0-9]", True),
        ("a/x1", "x[!0-9]", False),
        ("a/x.y", "x?y", True),
        ("a/xzy", "x.y", False),
        (".devbox/", "/.devbox/", True),
        ("a/.devbox/", "/.devbox/", False),
    ],
)
def test_patterns_mean_what_they_mean_to_rsync(path: str, pattern: str, *, left_out: bool, tmp_path: Path) -> None:
    folder = path.endswith("/")
    assert transfer.is_left_out(PurePosixPath(path), (pattern,), folder=folder) is left_out
    rsync = shutil.which("rsync")
    if rsync is None:
        pytest.skip("rsync is not installed, so it cannot be asked")
    made = tmp_path / "from" / path
    if folder:
        made.mkdir(parents=True)
    else:
        made.parent.mkdir(parents=True)
        made.touch()
    proc.run([rsync, "-r", f"--exclude={pattern}", f"{tmp_path}/from/", f"{tmp_path}/to/"], timeout=60)
    assert (tmp_path / "to" / path).exists() is not left_out
