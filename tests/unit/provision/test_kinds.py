"""Each kind's probe prints the desired state after its script ran: really, or against stand-ins for system programs."""

import grp
import os
import pwd
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from devbox.config.model import StepSpec
from devbox.provision import shell
from devbox.provision.apply import Options, provision
from devbox.provision.bind import bind
from devbox.provision.facts import Facts
from devbox.provision.step import Change, State, difference, parse_state
from tests.unit.provision.fake import FakeGuest, step

ME = pwd.getpwuid(os.getuid()).pw_name
MY_GROUP = grp.getgrgid(os.getgid()).gr_name
DEBIAN = Facts(os="debian", manager="apt", init="systemd")


class Alone:
    """One step's probe and script, each by itself, with whatever init system and package manager are wanted."""

    def __init__(self, guest: FakeGuest, project: Path, kind: str, options: Any, facts: Facts = DEBIAN) -> None:
        (self.step,) = bind((step(kind, options),), project, "root")
        self.guest, self.facts = guest, facts
        self.head = (
            f"{shell.prelude()}manager='{facts.manager}' init='{facts.init}' uid=$(id -u)\n"
            f"state='{guest.path('state')}' files='{guest.path('files')}'\n{self._functions()}"
            f"etc='{guest.path('etc')}'\nload_accounts() {{ passwd=$(cat $etc/passwd) groups=$(cat $etc/group); }}\n"
        )

    def _functions(self) -> str:
        """The stand-ins once more, since BusyBox's shell takes its own `cat` and `rpm` before it looks at PATH."""
        names = (path.name for path in self.guest.bin.iterdir() if not path.is_symlink())
        return "".join(f"{name}() {{ '{self.guest.bin / name}' \"$@\"; }}\n" for name in names if name.isalpha())

    def _sh(self, text: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": f"{self.guest.bin}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8"}
        words = [str(self.guest.bin / "sh"), "-c", text]
        return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)

    def state(self) -> State | None:
        reads = self.step.kind.reads(self.step.options)
        done = self._sh(
            f"{self.head}{shell.load(reads)}\nprobe() {{\n{self.step.kind.probe(self.step.options)}\n}}\nprobe\n"
        )
        assert done.stderr == ""
        return parse_state(done.stdout) if done.returncode == 0 else None

    def changes(self) -> tuple[Change, ...]:
        state = self.state()
        assert state is not None
        return difference(state, self.step.desired(self.facts))

    def apply(self, *, triggered: bool = False) -> subprocess.CompletedProcess[str]:
        action = self.step.kind.apply(self.step.options, self.facts)
        self.guest.path("files").mkdir(exist_ok=True)
        for name, data in action.files.items():
            self.guest.path(f"files/{name}").write_bytes(data)
        return self._sh(f"set -- {'1' if triggered else chr(39) * 2}\nset -e\n{self.head}{action.script.decode()}")


def mode(path: Path) -> str:
    return f"{stat.S_IMODE(path.lstat().st_mode):04o}"


def test_file_in_every_wrong_state(guest: FakeGuest, project: Path) -> None:
    target = guest.path("folder with space/conf")
    alone = Alone(
        guest,
        project,
        "file",
        {"path": str(target), "content": "new\n", "mode": "0640", "owner": ME, "group": MY_GROUP},
    )

    def prepare_nothing() -> None:
        assert not target.exists()

    def prepare_link() -> None:
        target.unlink()
        target.symlink_to("/etc/hostname")

    def prepare_fifo() -> None:
        target.unlink()
        os.mkfifo(target)

    def prepare_content() -> None:
        target.write_text("old\n")

    def prepare_mode() -> None:
        target.chmod(0o600)

    for prepare in (prepare_nothing, prepare_content, prepare_mode, prepare_link, prepare_fifo):
        prepare()
        assert alone.changes(), prepare.__name__
        done = alone.apply()
        assert (done.returncode, done.stderr) == (0, "")
        assert alone.changes() == ()
        assert target.read_text() == "new\n"
        assert not target.is_symlink()
    assert Path("/etc/hostname").read_text() != "new\n"
    assert [path.name for path in target.parent.iterdir()] == ["conf"], "nothing is left beside it"


def test_file_keeps_a_mode_that_is_not_stated(guest: FakeGuest, project: Path) -> None:
    target = guest.path("conf")
    alone = Alone(guest, project, "file", {"path": str(target), "content": "new\n"})
    alone.apply()
    assert mode(target) == "0644"
    target.write_text("other")
    target.chmod(0o4751)
    alone.apply()
    assert (target.read_text(), mode(target)) == ("new\n", "4751")


def test_file_never_replaces_a_folder(guest: FakeGuest, project: Path) -> None:
    guest.path("folder").mkdir()
    done = Alone(guest, project, "file", {"path": str(guest.path("folder")), "content": ""}).apply()
    assert (done.returncode, done.stderr) == (1, f"{guest.path('folder')} is a folder.\n")


@pytest.mark.parametrize("name", ["back\\slash", "percent%s", "star*[a]?", "-n", "$(id)", "'quote\""])
def test_awkward_names(guest: FakeGuest, project: Path, name: str) -> None:
    target = guest.path("d") / name
    alone = Alone(guest, project, "file", {"path": str(target), "content": "x\n", "mode": "0600"})
    assert alone.apply().returncode == 0
    assert target.read_text() == "x\n"
    assert alone.changes() == ()


def test_directory(guest: FakeGuest, project: Path) -> None:
    target = guest.path("a/b")
    alone = Alone(guest, project, "directory", {"path": str(target), "mode": "1777", "owner": ME})
    assert alone.state() == ()
    alone.apply()
    assert (alone.changes(), mode(target)) == ((), "1777")
    target.rmdir()
    target.write_text("mine")
    assert alone.apply().returncode == 1
    assert target.read_text() == "mine"


@pytest.mark.parametrize("target", ["real", "../other one/it's", "second"])
def test_a_link_to_a_folder_counts_as_the_folder(guest: FakeGuest, project: Path, target: str) -> None:
    link = guest.path("d/link")
    link.parent.mkdir()
    link.symlink_to(target)
    link.with_name("second").symlink_to("real")
    real = link.resolve()
    real.mkdir(parents=True)
    real.chmod(0o700)
    spec = step("directory", {"path": str(link), "mode": "0751", "owner": ME, "group": MY_GROUP})
    plain = step("directory", str(link), "plain")

    def go(*steps: StepSpec) -> list[str]:
        return [str(one.status) for one in provision(guest, steps, guest.context(project), Options()).outcomes]

    assert go(plain) == ["same"]
    assert go(spec) == ["changed"]
    assert (mode(real), link.is_symlink(), str(link.readlink())) == ("0751", True, target)
    channels = guest.channels
    assert (go(spec, plain), guest.channels) == (["same", "same"], channels + 1)
    real.chmod(0o700)
    (change,) = Alone(guest, project, "directory", {"path": str(link), "mode": "0751"}).changes()
    assert (change.field, change.old, change.new) == ("mode", "0700", "0751")


def test_a_link_to_no_folder_is_none(guest: FakeGuest, project: Path) -> None:
    guest.path("file").touch()
    for target in ("file", "nowhere", "loop"):
        link = guest.path("loop") if target == "loop" else guest.path(f"to {target}")
        link.symlink_to(target)
        alone = Alone(guest, project, "directory", {"path": str(link), "mode": "0700"})
        assert alone.state() == (("type", "link"),)
        assert alone.changes()
        done = alone.apply()
        assert (done.returncode, done.stderr) == (1, f"{link} is there and is not a folder.\n")
        assert str(link.readlink()) == target


def test_template(guest: FakeGuest, project: Path) -> None:
    (project / "t.j2").write_text("{% for n in vars.n %}{{ n }} {{ hostname }}\n{% endfor %}")
    target = guest.path("t")
    facts = Facts(names={"hostname": "box"})
    alone = Alone(guest, project, "template", {"path": str(target), "src": "t.j2", "vars": {"n": [1, 2]}}, facts)
    alone.apply()
    assert target.read_text() == "1 box\n2 box\n"
    assert alone.changes() == ()


SYSTEMCTL = r"""
units=$(dirname "$0")/../units
mkdir -p "$units"
verb=$1; shift
case $verb in
  show)
    while [ $# != 0 ] && [ "$1" != -- ]; do shift; done; shift
    for unit do
      if [ -e "$units/$unit" ]; then . "$units/$unit"; load=loaded; else active=inactive enabled='' load=not-found; fi
      echo "Type=${type:-simple}"; echo Result=success; echo "Names=$unit"; echo "LoadState=$load"
      echo "ActiveState=$active"; echo "UnitFileState=$enabled"; echo "RemainAfterExit=no"
      echo "ExecMainStartTimestampMonotonic=${started:-0}"; echo "NeedDaemonReload=${reload:-no}"; echo
    done
    exit ;;
  daemon-reload) echo daemon-reload >>"$units.log"; sed -i 's/reload=yes/reload=no/' "$units"/*; exit ;;
esac
for unit do :; done
echo "$verb $unit" >>"$units.log"
[ -e "$units/$unit" ] || { echo "Unit $unit not found." >&2; exit 5; }
case $verb in
  start | restart | reload-or-restart) . "$units/$unit"; echo "active=${fate:-active}" >>"$units/$unit" ;;
  stop) echo active=inactive >>"$units/$unit" ;;
  enable) echo enabled=enabled >>"$units/$unit" ;;
  disable) echo enabled=disabled >>"$units/$unit" ;;
esac
"""


@pytest.fixture
def systemd(guest: FakeGuest) -> FakeGuest:
    guest.program("systemctl", SYSTEMCTL)
    guest.program("journalctl", "echo 'the last words of the unit'\n")
    guest.path("units").mkdir()
    guest.path("units/app.service").write_text("active=inactive\nenabled=disabled\n")
    return guest


def test_service(systemd: FakeGuest, project: Path) -> None:
    alone = Alone(systemd, project, "service", "app")
    assert alone.state() == (("active", "no"), ("enabled", "no"))
    assert alone.apply().returncode == 0
    assert alone.changes() == ()
    alone.apply(triggered=True)
    assert systemd.path("units.log").read_text().splitlines()[-1] == "restart app.service"
    off = Alone(systemd, project, "service", {"name": "app", "state": "stopped", "enabled": False})
    assert len(off.changes()) == 2
    off.apply()
    assert off.changes() == ()


def test_service_reload_and_new_unit_files(systemd: FakeGuest, project: Path) -> None:
    systemd.path("units/app.service").write_text("active=active\nenabled=enabled\nreload=yes\n")
    alone = Alone(systemd, project, "service", {"name": "app", "state": "started", "reload": True})
    alone.apply(triggered=True)
    done = systemd.path("units.log").read_text().splitlines()
    assert done == ["daemon-reload", "reload-or-restart app.service"]


def test_service_sees_a_first_drop_in_that_systemd_does_not(systemd: FakeGuest, project: Path) -> None:
    systemd.path("units/app.service").write_text("active=active\nenabled=enabled\nreload=no\n")
    alone = Alone(systemd, project, "service", "app")
    alone.apply(triggered=True)
    assert systemd.path("units.log").read_text().splitlines() == ["daemon-reload", "restart app.service"]


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("active=active\nenabled=static", ("yes", "yes")),
        ("active=active\nenabled=generated", ("yes", "yes")),
        ("active=inactive\nenabled=enabled\ntype=oneshot\nstarted=5", ("yes", "yes")),
        ("active=inactive\nenabled=enabled\ntype=oneshot\nstarted=0", ("no", "yes")),
        ("active=activating\nenabled=masked", ("no", "masked")),
        ("active=failed\nenabled=disabled", ("no", "no")),
    ],
)
def test_service_states(systemd: FakeGuest, project: Path, unit: str, expected: tuple[str, str]) -> None:
    systemd.path("units/app.service").write_text(unit + "\n")
    alone = Alone(systemd, project, "service", "app")
    assert alone.state() == (("active", expected[0]), ("enabled", expected[1]))


def test_service_that_fails_shows_its_journal(systemd: FakeGuest, project: Path) -> None:
    done = Alone(systemd, project, "service", "missing").apply()
    assert done.returncode != 0
    assert "Unit missing.service not found." in done.stderr
    assert "the last words of the unit" in done.stdout
    systemd.path("units/app.service").write_text("active=inactive\nenabled=disabled\nfate=failed\n")
    done = Alone(systemd, project, "service", "app").apply()
    assert done.returncode != 0
    assert "app.service did not stay active." in done.stderr


def test_many_services_in_one_show(systemd: FakeGuest, project: Path) -> None:
    for number in range(5):
        systemd.path(f"units/s{number}.service").write_text(f"active={'active' if number % 2 else 'inactive'}\n")
    steps = bind([step("service", {"name": f"s{n}", "state": "started"}, str(n)) for n in range(5)], project, "root")
    alone = Alone(systemd, project, "service", "s0")
    reads = shell.together(one.kind.reads(one.options) for one in steps)
    probes = "\n".join(one.kind.probe(one.options) for one in steps)
    done = alone._sh(f"{alone.head}{shell.load(reads)}\n{probes}\n")
    assert done.stdout.split() == ["active=no", "active=yes", "active=no", "active=yes", "active=no"]


def test_no_init_system(guest: FakeGuest, project: Path) -> None:
    alone = Alone(guest, project, "service", "app", Facts())
    assert alone.state() is None
    assert "neither systemd nor OpenRC" in alone.apply().stderr


@pytest.fixture
def accounts(guest: FakeGuest) -> FakeGuest:
    """With account files of its own, and programs that change those."""
    etc = guest.path("etc")
    etc.mkdir()
    (etc / "passwd").write_text("root:x:0:0:root:/root:/bin/bash\n")
    (etc / "group").write_text("root:x:0:\nadm:x:4:\ndocker:x:9:other\n")
    guest.program(
        "useradd",
        f"name="
        "''"
        f" uid=1234 shell=/bin/sh home=/home/new\n"
        "while [ $# != 0 ]; do case $1 in -u) uid=$2; shift ;; -s) shell=$2; shift ;; -d) home=$2; shift ;; "
        "-p | -g) shift ;; -*) ;; *) name=$1 ;; esac; shift; done\n"
        f'echo "$name:x:$uid:77::$home:$shell" >>{etc}/passwd; echo "$name:x:77:" >>{etc}/group; mkdir -p "$home"\n',
    )
    guest.program(
        "usermod",
        f'echo "usermod $*" >>{guest.path("log")}\n'
        f'if [ "$1" = -a ]; then sed -i "s/^$3:\\(.*\\):\\(.*\\)$/$3:\\1:\\2,$4/" {etc}/group; '
        f'else sed -i "s#:[^:]*\\$#:$2#" {etc}/passwd; fi\n',
    )
    guest.program("userdel", f'sed -i "/^$1:/d" {etc}/passwd\n')
    guest.program("chown", "exit 0\n")
    return guest


def test_user(accounts: FakeGuest, project: Path) -> None:
    home = accounts.path("home")
    options = {"name": "app", "uid": 1500, "groups": ["docker", "adm"], "shell": "/bin/bash", "home": str(home)}
    keys = ["ssh-ed25519 AAAA me@laptop", "ssh-rsa BBBB"]
    alone = Alone(accounts, project, "user", {**options, "authorized_keys": keys})
    assert alone.state() == ()
    done = alone.apply()
    assert (done.returncode, done.stderr) == (0, "")
    assert alone.changes() == ()
    kept = home / ".ssh/authorized_keys"
    assert kept.read_text().splitlines() == keys
    assert (mode(kept), mode(kept.parent)) == ("0600", "0700")
    kept.write_text("ssh-rsa CCCC other")  # without a line's end, and not ours
    assert [change.field for change in alone.changes()] == ["keys"]
    alone.apply()
    assert kept.read_text().splitlines() == ["ssh-rsa CCCC other", *keys]
    other = Alone(accounts, project, "user", {"name": "app", "shell": "/bin/zsh"})
    assert [(c.field, c.old, c.new) for c in other.changes()] == [("shell", "/bin/bash", "/bin/zsh")]
    other.apply()
    assert other.changes() == ()
    gone = Alone(accounts, project, "user", {"name": "app", "state": "absent"})
    assert gone.state() == (("state", "present"),)
    gone.apply()
    assert gone.state() == ()
    assert home.exists()


def test_user_in_a_group_that_does_not_exist(accounts: FakeGuest, project: Path) -> None:
    done = Alone(accounts, project, "user", {"name": "app", "groups": ["dokcer"]}).apply()
    assert "The group dokcer does not exist" in done.stderr
    assert "app" not in accounts.path("etc/passwd").read_text()


def test_user_primary_group_by_name_or_number(accounts: FakeGuest, project: Path) -> None:
    with accounts.path("etc/passwd").open("a") as passwd:
        passwd.write("app:x:1500:4::/home/app:/bin/sh\n")
    for gid in ("adm", 4):
        assert Alone(accounts, project, "user", {"name": "app", "gid": gid}).changes() == ()
    (change,) = Alone(accounts, project, "user", {"name": "app", "gid": "docker"}).changes()
    assert (change.field, change.old, change.new) == ("gid", "4", "docker")
