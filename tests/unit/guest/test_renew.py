"""The script that renews a guest, run by the shells it must run under, in a folder that stands for the guest's disk."""

import getpass
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from devbox.guest import renew
from devbox.guest.renew import Renewal

BORN, OWN, FRIEND = "ssh-ed25519 AAAAborn", "ssh-ed25519 AAAAown", "ssh-rsa AAAAfriend ann@home"
PLAN = Renewal(
    user="dev",
    hostname="fork",
    login_key=OWN,
    host_key="-----OWN-----\nPRIVATE\n-----END-----\n",
    host_line="ssh-ed25519 OWNHOST",
    machine_id="0" * 31 + "2",
    instance="own-instance",
    random=bytes(range(256)) * 2,
    retired=(BORN,),
)
STEP = re.compile(
    r"^ +(\[ .*\|\| )?(mv|rm|ln|put|printf|: >|sync|write_out|chown|mkdir|kill|(take|forget|tell)_|stir)\b"
)


@dataclass
class Disk:
    root: Path
    shell: Path
    bin: Path

    def run(self, plan: Renewal = PLAN, *, now: int | None = None, kill_at: int = 0) -> int:
        text = self.script(plan, now or int(time.time()))
        if kill_at:
            tick = f"tick() {{ ticks=$((ticks + 1)); [ $ticks -ne {kill_at} ] || kill -KILL $$; }}; ticks=0\n"
            text = tick + "".join(
                f"tick\n{line}" if STEP.match(line) else line for line in text.splitlines(keepends=True)
            )
        done = subprocess.run([self.shell], input=text.encode(), capture_output=True, check=False, cwd="/")
        assert done.returncode in (0, -signal.SIGKILL), done.stderr.decode()
        return done.returncode

    def script(self, plan: Renewal, now: int) -> str:
        """As sent, but for what reaches beyond the disk. By functions: BusyBox prefers its own programs to PATH's."""
        said = self.root.with_name("said")
        stubs = {"date": f"echo {CLOCK}", "note_time": f'echo clock "$@" >>{said}'}
        stubs |= {name: f'echo {name} "$@" >>{said}' for name in ("sync", "perl", "systemctl")}
        path = f"{self.bin}:{os.environ['PATH']}"
        text = renew.script(plan, now, root=str(self.root), path=path, set_time="note_time")
        assert "date -s" not in text, "these tests once set the clock of the computer they ran on"
        return "".join(f"{name}() {{ {body}; }}\n" for name, body in stubs.items()) + text

    def path(self, name: str) -> Path:
        return self.root / name

    def text(self, name: str) -> str:
        return self.path(name).read_text()

    def write(self, name: str, text: str) -> None:
        self.path(name).parent.mkdir(parents=True, exist_ok=True)
        self.path(name).write_text(text)


KEYS, ROOT_KEYS = "home/dev/.ssh/authorized_keys", "root/.ssh/authorized_keys"
CLOUD = "var/lib/cloud"
CLOCK = 1000000  # of the guest, in seconds


@pytest.fixture(params=["dash", "busybox", "bash"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    programs = tmp_path / "bin"
    programs.mkdir()
    if request.param == "busybox":
        busybox = str(shutil.which("busybox"))
        for name in subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split():
            (programs / name).symlink_to(busybox)
    else:
        (programs / "sh").symlink_to(str(shutil.which(request.param)))
    for name in ("restorecon", "rc-service"):
        (programs / name).write_text(f'#!/bin/sh\necho {name} "$@" >>{tmp_path}/said\n')
        (programs / name).chmod(0o755)
    disk = Disk(tmp_path / "disk", programs / "sh", programs)
    disk.write("etc/ssh/ssh_host_ed25519_key", "BORN PRIVATE\n")
    disk.write("etc/ssh/ssh_host_ed25519_key.pub", "ssh-ed25519 BORNHOST\n")
    disk.write("etc/ssh/ssh_host_rsa_key", "RSA\n")
    disk.write("etc/ssh/sshd_config", "Port 22\n")
    disk.write("etc/machine-id", f"{'0' * 31}1\n")
    disk.write("var/lib/dbus/machine-id", f"{'0' * 31}1\n")
    disk.write("etc/hostname", "parent\n")
    disk.write("etc/hosts", "127.0.0.1 localhost\n# parent\n127.0.1.1\tparent.lan parent\n10.0.0.1 *  db")
    disk.write("var/lib/systemd/random-seed", "the parent's")
    disk.write("var/lib/dhcp/dhclient.leases", "a lease")
    disk.write("dev/urandom", "")
    mine = f"{os.getuid()}:{os.getgid()}"
    disk.write("etc/passwd", f"root:x:{mine}::/root:/bin/sh\ndev:x:{mine}:D:/home/dev:/bin/sh")
    disk.write(ROOT_KEYS, f"{BORN}\n")
    disk.write(KEYS, f"{FRIEND}\n{BORN}\n# mine")
    disk.write(f"{CLOUD}/instances/born/sem/config_ssh", "done")
    disk.write(f"{CLOUD}/instances/born/user-data.txt", "BORN PRIVATE")
    disk.write(f"{CLOUD}/data/instance-id", "born\n")
    disk.path(f"{CLOUD}/instance").symlink_to("/var/lib/cloud/instances/born")
    return disk


@pytest.fixture
def sshd(disk: Disk, tmp_path: Path) -> Iterator[Path]:
    """A process that stands for the sshd which listens; the file it writes when it is told to read its keys again."""
    told = tmp_path / "told"
    script = f"trap 'echo told >>{told}' HUP; echo ready; while :; do sleep 0.02; done"
    with subprocess.Popen(["/bin/sh", "-c", script], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        disk.write("run/sshd.pid", f"{child.pid}\n")
        yield told
        child.kill()


def assert_renewed(disk: Disk) -> None:
    assert disk.text(KEYS).splitlines() == [FRIEND, "# mine", OWN]
    assert disk.text(ROOT_KEYS) == f"{OWN}\n"
    assert disk.path(KEYS).stat().st_mode & 0o777 == 0o600
    assert disk.text("etc/ssh/ssh_host_ed25519_key") == PLAN.host_key
    assert disk.path("etc/ssh/ssh_host_ed25519_key").stat().st_mode & 0o777 == 0o600
    assert disk.text("etc/ssh/ssh_host_ed25519_key.pub") == f"{PLAN.host_line}\n"
    assert sorted(path.name for path in disk.path("etc/ssh").iterdir()) == [
        "ssh_host_ed25519_key", "ssh_host_ed25519_key.pub", "sshd_config"
    ]  # fmt: skip
    assert disk.text("etc/machine-id") == disk.text("var/lib/dbus/machine-id") == f"{PLAN.machine_id}\n"
    assert disk.text("etc/hostname") == "fork\n"
    assert disk.text("etc/hosts") == "127.0.0.1 localhost\n# parent\n127.0.1.1 fork\n10.0.0.1 *  db\n"
    assert disk.path("var/lib/systemd/random-seed").read_bytes() == disk.path("dev/urandom").read_bytes() == PLAN.random
    assert not disk.path("var/lib/dhcp/dhclient.leases").exists()
    assert str(disk.path(f"{CLOUD}/instance").readlink()) == "/var/lib/cloud/instances/own-instance"
    assert [path.name for path in disk.path(f"{CLOUD}/instances").iterdir()] == ["own-instance"]
    assert disk.text(f"{CLOUD}/data/instance-id") == "own-instance\n"
    assert disk.text(f"{CLOUD}/instances/own-instance/sem/config_ssh") == "done"
    left = [
        path
        for path in disk.root.rglob("*")
        if path.is_file() and (".devbox" in path.name or "BORN" in path.read_text(errors="replace"))
    ]
    assert left == []


def test_nothing_of_the_parent_is_left_and_a_second_time_changes_nothing(disk: Disk) -> None:
    for _ in range(2):
        assert disk.run() == 0
        assert_renewed(disk)


def test_killed_at_any_line_one_of_the_two_identities_still_logs_in(disk: Disk, sshd: Path) -> None:
    born = disk.root.with_name("born")
    shutil.copytree(disk.root, born, symlinks=True)
    for kill_at in range(1, 500):
        shutil.rmtree(disk.root)
        shutil.copytree(born, disk.root, symlinks=True)
        sshd.unlink(missing_ok=True)
        status = disk.run(kill_at=kill_at)
        keys = disk.text(KEYS)
        assert FRIEND in keys
        in_file = {"BORN PRIVATE\n": BORN, PLAN.host_key: OWN}[disk.text("etc/ssh/ssh_host_ed25519_key")]
        assert in_file in keys, kill_at  # the next connection, of an sshd that reads the file each time or starts anew
        # A signal needs a moment. An sshd that was not told offers the first key, so its login key must be let in.
        assert BORN in keys or waited_for(sshd), kill_at
        assert disk.run() == 0
        assert_renewed(disk)
        if status == 0:
            break
    assert 40 < kill_at < 499


def waited_for(file: Path) -> bool:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if file.exists():
            return True
        time.sleep(0.01)
    return False


def test_a_half_sent_script_does_nothing(disk: Disk) -> None:
    text = disk.script(PLAN, CLOCK)
    before = {path: path.read_bytes() for path in disk.root.rglob("*") if path.is_file()}
    for part in (len(text) // 3, len(text) - 30):
        subprocess.run([disk.shell], input=text[:part].encode(), capture_output=True, check=False)
        assert {path: path.read_bytes() for path in disk.root.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("now", "is_set"), [(1000000, False), (1000001, False), (1000002, True), (999900, True), (999990, False)]
)
def test_the_clock_is_set_when_it_is_off(disk: Disk, now: int, is_set: bool) -> None:  # noqa: FBT001
    disk.run(now=now)
    said = (disk.root.parent / "said").read_text()
    assert (f"clock @{now}" in said) is is_set


def test_root_gets_the_own_key_only_where_it_had_the_other(disk: Disk) -> None:
    disk.write(ROOT_KEYS, f"{FRIEND}\n")
    disk.run()
    assert disk.text(ROOT_KEYS) == f"{FRIEND}\n"


def test_root_as_the_login_account(disk: Disk) -> None:
    disk.run(replace(PLAN, user="root"))
    assert disk.text(ROOT_KEYS) == f"{OWN}\n"


def test_a_guest_without_cloud_init_and_without_anything_of_its_own(disk: Disk) -> None:
    for name in (CLOUD, "var", "run", "home", "root"):
        shutil.rmtree(disk.path(name), ignore_errors=True)
    disk.path("etc/passwd").unlink()  # a directory service
    disk.path("etc/hosts").unlink()
    user = getpass.getuser()
    disk.run(replace(PLAN, hostname="", user=user))
    home = Path(os.path.expanduser(f"~{user}")).relative_to("/")  # noqa: PTH111 - the account's, and not $HOME
    assert disk.text(f"{home}/.ssh/authorized_keys") == f"{OWN}\n"
    assert disk.path(f"{home}/.ssh").stat().st_mode & 0o777 == 0o700
    assert disk.text("etc/hosts") == "127.0.1.1 parent\n"


def test_awkward_words_stay_words(disk: Disk) -> None:
    disk.run(replace(PLAN, host_key="a'b\"$(touch /x)`\\n\n%s", hostname="it-s"))
    assert disk.text("etc/ssh/ssh_host_ed25519_key") == "a'b\"$(touch /x)`\\n\n%s\n"
    assert disk.text("etc/hostname") == "it-s\n"
