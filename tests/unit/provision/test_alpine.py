"""`service` under OpenRC and `user` without usermod, as on Alpine: against stand-ins for their programs.

rc-service's options and its status of a service (0 started, 3 stopped, 32 crashed) are those of rc-service(8) and
openrc-run(8); that `start` leaves a crashed service alone and `zap` makes it stopped, too. The options of adduser and
addgroup are those of BusyBox's loginutils/adduser.c and addgroup.c.
"""

import os
from pathlib import Path
from typing import Any

import pytest

from devbox.provision.facts import Facts
from tests.unit.provision.fake import FakeGuest
from tests.unit.provision.test_kinds import Alone, mode

ALPINE = Facts(os="alpine", init="openrc", manager="apk")

RC_SERVICE = r"""
rc=$(dirname "$0")/../rc
if [ "$1" = --exists ]; then test -e "$rc/init.d/$2"; exit; fi
name=$1
[ "$2" = status ] || echo "$*" >>"$rc/log"
case $2 in
  status) [ ! -e "$rc/crashed/$name" ] || exit 32; [ -e "$rc/started/$name" ] || exit 3 ;;
  start)
    [ ! -e "$rc/started/$name" ] || { echo " * WARNING: $name has already been started"; exit 0; }
    . "$rc/init.d/$name"
    touch "$rc/started/$name" ;;
  stop) rm "$rc/started/$name"; rm -f "$rc/crashed/$name" ;;
  zap) rm -f "$rc/started/$name" "$rc/crashed/$name" ;;
  restart) ;;
  reload) . "$rc/init.d/$name"; [ -n "$reloads" ] || { echo " * unknown function \`reload'"; exit 1; } ;;
esac
"""
RC_UPDATE = r"""
etc=$(dirname "$0")/../etc
echo "rc-update $*" >>"$etc/../rc/log"
case $1 in
  add) touch "$etc/runlevels/$3/$2" ;;
  --all) rm "$etc"/runlevels/*/"$3" ;;
esac
"""


class Alpine:
    def __init__(self, guest: FakeGuest, project: Path) -> None:
        self.guest, self.project = guest, project
        for folder in ("rc/started", "rc/crashed", "rc/init.d", "etc/runlevels/default", "etc/runlevels/boot"):
            guest.path(folder).mkdir(parents=True)
        guest.path("rc/init.d/app").write_text("reloads=1\n")
        guest.program("rc-service", RC_SERVICE)
        guest.program("rc-update", RC_UPDATE)
        for name in ("passwd", "group", "shadow"):
            guest.path(f"etc/{name}").touch()

    def step(self, kind: str, options: Any) -> Alone:
        alone = Alone(self.guest, self.project, kind, options, ALPINE)
        # This computer has programs of the package `shadow`, which must not be found.
        hidden = "useradd | usermod | userdel) return 1"
        alone.head += (
            f"openrc='{self.guest.path('rc')}'\n"
            f'have() {{ case $1 in {hidden} ;; *) command -v "$1" >/dev/null 2>&1 ;; esac; }}\n'
        )
        return alone

    def applied(self, kind: str, options: Any, *, triggered: bool = False) -> list[str]:
        """What OpenRC was told, after the state is as asked."""
        log = self.guest.path("rc/log")
        log.unlink(missing_ok=True)
        alone = self.step(kind, options)
        done = alone.apply(triggered=triggered)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        assert alone.changes() == ()
        return log.read_text().splitlines() if log.exists() else []

    def etc(self, name: str) -> str:
        return self.guest.path(f"etc/{name}").read_text()


@pytest.fixture
def alpine(guest: FakeGuest, project: Path) -> Alpine:
    return Alpine(guest, project)


def test_a_service_is_started_and_enabled(alpine: Alpine) -> None:
    assert alpine.step("service", "app").state() == (("active", "no"), ("enabled", "no"))
    assert alpine.applied("service", "app") == ["rc-update add app default", "app start"]
    assert alpine.applied("service", "app") == []
    assert alpine.step("service", "app.service").changes() == (), "as systemd's users call it"


def test_a_service_of_another_runlevel_is_enabled(alpine: Alpine) -> None:
    alpine.guest.path("etc/runlevels/boot/app").touch()
    assert alpine.applied("service", {"name": "app", "enabled": True}) == []
    assert alpine.applied("service", {"name": "app", "enabled": False}) == ["rc-update --all del app"]


def test_a_service_is_stopped(alpine: Alpine) -> None:
    stopped = {"name": "app", "state": "stopped"}
    assert alpine.applied("service", stopped) == []
    alpine.guest.path("rc/started/app").touch()
    assert alpine.applied("service", stopped) == ["app stop"]


def test_a_service_that_has_crashed(alpine: Alpine) -> None:
    for folder in ("started", "crashed"):
        alpine.guest.path(f"rc/{folder}/app").touch()
    started = {"name": "app", "state": "started"}
    assert alpine.step("service", started).state() == (("active", "no"),)
    assert alpine.applied("service", started) == ["app zap", "app start"]


def test_what_a_service_needs_has_changed(alpine: Alpine) -> None:
    assert alpine.applied("service", {"name": "app", "enabled": False}, triggered=True) == [], "it does not run"
    assert alpine.applied("service", {"name": "app", "state": "started"}, triggered=True) == ["app start"]
    assert alpine.applied("service", {"name": "app", "enabled": False}, triggered=True) == ["app restart"]
    reload = {"name": "app", "state": "started", "reload": True}
    assert alpine.applied("service", reload, triggered=True) == ["app reload"]
    alpine.guest.path("rc/init.d/app").write_text("reloads=''\n")
    assert alpine.applied("service", reload, triggered=True) == ["app reload", "app restart"]


def test_a_service_that_is_not_there(alpine: Alpine) -> None:
    done = alpine.step("service", "ap").apply()
    assert "There is no service ap: nothing in /etc/init.d has this name." in done.stderr


def test_a_service_that_does_not_stay(alpine: Alpine) -> None:
    alpine.guest.path("rc/init.d/app").write_text(f"touch {alpine.guest.path('rc/crashed/app')}\n")
    done = alpine.step("service", "app").apply()
    assert done.returncode != 0
    assert "app did not stay active." in done.stderr


ADDUSER = r"""
etc=$(dirname "$0")/../etc
uid=1000 home='' shell=/bin/sh group='' system=''
echo "adduser $*" >>"$etc/log"
while [ $# != 0 ]; do
  case $1 in
    -u) uid=$2; shift ;; -G) group=$2; shift ;; -s) shell=$2; shift ;; -h) home=$2; shift ;;
    -S) system=1 ;; -D | -H) ;; -*) exit 1 ;; *) name=$1 ;;
  esac
  shift
done
if [ -z "$group" ]; then
  ! grep -q "^$name:" "$etc/group" || { echo "adduser: group '$name' in use" >&2; exit 1; }
  [ -z "$system" ] || exit 9
  group=$name
  echo "$name:x:$uid:" >>"$etc/group"
fi
gid=$(sed -n "s/^$group:x:\([0-9]*\):.*/\1/p" "$etc/group")
[ -n "$gid" ] || { echo "adduser: unknown group $group" >&2; exit 1; }
: "${home:=$etc/home/$name}"
[ -n "$system" ] || mkdir "$home" || exit 1
echo "$name:x:$uid:$gid::$home:$shell" >>"$etc/passwd"
echo "$name:!:19000:0:99999:7:::" >>"$etc/shadow"
"""
ADDGROUP = r"""
etc=$(dirname "$0")/../etc
if [ "$1" = -S ]; then echo "$2:x:101:" >>"$etc/group"; exit; fi
sed "s/^\($2:.*:\)\$/\1$1/; t; s/^\($2:.*\)\$/\1,$1/" "$etc/group" >"$etc/group.new" && mv "$etc/group.new" "$etc/group"
"""


@pytest.fixture
def accounts(alpine: Alpine) -> Alpine:
    guest = alpine.guest
    guest.path("etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nold:x:900:0::/nowhere:/sbin/nologin\n")
    guest.path("etc/group").write_text("root:x:0:root\nwheel:x:10:root\nvideo:x:27:\nnogroup:x:65533:\n")
    guest.path("etc/shadow").write_text("root:*::0:::::\nold:!:19000:0:99999:7:::\n")
    guest.path("etc/shadow").chmod(0o640)
    guest.path("etc/home").mkdir()
    guest.program("adduser", ADDUSER)
    guest.program("addgroup", ADDGROUP)
    guest.program("deluser", f'sed -i "/^$1:/d" {guest.path("etc/passwd")}\n')
    return alpine


def test_an_account_is_made(accounts: Alpine) -> None:
    home = accounts.guest.path("srv/app/home")
    keys = ["ssh-ed25519 AAAA me@laptop"]
    options = {
        "name": "app",
        "uid": 4321,
        "groups": ["wheel", "video"],
        "shell": "/bin/ash",
        "home": str(home),
        "authorized_keys": keys,
    }
    accounts.applied("user", options)
    assert "app:x:4321:4321::" in accounts.etc("passwd")
    assert "wheel:x:10:root,app\n" in accounts.etc("group")
    assert "video:x:27:app\n" in accounts.etc("group")
    assert "app:*:19000:" in accounts.etc("shadow"), "not locked: sshd without PAM would refuse its key"
    assert "old:!:19000:" in accounts.etc("shadow"), "others are left alone"
    assert mode(accounts.guest.path("etc/shadow")) == "0640"
    assert (home / ".ssh/authorized_keys").read_text().splitlines() == keys
    before = {name: accounts.etc(name) for name in ("passwd", "group", "shadow", "log")}
    accounts.applied("user", options)
    assert {name: accounts.etc(name) for name in before} == before


def test_every_field_is_changed_without_usermod(accounts: Alpine) -> None:
    accounts.applied("user", {"name": "app", "uid": 4321, "shell": "/bin/sh"})
    home = accounts.guest.path("etc/home/app")
    (home / "file").write_text("mine")
    os.chown(home / "file", 4321, 4321)
    (home / "link").symlink_to("/etc/hostname")
    os.chown(home / "link", 4321, 4321, follow_symlinks=False)
    (home / "of-root").write_text("not mine")
    theirs = Path("/etc/hostname").stat().st_uid
    accounts.applied("user", {"name": "app", "uid": 4322, "gid": "video", "shell": r"/opt/a b/s\h"})
    assert r"/etc/home/app:/opt/a b/s\h" in accounts.etc("passwd")
    assert ((home / "file").stat().st_uid, (home / "file").stat().st_gid) == (4322, 27)
    assert (home / "link").lstat().st_uid == 4322
    assert (home / "of-root").stat().st_uid == os.getuid()
    assert Path("/etc/hostname").stat().st_uid == theirs
    accounts.applied("user", {"name": "app", "home": "/srv/elsewhere"})
    assert "app:x:4322:27::/srv/elsewhere:" in accounts.etc("passwd")
    assert home.exists(), "its content is not moved"
    assert accounts.etc("passwd").startswith("root:x:0:0:root:/root:/bin/sh\nold:x:900:0:")
    assert [path for path in accounts.guest.path("etc").iterdir() if ".devbox" in path.name] == []


def test_a_number_that_is_taken(accounts: Alpine) -> None:
    accounts.applied("user", {"name": "app", "uid": 4321})
    done = accounts.step("user", {"name": "app", "uid": 900}).apply()
    assert "The number 900 is that of the account old already." in done.stderr
    assert "app:x:4321:" in accounts.etc("passwd")


def test_a_primary_group_by_number_or_that_is_there_already(accounts: Alpine) -> None:
    accounts.applied("user", {"name": "one", "gid": 27})
    assert "-G video one" in accounts.etc("log")
    accounts.applied("user", "wheel")
    assert "-G wheel wheel" in accounts.etc("log"), "its own group was there before"
    done = accounts.step("user", {"name": "two", "gid": "nobody"}).apply()
    assert "The group nobody does not exist; make it in an earlier step." in done.stderr
    assert "two:" not in accounts.etc("passwd")


def test_a_system_account_has_a_group_of_its_own(accounts: Alpine) -> None:
    accounts.applied("user", {"name": "svc", "system": True, "shell": "/sbin/nologin"})
    assert "adduser -D -G svc -S -H -s /sbin/nologin svc" in accounts.etc("log")
    assert "svc:x:101:" in accounts.etc("group")


def test_an_account_that_adduser_left_locked_is_unlocked(accounts: Alpine) -> None:
    """The run was cut off between the two."""
    with accounts.guest.path("etc/passwd").open("a") as passwd:
        passwd.write("a.b:x:4321:27::/srv/a:/bin/sh\n")
    with accounts.guest.path("etc/shadow").open("a") as shadow:
        shadow.write("a.b:!:19000:0:99999:7:::\naxb:!:19000:0:99999:7:::\n")
    accounts.applied("user", {"name": "a.b", "shell": "/bin/ash"})
    assert "a.b:*:19000:" in accounts.etc("shadow")
    assert "axb:!:19000:" in accounts.etc("shadow")
    shadow_file = accounts.guest.path("etc/shadow")
    shadow_file.write_text("a.b:$6$hash:19000:0:99999:7:::\naxb:!:19000:0:99999:7:::\n")
    accounts.applied("user", {"name": "a.b", "shell": "/bin/sh"})
    assert shadow_file.read_text().startswith("a.b:$6$hash:"), "a password that somebody set stays"


def test_an_account_goes(accounts: Alpine) -> None:
    accounts.applied("user", "app")
    accounts.applied("user", {"name": "app", "state": "absent"})
    assert "app:" not in accounts.etc("passwd")
    assert accounts.guest.path("etc/home/app").exists()
