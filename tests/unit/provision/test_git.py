"""`git` against real repositories on this computer, under each shell."""

import os
import pwd
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from devbox.errors import DevboxError
from devbox.provision.apply import Options, Report, provision
from devbox.provision.journal import Places
from tests.unit.provision.fake import FakeGuest, step

IDENTITY = {
    f"GIT_{role}_{what}": value
    for role in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "A"), ("EMAIL", "a@example.com"))
}
Checkout = Callable[..., Report]


def git(folder: Path, *words: str) -> str:
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder.parent), "GIT_CONFIG_NOSYSTEM": "1", **IDENTITY}
    safe = ("-c", "safe.directory=*", "-c", "protocol.file.allow=always")
    words = ("git", *safe, "-C", str(folder), *words)
    return subprocess.run(words, env=environment, check=True, capture_output=True, text=True).stdout.strip()


def commit(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    git(folder, "add", name)
    git(folder, "commit", "-qm", f"{name} is {text}")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def upstream(tmp_path: Path) -> Path:
    folder = tmp_path / "up stream"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "trunk")
    commit(folder, "file", "one")
    git(folder, "tag", "-a", "v1", "-m", "first")
    git(folder, "branch", "side/line")
    commit(folder, "file", "two")
    return folder


@pytest.fixture
def dest(guest: FakeGuest) -> Path:
    return guest.path("src/the app")


@pytest.fixture
def checkout(guest: FakeGuest, project: Path, upstream: Path, dest: Path) -> Checkout:
    def go(**options: Any) -> Report:
        common = {key: options.pop(key) for key in ("env", "user") if key in options}
        steps = (step("git", {"url": str(upstream), "dest": str(dest), **options}, **common),)
        return provision(guest, steps, guest.context(project), Options())

    return go


def status(report: Report) -> str:
    return str(report.outcomes[0].status)


def changes(report: Report) -> list[tuple[str, str | None, str | None]]:
    return [(change.field, change.old, change.new) for change in report.outcomes[0].changes]


def refused(checkout: Checkout, **options: Any) -> str:
    with pytest.raises(DevboxError) as failed:
        checkout(**options)
    return str(failed.value.details)


def test_a_fresh_checkout_and_then_nothing(checkout: Checkout, guest: FakeGuest, dest: Path) -> None:
    assert status(checkout()) == "changed"
    assert guest.channels == 2
    assert (dest / "file").read_text() == "two"
    assert git(dest, "rev-parse", "--abbrev-ref", "HEAD@{upstream}") == "origin/trunk"
    assert git(dest, "status", "--porcelain") == ""
    assert status(checkout()) == "same"
    assert guest.channels == 3
    assert [path.name for path in dest.parent.iterdir()] == [dest.name]


@pytest.mark.parametrize(("ref", "text", "branch"), [("v1", "one", "HEAD"), ("side/line", "one", "side/line")])
def test_a_tag_and_a_branch(checkout: Checkout, dest: Path, ref: str, text: str, branch: str) -> None:
    assert status(checkout(ref=ref)) == "changed"
    assert (dest / "file").read_text() == text
    assert git(dest, "rev-parse", "--abbrev-ref", "HEAD") == branch
    assert status(checkout(ref=ref)) == "same"
    assert status(checkout(ref="trunk")) == "changed"
    assert (dest / "file").read_text() == "two"
    assert status(checkout()) == "same"


@pytest.mark.parametrize("length", [40, 10])
def test_a_commit(checkout: Checkout, dest: Path, upstream: Path, length: int) -> None:
    first = git(upstream, "rev-parse", "v1^{commit}")[:length]
    assert status(checkout(ref=first)) == "changed"
    assert (dest / "file").read_text() == "one"
    assert status(checkout(ref=first)) == "same"


def test_a_moving_branch_moves_only_by_update(checkout: Checkout, dest: Path, upstream: Path) -> None:
    checkout()
    third = commit(upstream, "file", "three")
    old = git(dest, "rev-parse", "HEAD")
    assert status(checkout()) == "same"
    report = checkout(update=True)
    assert changes(report) == [("ref", old, "the default branch")]
    assert (status(report), git(dest, "rev-parse", "HEAD")) == ("changed", third)
    assert status(checkout(update=True)) == "same"


def test_a_moving_tag(checkout: Checkout, dest: Path, upstream: Path) -> None:
    checkout(ref="v1")
    git(upstream, "tag", "-f", "v1", "trunk")
    assert status(checkout(ref="v1")) == "same"
    assert status(checkout(ref="v1", update=True)) == "changed"
    assert (dest / "file").read_text() == "two"


def test_uncommitted_changes_are_never_lost(checkout: Checkout, dest: Path, upstream: Path) -> None:
    checkout()
    (dest / "file").write_text("mine")
    (dest / "untracked").write_text("mine")
    assert status(checkout()) == "same", "it is at its commit"
    commit(upstream, "file", "three")
    assert "not committed" in refused(checkout, update=True)
    assert "not committed" in refused(checkout, ref="v1")
    assert (dest / "file").read_text() == "mine"
    assert status(checkout(update=True, force=True)) == "changed"
    assert ((dest / "file").read_text(), (dest / "untracked").read_text()) == ("three", "mine")
    (dest / "file").write_text("mine")
    report = checkout(update=True, force=True)
    assert changes(report) == [("tree", "changed", "clean")]
    assert (dest / "file").read_text() == "three"


def test_commits_that_are_only_here_are_never_lost(checkout: Checkout, dest: Path, upstream: Path) -> None:
    checkout()
    mine = commit(dest, "mine", "mine")
    assert "does not have" in refused(checkout)
    commit(upstream, "file", "three")
    assert "does not have" in refused(checkout, update=True)
    assert git(dest, "rev-parse", "HEAD") == mine
    git(dest, "checkout", "-q", "v1")
    assert "The branch trunk" in refused(checkout)
    assert git(dest, "rev-parse", "trunk") == mine
    assert status(checkout(ref="side/line")) == "changed", "it leaves the other branch alone"
    assert git(dest, "rev-parse", "trunk") == mine
    git(dest, "checkout", "-q", "trunk")
    assert status(checkout(force=True)) == "changed"
    assert (dest / "file").read_text() == "three"


def test_upstream_rewrites_its_history(checkout: Checkout, dest: Path, upstream: Path) -> None:
    checkout()
    git(upstream, "reset", "-q", "--hard", "v1")
    commit(upstream, "file", "other")
    (dest / "file").write_text("mine")
    assert "not committed" in refused(checkout, update=True)
    git(dest, "checkout", "-q", "file")
    assert status(checkout(update=True)) == "changed", "what upstream had is no work of ours"
    assert (dest / "file").read_text() == "other"


def test_another_address(checkout: Checkout, dest: Path, upstream: Path, tmp_path: Path) -> None:
    checkout()
    shutil.copytree(upstream, tmp_path / "moved")
    commit(tmp_path / "moved", "file", "moved")
    report = checkout(url=str(tmp_path / "moved"), update=True)
    assert [field for field, _, _ in changes(report)] == ["url", "ref"]
    assert (dest / "file").read_text() == "moved"
    assert status(checkout(url=str(tmp_path / "moved"))) == "same"


def test_only_so_deep(checkout: Checkout, dest: Path, upstream: Path) -> None:
    (upstream.parent / "plain").symlink_to(upstream)
    url = f"file://{upstream.parent}/plain"
    assert status(checkout(url=url, depth=1)) == "changed"
    assert git(dest, "rev-list", "--count", "HEAD") == "1"
    assert status(checkout(url=url, depth=1)) == "same"
    commit(upstream, "file", "three")
    assert status(checkout(url=url, depth=1, update=True)) == "changed"
    assert status(checkout(url=url, depth=1, ref="v1")) == "changed"
    assert (dest / "file").read_text() == "one"
    first = git(upstream, "rev-parse", "trunk~1")
    assert status(checkout(url=url, depth=1, ref=first)) == "changed"
    assert status(checkout(url=url, depth=1)) == "changed"
    assert (dest / "file").read_text() == "three"


def test_submodules(checkout: Checkout, dest: Path, upstream: Path, tmp_path: Path) -> None:
    part = tmp_path / "part"
    part.mkdir()
    git(part, "init", "-q", "-b", "main")
    commit(part, "inner", "one")
    git(upstream, "submodule", "add", "-q", str(part), "part")
    git(upstream, "commit", "-qm", "a part")
    allowed = {"GIT_ALLOW_PROTOCOL": "file"}
    assert status(checkout(env=allowed)) == "changed"
    assert not (dest / "part/inner").exists()
    report = checkout(env=allowed, submodules=True)
    assert changes(report) == [("submodules", "different", "ready")]
    assert (dest / "part/inner").read_text() == "one"
    assert status(checkout(env=allowed, submodules=True)) == "same"
    shutil.rmtree(dest)
    assert status(checkout(env=allowed, submodules=True)) == "changed"
    assert (dest / "part/inner").read_text() == "one"


def test_what_is_in_the_place(checkout: Checkout, dest: Path) -> None:
    dest.mkdir(parents=True)
    (dest / "precious").write_text("x")
    assert "is not empty" in refused(checkout)
    (dest / "precious").unlink()
    inode = dest.stat().st_ino
    assert status(checkout()) == "changed"
    assert (dest.stat().st_ino, (dest / "file").read_text()) == (inode, "two"), "an empty folder is used"
    assert not (dest / ".devbox-clone").exists()
    assert status(checkout()) == "same"
    shutil.rmtree(dest)
    dest.write_text("a file")
    assert "is not a folder" in refused(checkout)


def test_a_folder_inside_another_checkout_is_none(checkout: Checkout, dest: Path) -> None:
    dest.parent.mkdir()
    git(dest.parent, "init", "-q")
    (dest.parent / "mine").write_text("x")
    assert status(checkout()) == "changed"
    assert (dest / ".git").is_dir()
    assert git(dest.parent, "for-each-ref") == ""


@pytest.mark.parametrize("left", ["beside", "inside", "unborn", "in the middle"])
def test_a_kill_leaves_nothing_that_does_not_heal(checkout: Checkout, dest: Path, upstream: Path, left: str) -> None:
    checkout()
    if left == "beside":
        dest.rename(f"{dest}.devbox-clone")
    elif left == "inside":
        shutil.move(dest, dest.parent / "x")
        dest.mkdir()
        shutil.move(dest.parent / "x", dest / ".devbox-clone")
    elif left == "unborn":
        git(dest, "symbolic-ref", "HEAD", "refs/heads/devbox-has-not-finished")
        (dest / "file").unlink()
        (dest / ".git/index").unlink()
    else:
        commit(upstream, "file", "three")
        (dest / ".git/devbox-checkout").touch()
        (dest / ".git/index.lock").touch()
        (dest / "file").write_text("thr")
    assert status(checkout(update=True)) == "changed"
    assert (dest / "file").read_text() == ("three" if left == "in the middle" else "two")
    assert status(checkout()) == "same"
    assert sorted(path.name for path in dest.iterdir()) == [".git", "file"]


def test_work_after_a_run_that_was_cut_off_is_not_lost(checkout: Checkout, dest: Path, upstream: Path) -> None:
    """All is in its place, but the run did not get to say so: the next one does, before there is work to lose."""
    assert status(checkout()) == "changed"
    (dest / ".git/devbox-checkout").touch()
    assert status(checkout()) == "changed"
    assert not (dest / ".git/devbox-checkout").exists()
    assert status(checkout()) == "same"
    (dest / "file").write_text("mine")
    commit(upstream, "file", "theirs")
    assert "not committed" in refused(checkout, update=True)
    assert (dest / "file").read_text() == "mine"


def test_no_git_no_repository_no_ref(
    checkout: Checkout, guest: FakeGuest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "cannot be read" in refused(checkout, url=str(tmp_path / "nowhere"))
    assert "no branch or tag nothing" in refused(checkout, ref="nothing")
    assert "no commit 0123456789" in refused(checkout, ref="0123456789")
    (tmp_path / "empty").mkdir()
    git(tmp_path / "empty", "init", "-q")
    assert "no branch or tag at all" in refused(checkout, url=str(tmp_path / "empty"))
    assert not guest.path("src/the app").exists()
    tools = tmp_path / "tools"
    tools.mkdir()
    for folder in ("/usr/bin", "/bin"):
        for path in Path(folder).iterdir():
            if not path.name.startswith("git") and not (tools / path.name).exists():
                (tools / path.name).symlink_to(path)
    monkeypatch.setattr(Places, "path", f"{guest.bin}:{tools}")
    assert "packages: [git]" in refused(checkout)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_as_another_account(checkout: Checkout, guest: FakeGuest, dest: Path, upstream: Path) -> None:
    nobody = pwd.getpwnam("nobody").pw_uid
    for folder in (guest.root, *guest.root.parents):
        folder.chmod(folder.stat().st_mode | 0o055)
    for path in (upstream, *upstream.rglob("*")):
        os.chown(path, nobody, -1)
    assert "may not write" in refused(checkout, user="nobody")
    dest.mkdir(parents=True)
    os.chown(dest, nobody, -1)
    assert status(checkout(user="nobody")) == "changed"
    assert (dest / "file").stat().st_uid == nobody
    assert status(checkout(user="nobody")) == "same"
