"""`line` and `block` for real, under each shell: what they change, keep, and refuse."""

from collections.abc import Callable
from pathlib import Path

import pytest

from devbox.errors import DevboxError
from devbox.provision.apply import Options, Report, provision
from devbox.provision.bind import bind
from tests.unit.provision.fake import FakeGuest, step
from tests.unit.provision.test_kinds import ME, Alone, mode

SSHD = "# the server\n#PasswordAuthentication yes\nPort 22\n"


@pytest.fixture
def conf(guest: FakeGuest) -> Path:
    path = guest.path('etc/a "conf"=it\'s $odd')
    path.parent.mkdir()
    path.write_text(SSHD)
    return path


def test_a_line_is_changed_once(guest: FakeGuest, project: Path, conf: Path) -> None:
    options = {"path": str(conf), "match": "^#?PasswordAuthentication\\s", "line": "PasswordAuthentication no"}
    conf.chmod(0o640)

    def go() -> Report:
        return provision(guest, (step("line", options),), guest.context(project), Options())

    (outcome,) = go().outcomes
    assert [(c.field, c.old, c.new) for c in outcome.changes] == [("line", "differs", "present")]
    assert conf.read_text() == "# the server\nPasswordAuthentication no\nPort 22\n"
    assert mode(conf) == "0640"
    assert guest.channels == 2
    before = conf.stat()
    assert [outcome.status for outcome in go().outcomes] == ["same"]
    assert guest.channels == 3
    assert conf.stat() == before
    conf.write_text(conf.read_text().replace("Authentication no", "Authentication maybe"))
    assert [outcome.status for outcome in go().outcomes] == ["changed"]
    assert conf.read_text() == "# the server\nPasswordAuthentication no\nPort 22\n"
    assert list(conf.parent.iterdir()) == [conf], "nothing is left beside it"


@pytest.mark.parametrize("line", ["back\\nslash \\1 & %s", "'\"$(id)`id`", "-n", "  two  spaces  ", "1.0", "é", "*"])
def test_awkward_lines(guest: FakeGuest, project: Path, conf: Path, line: str) -> None:
    conf.write_text("1\nlast, without an end")
    alone = Alone(guest, project, "line", {"path": str(conf), "line": line})
    assert [change.old for change in alone.changes()] == ["missing"]
    done = alone.apply()
    assert (done.returncode, done.stderr) == (0, "")
    assert conf.read_text() == f"1\nlast, without an end\n{line}\n"
    assert alone.changes() == ()
    gone = Alone(guest, project, "line", {"path": str(conf), "line": line, "state": "absent"})
    assert [change.old for change in gone.changes()] == ["present"]
    gone.apply()
    assert (gone.changes(), conf.read_text()) == ((), "1\nlast, without an end\n")


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ({"after": "^a"}, "a1\na2\nnew\nb\n"),
        ({"before": "^a"}, "a1\nnew\na2\nb\n"),
        ({"before": "BOF"}, "new\na1\na2\nb\n"),
        ({"after": "EOF"}, "a1\na2\nb\nnew\n"),
        ({"after": "nowhere"}, "a1\na2\nb\nnew\n"),
    ],
)
def test_where_a_new_line_goes(
    guest: FakeGuest, project: Path, conf: Path, place: dict[str, str], expected: str
) -> None:
    conf.write_text("a1\na2\nb\n")
    alone = Alone(guest, project, "line", {"path": str(conf), "line": "new", **place})
    alone.apply()
    assert (alone.changes(), conf.read_text()) == ((), expected)


def test_every_line_that_matches_goes(guest: FakeGuest, project: Path, conf: Path) -> None:
    conf.write_text("x1\r\nkeep\r\nx2\r\n")
    alone = Alone(guest, project, "line", {"path": str(conf), "match": "^x", "state": "absent"})
    alone.apply()
    assert (alone.changes(), conf.read_bytes()) == ((), b"keep\r\n")
    Alone(guest, project, "line", {"path": str(conf), "line": "new"}).apply()
    assert conf.read_bytes() == b"keep\r\nnew\r\n"


@pytest.mark.parametrize(("kind", "what"), [("line", {"line": "x"}), ("block", {"content": "x"})])
def test_a_file_that_does_not_exist(guest: FakeGuest, project: Path, kind: str, what: dict[str, str]) -> None:
    target = guest.path("new/folder/conf")
    never = Alone(guest, project, kind, {"path": str(target), **what})
    assert never.state() == ()
    done = never.apply()
    assert (done.returncode, "does not exist" in done.stderr) == (1, True)
    gone = Alone(guest, project, kind, {"path": str(target), "state": "absent", **what})
    assert (gone.changes(), gone.apply().returncode) == ((), 0)
    assert not target.parent.exists()
    alone = Alone(guest, project, kind, {"path": str(target), **what, "create": True, "mode": "0600", "owner": ME})
    assert alone.apply().returncode == 0
    assert (alone.changes(), mode(target), mode(target.parent)) == ((), "0600", "0755")
    assert "x" in target.read_text().splitlines()


@pytest.mark.parametrize(("kind", "what"), [("line", {"line": "x"}), ("block", {"content": "x"})])
def test_what_is_no_file(guest: FakeGuest, project: Path, kind: str, what: dict[str, str]) -> None:
    folder, loop, zeros = guest.path("folder"), guest.path("loop"), guest.path("zeros")
    folder.mkdir()
    loop.symlink_to(loop)
    zeros.write_bytes(b"\x7fELF\0\0\n")
    folder_step, loop_step, zeros_step = (
        Alone(guest, project, kind, {"path": str(path), **what}) for path in (folder, loop, zeros)
    )
    assert folder_step.state() == (("type", "directory"),)
    assert folder_step.apply().stderr == f"{folder} is a folder.\n"
    assert loop_step.state() is None
    assert loop_step.apply().stderr == f"{loop} is a link that leads nowhere.\n"
    assert zeros_step.apply().stderr == f"{zeros} is not a text file.\n"
    assert zeros.read_bytes() == b"\x7fELF\0\0\n"


def test_a_link_stays_and_its_file_is_changed(guest: FakeGuest, project: Path, conf: Path) -> None:
    link = guest.path("link")
    link.symlink_to(f"etc/{conf.name}")
    conf.chmod(0o600)
    alone = Alone(guest, project, "line", {"path": str(link), "line": "x", "mode": "0644"})
    assert [(c.field, c.old, c.new) for c in alone.changes()] == [
        ("line", "missing", "present"),
        ("mode", "0600", "0644"),
    ]
    alone.apply()
    assert (alone.changes(), link.is_symlink(), conf.read_text(), mode(conf)) == ((), True, f"{SSHD}x\n", "0644")


def test_no_pattern(guest: FakeGuest, project: Path, conf: Path) -> None:
    alone = Alone(guest, project, "line", {"path": str(conf), "line": "x", "match": "(it's"})
    assert alone.state() is None
    done = alone.apply()
    assert (done.returncode, "grep -E does not understand: (it's" in done.stderr) == (1, True)
    assert conf.read_text() == SSHD


def test_a_line_that_is_too_long_for_a_program(project: Path) -> None:
    with pytest.raises(DevboxError, match="`line` is longer than 64 KiB"):
        bind((step("line", {"path": "/etc/x", "line": "x" * 65537}),), project, "root")


def test_a_file_that_changes_at_the_same_moment(guest: FakeGuest, project: Path) -> None:
    awk = "busybox awk" if guest.shell == "busybox" else "/usr/bin/awk"
    guest.program("awk", f'{awk} "$@" && case $give in text) echo theirs >>"{guest.path("other")}" ;; esac\n')
    guest.path("other").write_text(SSHD)
    done = Alone(guest, project, "line", {"path": str(guest.path("other")), "line": "x"}).apply()
    assert done.returncode == 1
    assert "Something else has changed" in done.stderr
    assert guest.path("other").read_text() == f"{SSHD}theirs\n"
    assert not list(guest.root.glob("other.*"))


def test_nobody_reads_a_private_file_while_it_is_replaced(guest: FakeGuest, project: Path) -> None:
    """Looked at when it takes its place: whole, and not yet given the mode that is stated."""
    seen = guest.path("seen")
    guest.program("mv", f'for f do :; done; stat -c %a "$f".devbox-* >>"{seen}"; /bin/mv "$@"\n')
    old, new = guest.path("old"), guest.path("new")
    old.write_text("secret")
    old.chmod(0o600)
    for kind, options in (
        ("line", {"path": str(old), "line": "x"}),
        ("line", {"path": str(new), "line": "x", "mode": "0600", "create": True}),
        ("file", {"path": str(old), "content": "more", "mode": "0640"}),
        ("file", {"path": str(guest.path("third")), "content": "more", "mode": "0640"}),
    ):
        assert Alone(guest, project, kind, options).apply().stderr == ""
    assert seen.read_text().split() == ["600"] * 4
    assert mode(old) == mode(guest.path("third")) == "0640"


def test_a_block_comes_changes_and_goes(guest: FakeGuest, project: Path, conf: Path) -> None:
    def block(content: str, **more: str) -> Alone:
        return Alone(guest, project, "block", {"path": str(conf), "content": content, **more})

    first, other = block("one\n  two\\n &\n"), block("mine", marker="other name", comment="/*")
    assert first.state() == (("block", "missing"),)
    for alone in (first, other):
        done = alone.apply()
        assert (done.returncode, done.stderr, alone.changes()) == (0, "", ())
    middle = "# BEGIN devbox block\n{}# END devbox block\n"
    tail = "/* BEGIN devbox other name */\nmine\n/* END devbox other name */\n"
    assert conf.read_text() == SSHD + middle.format("one\n  two\\n &\n") + tail
    changed = block("three")
    assert changed.state() == (("block", "differs"),)
    changed.apply()
    assert (changed.changes(), other.changes()) == ((), ())
    assert conf.read_text() == SSHD + middle.format("three\n") + tail
    Alone(guest, project, "block", {"path": str(conf), "state": "absent"}).apply()
    assert conf.read_text() == SSHD + tail


@pytest.mark.parametrize("text", ["{b}x\n", "x\n{e}", "{e}{b}", "{b}{b}{e}", "{b}{e}{e}"])
def test_a_block_that_is_torn(guest: FakeGuest, project: Path, conf: Path, text: str) -> None:
    torn = text.format(b="# BEGIN devbox block\n", e="# END devbox block\n")
    conf.write_text(torn)
    for options in ({"content": "new"}, {"state": "absent"}):
        alone = Alone(guest, project, "block", {"path": str(conf), **options})
        assert alone.state() == (("block", "broken"),)
        done = alone.apply()
        assert (done.returncode, "mend it by hand" in done.stderr) == (1, True)
        assert conf.read_text() == torn


Shown = Callable[..., str]


@pytest.fixture
def shown(guest: FakeGuest, project: Path, capsys: pytest.CaptureFixture[str]) -> Shown:
    """What `--check --diff` shows of steps."""

    def preview(*steps: object) -> str:
        provision(guest, steps, guest.context(project), Options(check=True, diff=True))  # type: ignore[arg-type]
        return "".join(capsys.readouterr())

    return preview


def test_a_diff(guest: FakeGuest, conf: Path, shown: Shown) -> None:
    link, new, only = guest.path("link"), guest.path("new"), guest.path("only")
    link.symlink_to(conf)
    only.write_text("x\n")
    told = shown(
        step("line", {"path": str(link), "match": "^Port ", "line": "Port 2222"}, "port"),
        step("block", {"path": str(new), "content": "a\n"}, "new"),
        step("line", {"path": str(only), "line": "x", "state": "absent"}, "only"),
        step("line", {"path": str(conf), "line": "Port 22"}, "same"),
    )
    assert f"    --- {link} (in the guest)\n    +++ {link}\n" in told
    assert "     #PasswordAuthentication yes\n    -Port 22\n    +Port 2222\n" in told
    assert "    @@ -0,0 +1,3 @@\n    +# BEGIN devbox block\n    +a\n    +# END devbox block\n" in told
    assert "    @@ -1 +0,0 @@\n    -x\n" in told
    assert told.count("@@") == 6
    assert conf.read_text() == SSHD
    assert not new.exists()
    assert guest.channels == 1


def test_a_diff_shows_nothing_of_what_is_sensitive_torn_or_large(guest: FakeGuest, conf: Path, shown: Shown) -> None:
    large = guest.path("large")
    large.write_text("old-pass\n" * 40000)
    conf.write_text("old-pass\n")
    torn = guest.path("torn")
    torn.write_text("# BEGIN devbox block\nold-pass\n")
    told = shown(
        step("line", {"path": str(conf), "match": "^old", "line": "new-pass"}, "secret", sensitive=True),
        step("line", {"path": str(large), "line": "new-pass"}, "large"),
        step("block", {"path": str(torn), "content": "new-pass"}, "torn"),
    )
    assert "pass" not in told
    assert "block: broken → present" in told
    assert told.count("would change") == 4


def test_a_line_in_what_an_earlier_step_makes(guest: FakeGuest, project: Path) -> None:
    target = guest.path("made/conf")
    steps = (
        step("run", f"mkdir -p {target.parent} && echo 'Port 22' >{target}", "made"),
        step("line", {"path": str(target), "match": "^Port ", "line": "Port 2222"}, "port"),
        step("block", {"path": str(target), "content": "more"}, "more"),
    )
    report = provision(guest, steps, guest.context(project), Options())
    assert ([str(one.status) for one in report.outcomes], guest.channels) == (["changed"] * 3, 2)
    assert target.read_text() == "Port 2222\n# BEGIN devbox block\nmore\n# END devbox block\n"
    again = provision(guest, steps, guest.context(project), Options())
    assert ([str(one.status) for one in again.outcomes], guest.channels) == (["same"] * 3, 3)
