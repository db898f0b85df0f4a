"""`link`, `absent` and `group`, under each shell: what they change, keep, and refuse."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from devbox.provision.apply import Options, provision
from tests.unit.provision.fake import FakeGuest, step
from tests.unit.provision.test_kinds import ME, MY_GROUP, Alone

AWKWARD = ("plain", "with space", "it's", "back\\slash", "-n", "$(id)", "star*", "é")


@pytest.mark.parametrize("name", AWKWARD)
def test_a_link(guest: FakeGuest, project: Path, name: str) -> None:
    link = guest.path("new") / name
    options = {"path": str(link), "target": f"../{name}", "owner": ME, "group": MY_GROUP}

    def go() -> str:
        report = provision(guest, (step("link", options),), guest.context(project), Options())
        return str(report.outcomes[0].status)

    assert (go(), str(link.readlink()), guest.channels) == ("changed", f"../{name}", 2)
    assert (go(), guest.channels) == ("same", 3)
    link.unlink()
    link.symlink_to("elsewhere")
    assert (go(), str(link.readlink())) == ("changed", f"../{name}")
    assert list(link.parent.iterdir()) == [link], "nothing is left beside it"


def test_a_link_that_led_to_a_folder(guest: FakeGuest, project: Path) -> None:
    guest.path("v1").mkdir()
    guest.path("v2").mkdir()
    link = guest.path("current")
    link.symlink_to("v1")
    alone = Alone(guest, project, "link", {"path": str(link), "target": "v2"})
    (change,) = alone.changes()
    assert (change.field, change.old, change.new) == ("target", "v1", "v2")
    assert alone.apply().returncode == 0
    assert (alone.changes(), str(link.readlink())) == ((), "v2")
    assert not list(guest.path("v1").iterdir()), "it was not moved into the folder"


def test_what_a_link_takes_the_place_of(guest: FakeGuest, project: Path) -> None:
    file, empty, full = guest.path("file"), guest.path("empty"), guest.path("full")
    file.write_text("mine")
    empty.mkdir()
    full.mkdir()
    (full / "inside").touch()
    for path in (file, empty, full):
        gentle = Alone(guest, project, "link", {"path": str(path), "target": "/opt/x"})
        done = gentle.apply()
        assert (done.returncode, "force: true" in done.stderr) == (1, True)
        assert not path.is_symlink()
        forced = Alone(guest, project, "link", {"path": str(path), "target": "/opt/x", "force": True})
        assert {change.field for change in forced.changes()} == {"type", "target"}
        done = forced.apply()
        if path is full:
            assert (done.returncode, "not empty" in done.stderr) == (1, True)
            assert (full / "inside").exists()
        else:
            assert (done.returncode, forced.changes(), str(path.readlink())) == (0, (), "/opt/x")
    assert not list(guest.root.glob("*.devbox-*"))


@pytest.mark.parametrize("name", AWKWARD)
def test_absent(guest: FakeGuest, project: Path, name: str) -> None:
    path = guest.path("d") / name
    path.parent.mkdir()
    keep = guest.path("keep")
    keep.mkdir()
    (keep / "file").touch()
    alone = Alone(guest, project, "absent", str(path))
    assert (alone.state(), alone.apply().returncode) == ((), 0)
    makers: tuple[tuple[str, Callable[[], None]], ...] = (
        ("file", path.touch),
        ("directory", path.mkdir),
        ("special", lambda: os.mkfifo(path)),
        ("link", lambda: path.symlink_to(keep)),
        ("link", lambda: path.symlink_to("nowhere")),
    )
    for kind, make in makers:
        make()
        assert alone.state() == (("type", kind),)
        done = alone.apply()
        assert (done.returncode, done.stderr, alone.changes()) == (0, "", ())
    assert (keep / "file").exists()


def test_a_folder_that_is_not_empty(guest: FakeGuest, project: Path) -> None:
    folder, keep = guest.path("folder"), guest.path("keep")
    keep.mkdir()
    (keep / "file").touch()
    (folder / "a/b").mkdir(parents=True)
    (folder / "a/link").symlink_to(keep)
    alone = Alone(guest, project, "absent", str(folder))
    done = alone.apply()
    assert (done.returncode, "recursive: true" in done.stderr, (folder / "a/b").exists()) == (1, True, True)
    deep = Alone(guest, project, "absent", {"path": str(folder), "recursive": True})
    assert (deep.apply().returncode, deep.changes(), folder.exists()) == (0, (), False)
    assert (keep / "file").exists()


@pytest.mark.parametrize(("mounted", "spared"), [("a\\040b\\134", True), ("a\\040b\\134/sub/deep", True), ("a", False)])
def test_a_mount_point_is_spared(guest: FakeGuest, project: Path, mounted: str, spared: bool) -> None:  # noqa: FBT001
    real = guest.path("real")
    (real / "a b\\/sub").mkdir(parents=True)
    guest.path("way").symlink_to(real)  # the kernel's list has no links
    mounts = guest.path("mounts")
    mounts.write_text(f"25 1 8:1 / / rw - ext4 /dev/vda1 rw\n30 25 8:2 / {real}/{mounted} rw - ext4 /dev/vdb rw\n")
    alone = Alone(guest, project, "absent", {"path": f"{guest.path('way')}/a b\\", "recursive": True})
    alone.head += f"mounts='{mounts}'\n"
    done = alone.apply()
    assert ("Something is mounted" in done.stderr) is spared
    assert ((real / "a b\\").exists(), done.returncode) == (spared, int(spared))


def test_nothing_goes_when_the_mounts_cannot_be_read(guest: FakeGuest, project: Path) -> None:
    target = guest.path("target")
    target.touch()
    alone = Alone(guest, project, "absent", str(target))
    alone.head += f"mounts='{guest.path('no-such-list')}'\n"
    done = alone.apply()
    assert (done.returncode, "cannot be told" in done.stderr, target.exists()) == (1, True, True)


def test_the_system_behind_a_link_is_spared(guest: FakeGuest, project: Path) -> None:
    guest.program("rmdir", "exit 1\n")
    guest.program("rm", f'echo "$*" >>"{guest.path("log")}"\n')
    guest.path("way").symlink_to("/")
    for name, told in (
        ("usr", "belongs to the system itself"),
        ("bin", "belongs to the system itself"),  # a link on many systems
        ("proc", "Something is mounted"),
    ):
        done = Alone(guest, project, "absent", {"path": f"{guest.path('way')}/{name}", "recursive": True}).apply()
        assert (done.returncode, told in done.stderr) == (1, True)
    assert not guest.path("log").exists()


@pytest.fixture
def groups(guest: FakeGuest) -> FakeGuest:
    """With account files of its own, and shadow's programs that change those."""
    etc = guest.path("etc")
    etc.mkdir()
    (etc / "passwd").write_text(
        "root:x:0:0:root:/root:/bin/bash\ndev:x:1000:1000::/home/dev:/bin/sh\nbob:x:1001:4:::\n"
    )
    (etc / "group").write_text("root:x:0:\nadm:x:4:bob\napplication:x:90:\n")
    log = f'echo "$(basename "$0") $*" >>"{guest.path("log")}"\n'
    guest.program(
        "groupadd",
        f"{log}gid=700\nwhile [ $# != 1 ]; do case $1 in -g) gid=$2; shift ;; esac; shift; done\n"
        f'echo "$1:x:$gid:" >>{etc}/group\n',
    )
    guest.program("groupmod", f'{log}sed -i "s/^$3:x:[0-9]*:/$3:x:$2:/" {etc}/group\n')
    guest.program("groupdel", f'{log}[ "$1" != adm ] || {{ echo "cannot remove the primary group" >&2; exit 8; }}\n'
                  f'sed -i "/^$1:/d" {etc}/group\n')  # fmt: skip
    guest.program("usermod", f'{log}sed -i "/^$3:/s/\\([^:]\\)\\$/\\1,/; /^$3:/s/\\$/$4/" {etc}/group\n')
    return guest


def said(guest: FakeGuest) -> list[str]:
    return guest.path("log").read_text().splitlines()


def test_a_group(groups: FakeGuest, project: Path) -> None:
    alone = Alone(groups, project, "group", {"name": "app", "gid": 1500, "system": True, "members": ["dev", "bob"]})
    assert alone.state() == ()
    done = alone.apply()
    assert (done.returncode, done.stderr, alone.changes()) == (0, "", ())
    assert said(groups) == ["groupadd -g 1500 -r app", "usermod -a -G app dev", "usermod -a -G app bob"]
    other = Alone(groups, project, "group", {"name": "app", "gid": 1501, "members": ["bob"]})
    assert [(c.field, c.old, c.new) for c in other.changes()] == [("gid", "1500", "1501")]
    assert other.apply().returncode == 0
    assert other.changes() == ()
    assert "app:x:1501:dev,bob\n" in groups.path("etc/group").read_text()
    assert said(groups)[3:] == ["groupmod -g 1501 app"]
    gone = Alone(groups, project, "group", {"name": "app", "state": "absent"})
    assert gone.state() == (("state", "present"),)
    gone.apply()
    assert (gone.changes(), gone.apply().returncode, said(groups)[-1]) == ((), 0, "groupdel app")


def test_a_plain_group_and_one_more_member(groups: FakeGuest, project: Path) -> None:
    assert Alone(groups, project, "group", "adm").changes() == ()
    assert Alone(groups, project, "group", "app").state() == (), "application is another one"
    alone = Alone(groups, project, "group", {"name": "adm", "members": ["dev", "bob"]})
    assert [(c.field, c.old, c.new) for c in alone.changes()] == [("members", "bob", "dev,bob")]
    alone.apply()
    assert (alone.changes(), said(groups)) == ((), ["usermod -a -G adm dev"])


def test_groups_that_cannot_be(groups: FakeGuest, project: Path) -> None:
    done = Alone(groups, project, "group", {"name": "app", "members": ["nobody-here"]}).apply()
    assert (done.returncode, "The account nobody-here does not exist" in done.stderr) == (1, True)
    assert "app:" not in groups.path("etc/group").read_text()
    done = Alone(groups, project, "group", {"name": "adm", "state": "absent"}).apply()
    assert (done.returncode, "cannot remove the primary group" in done.stderr) == (8, True)


def test_a_group_where_shadow_is_missing(groups: FakeGuest, project: Path) -> None:
    """As on Alpine: BusyBox has addgroup and delgroup, and nothing that changes a group's number."""
    etc, log = groups.path("etc"), groups.path("log")
    for name in ("groupadd", "groupmod", "groupdel", "usermod"):
        (groups.bin / name).unlink()
    groups.program(
        "addgroup",
        f'echo "addgroup $*" >>"{log}"\ncase $# in 2) sed -i "s/^$2:.*/&$1/" {etc}/group ;; '
        f'*) echo "$4:x:$2:" >>{etc}/group ;; esac\n',
    )
    groups.program("delgroup", f'echo "delgroup $*" >>"{log}"\nsed -i "/^$1:/d" {etc}/group\n')
    facts_of_alpine = {"name": "app", "gid": 1500, "system": True, "members": ["dev"]}
    alone = Alone(groups, project, "group", facts_of_alpine)
    lacks = 'have() { case $1 in group* | usermod) return 1 ;; esac; command -v "$1" >/dev/null 2>&1; }\n'
    alone.head += lacks
    done = alone.apply()
    assert (done.returncode, done.stderr, alone.changes()) == (0, "", ())
    other = Alone(groups, project, "group", {"name": "app", "gid": 1501})
    other.head += lacks
    assert "no groupmod; install its package `shadow`" in other.apply().stderr
    gone = Alone(groups, project, "group", {"name": "app", "state": "absent"})
    gone.head += lacks
    gone.apply()
    assert gone.changes() == ()
    assert said(groups) == ["addgroup -g 1500 -S app", "addgroup dev app", "delgroup app"]
