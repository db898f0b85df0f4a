"""`packages` with each package manager: the generated shell for real, against stand-ins that print what those print.

Where the outputs are from:

- `dnf check-update` of dnf 4 and 5: its exit status and lines from ci-dnf-stack
  (dnf-behave-tests/dnf/check-update.feature); the heading of what obsoletes others from dnf5's check-upgrade.cpp and
  dnf's output.py; names on a line of their own when the columns do not fit: dnf's output.py, too. dnf 5 says
  "Updating and loading repositories:" and "Repositories loaded." on stderr (rpm-software-management/dnf5, issue 326).
- dnf's "Failed to obtain the transaction lock" and its status 200: dnf/base.py, and "Return values" of dnf(8).
- `rpm -q`: rpm(8). `apk info -v`, its WARNING on stderr and `apk version`: apk-info(8), apk-version(8), and the facts
  in pyinfra's tests (tests/facts/apk.ApkPackages).
- `pacman -Q`, `-Qu`, `-T` (127): pacman(8); its words about the lock from libalpm's error.c and pacman's util.c.
- `zypper list-updates`: a sample in Azure/LinuxPatchExtension's ZypperPackageManager.py; its exit
  statuses from zypper(8), "EXIT CODES"; its words about the lock from libzypp's ZYppFactory.cc.
- apt's words about locks, held packages and versions: this project's own Debian 12 guests.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from shlex import quote
from typing import Any

import pytest

from devbox.provision.apply import Options, provision
from devbox.provision.facts import Facts
from tests.unit.provision.fake import FakeGuest, step
from tests.unit.provision.managers import PROGRAMS
from tests.unit.provision.test_kinds import Alone

# Imported rather than run, so that it is compiled once.
START = f"import sys; sys.path[:0] = [{str(Path(__file__).parent)!r}]; from managers import main; sys.exit(main())"
EVERYWHERE = ("apt", "dnf", "dnf5", "zypper", "apk", "pacman")


class Distribution:
    """A guest of one family: what is installed there, what its repositories offer, and what its programs were told."""

    def __init__(self, guest: FakeGuest, project: Path, family: str) -> None:
        self.guest, self.project, self.family = guest, project, family
        self.manager = family.removesuffix("5")
        self.folder = guest.path("packages")
        self.folder.mkdir()
        if family == "dnf5":
            self.write("dnf5", "")
        for name in PROGRAMS[self.manager]:
            guest.program(name, f'exec {sys.executable} -I -S -c {quote(START)} "$0" "$@"\n')
        guest.program("sleep", f'echo "sleep $*" >>{self.folder}/log\n')
        guest.path("etc").mkdir()
        for name in ("passwd", "group"):
            guest.path(f"etc/{name}").touch()
        self.facts = Facts(os="other", manager=self.manager)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def has(self, **installed: str) -> None:
        self.write("installed.json", json.dumps({name.replace("_", "-"): v for name, v in installed.items()}))

    def offers(self, **offered: str) -> None:
        self.write("offered.json", json.dumps({name.replace("_", "-"): v.split() for name, v in offered.items()}))

    def installed(self) -> dict[str, str]:
        found: dict[str, str] = json.loads((self.folder / "installed.json").read_text())
        return found

    def step(self, options: Any) -> Alone:
        return Alone(self.guest, self.project, "packages", options, self.facts)

    def log(self) -> list[str]:
        """What was asked for, but for questions."""
        path = self.folder / "log"
        questions = (
            "dpkg-query",
            "dpkg --audit",
            "apt-cache",
            "rpm",
            "apk info",
            "apk version",
            "pacman -Q",
            "pacman -T",
        )
        more = ("pacman-conf", "zypper -q", "zypper --non-interactive --no-refresh", "dnf -q", "apt-mark")
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if not line.startswith((*questions, *more))]

    def fresh(self) -> None:
        """The index is new."""
        self.guest.path("state").mkdir(exist_ok=True)
        self.guest.path("state/index").touch()


@pytest.fixture(params=EVERYWHERE)
def there(request: pytest.FixtureRequest, guest: FakeGuest, project: Path) -> Distribution:
    return Distribution(guest, project, request.param)


def only(guest: FakeGuest, project: Path, family: str) -> Distribution:
    return Distribution(guest, project, family)


def applied(alone: Alone) -> subprocess.CompletedProcess[str]:
    done = alone.apply()
    assert done.returncode == 0, done.stdout + done.stderr
    assert alone.changes() == ()
    return done


VERSIONS = {"apt": "1:2.39.5-0+deb12u2", "apk": "2.43.0-r0", "pacman": "2.47.1-1"}


def test_first_run_changes_and_second_does_not(there: Distribution) -> None:
    there.has(zlib="1-r1")
    there.offers(git="2.43.0-r0 2.42.0-r1", py3_tool="1.2-r3", zlib="2-r1")
    alone = there.step(["git", "py3-tool", "zlib"])
    assert [(c.field, c.old, c.new) for c in alone.changes()] == [
        ("git", None, "installed"),
        ("py3-tool", None, "installed"),
    ]
    applied(alone)
    assert there.installed()["git"] == "2.43.0-r0"
    words = there.log()
    installs = [line for line in words if "git" in line]
    assert len(installs) == 1, "one transaction"
    assert "zlib" not in installs[0], "what is there is left alone"
    applied(alone)
    assert there.log() == words, "nothing is missing any more"


def test_the_index_is_refreshed_once_a_day_and_after_a_new_source(there: Distribution) -> None:
    there.has()
    there.offers(git="1-r1", curl="1-r1")
    refreshes = ("update", "makecache", "refresh", "-Syu")

    def count() -> int:
        return len([line for line in there.log() if any(word in line.split() for word in refreshes)])

    applied(there.step(["git"]))
    assert count() == 1
    applied(there.step(["curl"]))
    assert count() == 1, "it is fresh"
    alone = there.step({"update": True})
    assert alone.changes() == ()
    source = {
        "apt": "apt/sources.list.d/new.sources",
        "dnf": "yum.repos.d/new.repo",
        "zypper": "zypp/repos.d/new.repo",
        "apk": "apk/repositories",
        "pacman": "pacman.conf",
    }[there.manager]
    path = there.guest.path(f"etc/{source}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    stamp = there.guest.path("state/index").stat().st_mtime + 5
    os.utime(path, (stamp, stamp))
    assert [(c.field, c.old, c.new) for c in alone.changes()] == [("index", "old", "fresh")]
    os.utime(path, (1, 1))
    os.utime(path.parent, (1, 1))
    os.utime(there.guest.path("state/index"), (1, 1))
    applied(alone)
    assert count() == 2


def test_a_version_pattern(there: Distribution) -> None:
    there.has()
    there.offers(git="2.43.0-r0" if there.manager == "pacman" else "3.0-r0 2.43.0-r0 2.42.0-r1")
    there.fresh()
    alone = there.step(["git=2.43*"])
    applied(alone)
    assert there.installed() == {"git": "2.43.0-r0"}
    assert there.step(["git=2.42*"]).state() == (("git", "2.43.0-r0"),)
    assert there.step(["git=2.43.0-r0"]).changes() == ()


def test_an_older_version_replaces_a_newer_one(there: Distribution) -> None:
    there.has(git="3.0-r0")
    there.offers(git="2.43.0-r0" if there.manager == "pacman" else "3.0-r0 2.43.0-r0")
    there.fresh()
    applied(there.step(["git=2.43.0-r0"]))
    assert there.installed() == {"git": "2.43.0-r0"}


def test_a_version_that_is_not_offered(there: Distribution) -> None:
    there.has(git="3.0-r0")
    there.offers(git="3.0-r0")
    there.fresh()
    done = there.step(["git=2.42*"]).apply()
    assert done.returncode != 0
    assert there.installed() == {"git": "3.0-r0"}
    said = {
        "apt": "Version '2.42*' for 'git' was not found",
        "dnf": "No match for argument: git-2.42*",
        "apk": "git~2.42 (no such package)",
    }
    assert said.get(there.manager, "git is 3.0-r0: none of the guest's repositories offers the version 2.42*.") in (
        done.stdout + done.stderr
    )


def test_absent(there: Distribution) -> None:
    there.has(apache2="2.4-r1", git="1-r1")
    there.offers()
    alone = there.step({"absent": ["apache2", "nginx"]})
    assert alone.state() == (("apache2", "installed"),)
    applied(alone)
    assert there.installed() == {"git": "1-r1"}
    assert len(there.log()) == 1, "the index is not needed"
    applied(alone)
    assert len(there.log()) == 1


def test_one_comes_and_another_goes(there: Distribution) -> None:
    there.has(mawk="1-r1")
    there.offers(gawk="5-r1")
    there.fresh()
    applied(there.step({"present": ["gawk"], "absent": ["mawk"]}))
    assert there.installed() == {"gawk": "5-r1"}
    if there.manager == "apt":
        assert len(there.log()) == 1, "apt does both in one transaction"


def test_latest(there: Distribution) -> None:
    there.has(curl="8.5-r1", python3="3-r1", git="1-r1")
    there.offers(curl="8.6-r1 8.5-r1", python3="3-r1", python3_11="4-r1", git="2-r1 1-r1")
    there.fresh()
    alone = there.step({"latest": ["curl", "python3", "jq"], "present": ["git"]})
    assert alone.state() == (("index", "fresh"), ("git", "installed"), ("curl", "8.5-r1"), ("python3", "latest"))
    there.offers(curl="8.6-r1 8.5-r1", python3="3-r1", jq="1.7-r0", git="2-r1 1-r1")
    applied(alone)
    assert there.installed()["curl"] == "8.6-r1"
    assert there.installed()["jq"] == "1.7-r0"
    if there.manager != "pacman":
        assert there.installed()["git"] == "1-r1", "only what is asked for is upgraded"
    words = there.log()
    applied(alone)
    assert there.log() == words


def test_latest_with_names_that_begin_alike(there: Distribution) -> None:
    """Of `python3.11` something newer is offered; of `python3`, `v` and `Main` not."""
    long = "a-name-that-is-far-too-long-for-its-column"
    there.write("installed.json", json.dumps({"python3": "3-r1", "python3.11": "3-r1", "v": "1-r1", long: "1-r1"}))
    there.write(
        "offered.json", json.dumps({"python3": ["3-r1"], "python3.11": ["4-r1"], "v": ["1-r1"], long: ["2-r1"]})
    )
    there.fresh()
    assert there.step({"latest": ["python3", "python3.11", "v", long]}).state() == (
        ("index", "fresh"),
        ("python3", "latest"),
        ("python3.11", "3-r1"),
        ("v", "latest"),
        (long, "1-r1"),
    )


def test_a_name_that_another_package_provides(there: Distribution) -> None:
    there.has(mawk="1-r1")
    there.write("provided.json", json.dumps({"awk": "mawk", "sh": "dash"}))
    alone = there.step(["awk", "sh"])
    assert alone.state() == (("awk", "installed"),)
    there.offers(sh="1-r1")
    applied(alone)
    assert set(there.installed()) == {"mawk", "sh"}
    assert there.step({"absent": ["awk"]}).changes() == (), "only real packages are removed"


def test_a_package_that_does_not_exist(there: Distribution) -> None:
    there.has()
    there.offers(git="1-r1")
    done = there.step(["git", "no-such-package"]).apply()
    assert done.returncode != 0
    assert "no-such-package" in done.stdout
    assert f"{there.manager} could not install the packages." in done.stderr
    tries = [line for line in there.log() if "no-such-package" in line]
    assert len(tries) == 1, "a fresh index is not refreshed again"


def test_an_index_of_yesterday_names_what_the_mirror_has_replaced(there: Distribution) -> None:
    """The first try fails with the index that is fresh by its age; after a refresh it is tried once more."""
    there.has()
    there.offers()
    there.fresh()
    assert there.step(["git"]).apply().returncode != 0
    tries = [line for line in there.log() if "git" in line]
    assert len(tries) == 2
    assert len(there.log()) == 3


@pytest.mark.parametrize("family", ["apt", "dnf", "dnf5", "zypper"])
def test_a_lock_is_waited_for(guest: FakeGuest, project: Path, family: str) -> None:
    there = only(guest, project, family)
    there.has()
    there.offers(git="1-r1")
    there.write("locked", "2")
    done = applied(there.step(["git"]))
    assert done.stdout.count("Another program holds the lock") == 1
    assert there.log().count("sleep 3") == 2


def test_a_lock_that_stays(guest: FakeGuest, project: Path) -> None:
    there = only(guest, project, "zypper")
    there.has()
    there.offers(git="1-r1")
    there.fresh()
    there.write("locked", "1000")
    done = there.step(["git"]).apply()
    assert done.returncode != 0
    assert "locked by the application with pid 1043" in done.stdout
    assert there.log().count("sleep 3") == 100


def test_apk_waits_for_its_lock_by_itself(guest: FakeGuest, project: Path) -> None:
    there = only(guest, project, "apk")
    there.has()
    there.offers(git="1-r1")
    there.write("locked", "2")
    applied(there.step(["git"]))
    assert [line.split()[1:3] for line in there.log()] == [["--wait", "300"], ["--wait", "300"]]


def test_a_lock_that_a_killed_pacman_left(guest: FakeGuest, project: Path) -> None:
    there = only(guest, project, "pacman")
    there.has()
    there.offers(git="1-r1")
    there.write("db.lck", "")
    done = applied(there.step(["git"]))
    assert "Removing the lock of a pacman that no longer runs." in done.stdout


def test_a_pacman_that_runs_keeps_its_lock(guest: FakeGuest, project: Path) -> None:
    there = only(guest, project, "pacman")
    there.has()
    there.offers(git="1-r1")
    there.write("db.lck", "")
    with (there.folder / "db.lck").open("w") as lock:
        guest.program("sleep", f"[ ! -e {there.folder}/slept ] || rm -f {lock.name}; touch {there.folder}/slept\n")
        applied(there.step(["git"]))
    assert (there.folder / "slept").exists()


def test_pacman_never_refreshes_without_upgrading(guest: FakeGuest, project: Path) -> None:
    there = only(guest, project, "pacman")
    there.has(linux="6.17.3-1", git="1-1")
    there.offers(linux="6.17.4-1", git="2-1")
    there.fresh()
    applied(there.step({"latest": ["git"]}))
    assert there.installed() == {"linux": "6.17.4-1", "git": "2-1"}
    assert there.log() == ["pacman -Syu --noconfirm"]


@pytest.mark.parametrize("family", ["apt", "dnf5"])
def test_without_a_network_what_is_at_hand_is_installed(guest: FakeGuest, project: Path, family: str) -> None:
    there = only(guest, project, family)
    there.has()
    there.offers(git="1-r1")
    there.write("offline", "")
    done = applied(there.step(["git"]))
    assert "could not be refreshed; going on with the old one" in done.stdout
    assert not guest.path("state/index").exists()
    done = there.step({"latest": ["git"]}).apply()
    assert done.returncode != 0
    assert "The package index could not be refreshed." in done.stderr


def test_dnf_without_a_cache_cannot_tell_what_is_the_newest(guest: FakeGuest, project: Path) -> None:
    there = only(guest, project, "dnf")
    there.has(git="2-1")
    there.offers(git="2-1")
    there.fresh()
    there.write("no-cache", "")
    assert there.step({"latest": ["git"]}).state() == (("index", "fresh"), ("git", "2-1"))
    there.step({"latest": ["git"]}).apply()
    assert there.log()[0] == "dnf -y makecache"


def test_rpm_versions_with_epochs_and_releases(guest: FakeGuest, project: Path) -> None:
    there = only(guest, project, "dnf")
    there.write("installed.json", json.dumps({"docker-ce": "3:25.0.0-1.fc41", "kernel": "6.1-1.fc41,6.2-1.fc41"}))

    def holds(package: str) -> bool:
        return there.step([package]).changes() == ()

    for fitting in ("25.0.0", "25.*", "25.0.0-1.fc41", "3:25.0.0", "3:25*"):
        assert holds(f"docker-ce={fitting}"), fitting
    for other in ("2:25.0.0", "25.0", "25.0.0-2*", "5.0.0"):
        assert not holds(f"docker-ce={other}"), other
    assert holds("kernel=6.2")
    assert holds("kernel=6.1*")
    assert not holds("kernel=6.3*")
    assert holds("docker-ce.x86_64")


def test_zypper_looks_for_a_version_that_fits_the_pattern(guest: FakeGuest, project: Path) -> None:
    there = only(guest, project, "zypper")
    there.has(git="2.35.1-1")
    there.offers(git="2.36.0-1.1 2.35.3-150300.10.27.1 2.35.1-1")
    there.fresh()
    applied(there.step(["git=2.35.3*"]))
    assert there.log()[-1].endswith("git=2.35.3-150300.10.27.1")


@pytest.mark.parametrize(("status", "success"), [(102, True), (103, True), (106, True), (4, False), (107, False)])
def test_what_zypper_says_by_its_status(guest: FakeGuest, project: Path, status: int, success: bool) -> None:  # noqa: FBT001
    there = only(guest, project, "zypper")
    there.has()
    there.offers(git="1-1")
    there.fresh()
    there.write("zypper-status", str(status))
    done = there.step(["git"]).apply()
    assert (done.returncode == 0) is success, done.stdout + done.stderr
    if not success:
        assert "zypper found no way" in done.stderr or "a script of one of them has failed" in done.stderr


def test_zypper_knows_no_such_package(guest: FakeGuest, project: Path) -> None:
    there = only(guest, project, "zypper")
    there.has()
    there.offers()
    done = there.step(["git"]).apply()
    assert "None of the repositories of the guest has a package by one of these names." in done.stderr


def test_apk_takes_away_what_nothing_else_needs(guest: FakeGuest, project: Path) -> None:
    """With a package apk removes its dependencies; one of them may be asked for by name."""
    there = only(guest, project, "apk")
    there.has(nginx="1-r1", pcre="8-r1")
    there.offers(pcre="8-r1")
    there.write("orphan", "pcre")
    there.fresh()
    applied(there.step({"present": ["pcre"], "absent": ["nginx"]}))
    assert there.installed() == {"pcre": "8-r1"}


def test_apk_virtual_packages_and_versions(guest: FakeGuest, project: Path) -> None:
    there = only(guest, project, "apk")
    there.write("installed.json", json.dumps({".build-deps": "20240402.123456", "git": "2.43.0-r5", "g++": "13.2-r0"}))
    there.offers(git="2.43.0-r5")
    assert there.step(["git=2.43.0", "g++"]).changes() == ()
    assert there.step({"absent": [".build-deps"]}).state() == ((".build-deps", "installed"),)
    applied(there.step({"absent": [".build-deps"]}))
    done = there.step(["git=2.*.1"]).apply()
    assert "apk takes a pattern only with its `*` at the end." in done.stderr


def test_apk_says_what_its_world_file_asks_for(guest: FakeGuest, project: Path) -> None:
    there = only(guest, project, "apk")
    there.has(git="1-r1")
    there.offers(git="1-r1")
    guest.path("etc/apk").mkdir()
    guest.path("etc/apk/world").write_text("alpine-base\ngit<2\ncurl=8.5-r0\n")
    done = there.step(["git=3*"]).apply()
    assert "The world file of apk in the guest asks for git<2." in done.stderr
    assert "curl" not in done.stderr


def test_apt_packages_that_are_held_back(guest: FakeGuest, project: Path) -> None:
    there = only(guest, project, "apt")
    there.has(nginx="1.22.1-9", git="1-1")
    there.offers(nginx="1.26-1 1.22.1-9", git="1-1")
    there.write("held", "nginx\nother\n")
    there.fresh()
    assert there.step(["nginx"]).changes() == (), "any version will do"
    done = there.step({"latest": ["nginx"]}).apply()
    assert done.returncode != 0
    assert "Held back in the guest: nginx. Let go of them there by `apt-mark unhold nginx`" in done.stderr


def test_apt_names_with_an_architecture(guest: FakeGuest, project: Path) -> None:
    there = only(guest, project, "apt")
    there.write("installed.json", json.dumps({"libc6": "2.36-9", "wine32": "8-1", "tzdata": "2024a-0"}))
    there.write("arches.json", json.dumps({"wine32": "i386", "tzdata": "all"}))
    alone = there.step(["libc6", "libc6:amd64", "wine32:i386", "tzdata", "libc6:i386", "wine32:amd64"])
    assert [c.field for c in alone.changes()] == ["libc6:i386", "wine32:amd64"]
    alone.head += "read_native() { native=amd64; }\n"
    alone = there.step(["wine32", "libc6", "tzdata"])
    alone.head += "read_native() { native=amd64; }\n"
    assert [c.field for c in alone.changes()] == ["wine32"], "one of another architecture is not what the name means"


def test_apt_counts_only_what_is_installed(guest: FakeGuest, project: Path) -> None:
    there = only(guest, project, "apt")
    there.has(nginx="1-1", git="1-1", curl="1-1")
    there.write("status.json", json.dumps({"nginx": "config-files", "git": "half-configured"}))
    assert there.step(["nginx", "git", "curl"]).state() == (("curl", "installed"),)
    assert there.step({"absent": ["nginx"]}).changes() == ()


def test_a_dpkg_that_was_cut_off_is_finished_first(guest: FakeGuest, project: Path) -> None:
    there = only(guest, project, "apt")
    there.has()
    there.offers(git="1-1")
    there.fresh()
    there.write("audit", "")
    applied(there.step(["git"]))
    assert there.log()[0] == "dpkg --configure -a"


def test_apt_is_asked_in_a_way_that_never_asks_back(guest: FakeGuest, project: Path) -> None:
    there = only(guest, project, "apt")
    there.has()
    there.offers(git="1-1")
    applied(there.step(["git"]))
    update, install = there.log()
    assert update.endswith(" update -o Acquire::Languages=none")
    for words in (
        "-y ",
        "DPkg::Lock::Timeout=300",
        "--force-confdef",
        "--force-confold",
        "install --allow-downgrades git",
    ):
        assert words in install


def test_apt_takes_a_star_only_at_the_end_of_a_version(guest: FakeGuest, project: Path) -> None:
    there = only(guest, project, "apt")
    there.has()
    there.offers(tmux="3.5a-2~bpo12+1 3.3a-3", jq="1.7-1")
    applied(there.step(["tmux=*~bpo12*"]))
    assert there.installed() == {"tmux": "3.5a-2~bpo12+1"}
    done = there.step(["jq=*bpo*"]).apply()
    assert "Version '*bpo*' for 'jq' was not found" in done.stdout


def test_a_group_is_not_a_package(guest: FakeGuest, project: Path) -> None:
    """`pacman -S` of a group succeeds, and no package has its name afterwards."""
    there = only(guest, project, "pacman")
    there.has()
    there.offers()
    guest.program("pacman", "case $1 in -S*) exit 0 ;; esac; exit 1\n")
    done = there.step(["xfce4"]).apply()
    assert "xfce4 is still not installed. Name packages here, not groups of them." in done.stderr


def test_through_the_engine(guest: FakeGuest, project: Path) -> None:
    """Two runs in two channels and in one."""
    there = only(guest, project, "apt")
    there.has(mawk="1-1", git="1:2.39.5-0")
    there.offers(nginx="1-1")
    there.write("provided.json", json.dumps({"awk": "mawk"}))
    (guest.bin / "sleep").unlink()  # the engine's own, while it follows
    context = guest.context(project)
    steps = (step("packages", {"present": ["nginx", "git=1:2.39*"], "absent": ["apache2", "mawk"]}),)
    report = provision(guest, steps, context, Options())
    assert report.ok
    assert [(c.field, c.old, c.new) for c in report.outcomes[0].changes] == [
        ("nginx", None, "installed"),
        ("mawk", "installed", None),
    ]
    assert guest.channels == 2
    assert len(there.log()) == 2, "the index once, and one transaction"
    again = provision(guest, steps, context, Options())
    assert again.ok
    assert guest.channels == 3
