"""`copy` for real under each shell: drift of every sort is found and mended, and nothing else is touched."""

import grp
import os
import pwd
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from devbox.errors import DevboxError
from devbox.provision.apply import Options, Report, provision
from tests.unit.provision.fake import FakeGuest, step

ODD = ["with space", "ünï", "new\nline", "back\\slash", "a -> b", "-n", "'quoted\"$x", "cr\r", "\\n", "*", "tab\t"]
Copy = Callable[..., Report]


@pytest.fixture
def source(project: Path) -> Path:
    source = project / "tree"
    for name in ("a.txt", "bin/tool", "deep/er/b.txt", "deep/c.txt", *(f"odd/{name}" for name in ODD)):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(f"content of {name}\n")
    (source / "bin/tool").chmod(0o755)
    (source / "odd/folder\\\n").mkdir()
    (source / "odd/folder\\\n/x").write_text("x")
    (source / "empty").mkdir()
    (source / "link").symlink_to("deep/er")
    (source / "dangling -> link").symlink_to("no\nwhere -> ")
    (source / "plain").symlink_to("/no/where")
    return source


@pytest.fixture
def dest(guest: FakeGuest) -> Path:
    return guest.path("srv/www data")


@pytest.fixture
def copy(guest: FakeGuest, project: Path, dest: Path) -> Copy:
    def go(**options: Any) -> Report:
        steps = (step("copy", {"src": "tree", "dest": str(dest), **options}),)
        return provision(guest, steps, guest.context(project), Options())

    return go


def status(report: Report) -> str:
    return str(report.outcomes[0].status)


def found(report: Report) -> str:
    (change,) = report.outcomes[0].changes
    return str(change.old)


def listing(top: Path) -> dict[str, tuple[str, object]]:
    """Everything below, with what it is."""
    made: dict[str, tuple[str, object]] = {}
    for path in top.rglob("*"):
        name = path.relative_to(top).as_posix()
        if path.is_symlink():
            made[name] = ("link", os.readlink(path))  # noqa: PTH115 - as it is
        elif path.is_dir():
            made[name] = ("folder", oct(path.stat().st_mode & 0o777))
        else:
            made[name] = (oct(path.stat().st_mode & 0o777), path.read_text())
    return made


def expected(source: Path) -> dict[str, tuple[str, object]]:
    modes = {"bin/tool": "0o755"}
    return {
        name: (kind if kind == "link" else "folder", what if kind == "link" else "0o755")
        if kind in {"link", "folder"}
        else (modes.get(name, "0o644"), what)
        for name, (kind, what) in listing(source).items()
    }


def test_a_whole_tree_and_then_nothing(copy: Copy, guest: FakeGuest, source: Path, dest: Path) -> None:
    assert status(copy()) == "changed"
    assert guest.channels == 2
    assert listing(dest) == expected(source)
    assert status(copy()) == "same"
    assert guest.channels == 3
    assert [path.name for path in dest.parent.iterdir()] == [dest.name], "nothing is left beside it"


# Shell text, run in the destination.
DRIFT = {
    "a.txt is different": "echo '?' >a.txt",
    "deep/c.txt is missing": "rm deep/c.txt",
    "bin/tool is different": "chmod 0644 bin/tool",
    "deep/er is missing": "rm -r deep/er",
    "empty is missing": "rmdir empty; touch empty",
    "plain is different": "ln -sfn /else plain",
    "link is missing": "rm link; touch link",
    "deep/c.txt is different": "rm deep/c.txt; mkfifo deep/c.txt",
    "odd/new\\nline is different": "for name in odd/new*; do echo '?' >\"$name\"; done",
    "odd/back\\\\slash is missing": "rm odd/back*",
    "odd/with space is different": "echo '?' >'odd/with space'",
}


@pytest.mark.parametrize("what", DRIFT)
def test_drift_is_found_and_mended(what: str, copy: Copy, guest: FakeGuest, source: Path, dest: Path) -> None:
    copy()
    untouched = (dest / "odd/ünï").stat()
    subprocess.run(["sh", "-c", DRIFT[what]], cwd=dest, check=True)
    channels = guest.channels
    report = copy()
    assert what in found(report)
    assert found(report).startswith(f"{found(report).count(' is ')} differ: ")
    assert status(report) == "changed"
    assert guest.channels == channels + 2
    assert listing(dest) == expected(source)
    assert (dest / "odd/ünï").stat().st_ino == untouched.st_ino, "what was right is not touched"
    assert status(copy()) == "same"


def test_what_else_is_there_is_left_alone(copy: Copy, source: Path, dest: Path) -> None:
    copy()
    (dest / "deep/mine").write_text("mine")
    assert status(copy()) == "same"
    (source / "deep/c.txt").unlink()
    assert status(copy()) == "same"
    assert {path.name for path in (dest / "deep").iterdir()} == {"er", "mine", "c.txt"}


def test_delete_removes_all_else_but_what_is_ignored(copy: Copy, source: Path, dest: Path) -> None:
    options = {"delete": True, "ignore": ["*.log", "cache/", "/deep/keep", "**.tmp"]}
    (source / "a.log").write_text("never copied")
    (source / "cache").mkdir()
    (source / "cache/x").write_text("never copied")
    assert status(copy(**options)) == "changed"
    assert not (dest / "a.log").exists()
    assert status(copy(**options)) == "same"
    for name in ("deep/my.log", "cache/y", "deep/keep/z", "deep/er/z.tmp"):
        (dest / name).parent.mkdir(exist_ok=True)
        (dest / name).write_text("kept")
    assert status(copy(**options)) == "same"
    for name in ("mine", "deep/keep.not", "deep/new\nline", "sub/folder/x", "deep/-rf"):
        (dest / name).parent.mkdir(parents=True, exist_ok=True)
        (dest / name).write_text("goes")
    (dest / "broken").symlink_to("nowhere")
    report = copy(**options)
    assert "mine is too much" in found(report)
    assert status(report) == "changed"
    kept = {"deep/my.log", "cache", "cache/y", "deep/keep", "deep/keep/z", "deep/er/z.tmp"}
    assert set(listing(dest)) == (set(listing(source)) - {"a.log", "cache/x"}) | kept
    (source / "bin/tool").unlink()
    (source / "bin").rmdir()
    assert status(copy(**options)) == "changed"
    assert not (dest / "bin").exists()


@pytest.mark.usefixtures("source")
def test_a_folder_in_the_place_of_a_file(copy: Copy, dest: Path) -> None:
    (dest / "a.txt").mkdir(parents=True)
    (dest / "a.txt/precious").write_text("x")
    with pytest.raises(DevboxError) as failed:
        copy()
    assert "a.txt is a folder" in str(failed.value.details)
    assert (dest / "a.txt/precious").exists()
    assert not (dest / ".devbox-aside").exists()
    assert status(copy(delete=True)) == "changed"


@pytest.mark.usefixtures("source")
def test_something_else_in_the_place_of_the_destination(copy: Copy, dest: Path) -> None:
    dest.parent.mkdir()
    dest.write_text("a file")
    with pytest.raises(DevboxError) as failed:
        copy()
    assert "is not a folder" in str(failed.value.details)
    assert dest.read_text() == "a file"


def test_links_to_folders_are_followed(copy: Copy, source: Path, dest: Path) -> None:
    (dest.parent / "real").mkdir(parents=True)
    (dest.parent / "elsewhere").mkdir()
    dest.symlink_to("real")
    (dest.parent / "real/bin").symlink_to("../elsewhere")
    assert status(copy()) == "changed"
    assert (dest.parent / "elsewhere/tool").read_text() == "content of bin/tool\n"
    assert (dest / "bin").is_symlink()
    assert status(copy()) == "same"


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_owner_group_and_mode(copy: Copy, source: Path, dest: Path) -> None:
    other, group = pwd.getpwnam("nobody"), grp.getgrnam("adm")
    options = {"owner": "nobody", "group": "adm", "mode": "0640"}
    assert status(copy(**options)) == "changed"
    for path in (dest, *dest.rglob("*")):
        info = path.lstat()
        assert (info.st_uid, info.st_gid) == (other.pw_uid, group.gr_gid)
        if not path.is_symlink():
            wanted = 0o755 if path.is_dir() else 0o750 if path.name == "tool" else 0o640
            assert info.st_mode & 0o7777 == wanted
    assert status(copy(**options)) == "same"
    for spoil in ("chown 0 a.txt", "chgrp 0 odd/cr*", "chmod 0644 a.txt", "chmod 0755 bin/tool"):
        subprocess.run(["sh", "-c", spoil], cwd=dest, check=True)
        assert found(copy(**options)).startswith("1 differ: "), spoil
        assert status(copy(**options)) == "same"


def test_two_thousand_files_take_few_programs(copy: Copy, guest: FakeGuest, project: Path, dest: Path) -> None:
    for number in range(2000):
        path = project / f"tree/folder {number % 40}/file {number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(number))
    assert status(copy()) == "changed"
    calls = guest.path("calls")
    for name in ("stat", "sha256sum"):
        real = next(path for path in (f"/usr/bin/{name}", f"/bin/{name}") if Path(path).exists())
        guest.program(name, f'echo {name} >>"{calls}"\nexec {real} "$@"\n')
    began = time.monotonic()
    assert status(copy()) == "same"
    if guest.shell != "busybox":  # whose xargs takes its own
        assert len(calls.read_text().splitlines()) < 20
    assert time.monotonic() - began < 60, "it is quadratic"
    for number in range(0, 2000, 50):
        (dest / f"folder {number % 40}/file {number}").write_text("?")
    report = copy()
    assert found(report).startswith("40 differ: ")
    assert found(report).endswith(", and 20 more")


def test_the_whole_project_without_its_own_folders(copy: Copy, project: Path, source: Path, dest: Path) -> None:
    for name in (".git/config", ".devbox/id", "tree/.git/config"):
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_text("x")
    (dest / ".git").mkdir(parents=True)
    (dest / ".git/own").write_text("x")
    copy(src=".", delete=True)
    assert {path.name for path in dest.iterdir()} == {".git", "tree"}
    assert (dest / ".git/own").exists()
    assert (dest / "tree/.git/config").exists()


def test_what_a_killed_run_left_does_not_stay(copy: Copy, source: Path, dest: Path) -> None:
    left = dest / ".devbox-aside/deep"
    left.mkdir(parents=True)
    (left / "half").write_text("x")
    assert status(copy()) == "changed"
    assert listing(dest) == expected(source)


def test_an_empty_folder(copy: Copy, project: Path, dest: Path) -> None:
    (project / "tree").mkdir()
    assert status(copy()) == "changed"
    assert dest.is_dir()
    assert status(copy()) == "same"


def test_without_awk(copy: Copy, guest: FakeGuest, source: Path, dest: Path) -> None:
    if guest.shell == "busybox":
        pytest.skip("its shell has its own")
    copy()
    tools = guest.path("tools")
    tools.mkdir()
    for folder in ("/usr/bin", "/bin"):
        for path in Path(folder).iterdir():
            if "awk" not in path.name and not (tools / path.name).exists():
                (tools / path.name).symlink_to(path)
    (dest / "a.txt").write_text("?")
    steps = (step("copy", {"src": "tree", "dest": str(dest)}),)
    context = guest.context(source.parent)
    places = type(context.places)
    original = places.path
    try:
        places.path = property(lambda self: f"{self.prefix}/bin:{tools}")  # type: ignore[assignment, method-assign]
        report = provision(guest, steps, context, Options())
    finally:
        places.path = original  # type: ignore[method-assign]
    assert found(report) == "different"
    assert listing(dest) == expected(source)
