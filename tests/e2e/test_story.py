"""The main job on real Debian: a checkout becomes a machine that serves a page, and stays true to its file.

One machine for the whole module; the tests are chapters of one story and run in order.
"""

import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checkout import Checkout

pytestmark = pytest.mark.e2e

DEVBOXFILE = """\
version: 1
name: story
box: {recipe: debian-12}
cpus: 2
memory: 1GiB
disk: 6GiB
env: {STORY: "it's set"}
ports:
  - {guest: 8000, name: web}
folders:
  - .:/workspace
  - {host: src, guest: /shared, type: SHARED}
provision:
  - name: tools
    packages: [tree]
  - name: site folder
    directory: {path: /srv/site, owner: dev, group: dev}
  - name: page
    template: {content: "Hello from {{ os.id }} {{ os.version }} for {{ name }}\\n", path: /srv/site/index.html}
  - name: unit
    file:
      path: /etc/systemd/system/site.service
      content: |
        [Service]
        ExecStart=/usr/bin/python3 -m http.server 8000 --directory /srv/site
        [Install]
        WantedBy=multi-user.target
  - name: serve
    service: {name: site, state: started, enabled: true}
    needs: [unit]
  - name: worker
    user: {name: worker, system: true, shell: /usr/sbin/nologin}
  - name: greet
    script: scripts/greet.sh
  - name: count
    run: echo run >> ~/count
message: "The page is at http://127.0.0.1:{{ ports.web }}/"
"""

# Debian 12's virtiofsd works for root only; where there is none, the second folder is copied like the first.
VIRTIOFS = os.getuid() == 0 and Path("/usr/lib/qemu/virtiofsd").exists()
DEVBOXFILE = DEVBOXFILE.replace("SHARED", "virtiofs" if VIRTIOFS else "rsync")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, person: dict[str, str]) -> Iterator[Checkout]:
    root = tmp_path_factory.mktemp("e2e") / 'It\'s a, "project"'
    (root / "scripts").mkdir(parents=True)
    (root / "scripts/greet.sh").write_text('#!/bin/sh\necho "$STORY" > ~/greeting\n')
    (root / "src").mkdir()
    (root / "src/shared.txt").write_text("from the host\n")
    checkout = Checkout(root, person)
    checkout.write(DEVBOXFILE)
    yield checkout
    checkout.devbox("destroy", "--yes")


def status(checkout: Checkout) -> dict[str, object]:
    seen: dict[str, object] = json.loads(checkout.devbox("status", "--json", timeout=60).stdout)
    return seen


def page(checkout: Checkout) -> str:
    ports = {port["name"]: port["host"] for port in json.loads(checkout.devbox("ports", "--json").stdout)}
    with urllib.request.urlopen(f"http://{ports['web']}/", timeout=60) as answer:
        text: str = answer.read().decode()
    return text


def is_alive(pid: object) -> bool:
    """Whether the process runs. One that has ended may stay as a zombie where nobody reaps (a container's init)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def summary(text: str) -> dict[str, int]:
    return {word: int(number) for number, word in re.findall(r"(\d+) (same|changed|failed|skipped)", text)}


def test_before_up_there_is_nothing(checkout: Checkout) -> None:
    assert status(checkout)["state"] == "not created"
    refused = checkout.devbox("ssh")
    assert refused.returncode == 1
    assert "devbox up" in refused.stderr


def test_up_makes_a_machine_that_serves_the_page(checkout: Checkout) -> None:
    done = checkout.devbox("up")
    assert done.returncode == 0
    assert "The page is at http://127.0.0.1:" in done.stderr + done.stdout
    assert page(checkout) == "Hello from debian 12 for story\n"
    assert status(checkout)["state"] == "running"


def test_a_second_provision_changes_nothing(checkout: Checkout) -> None:
    done = checkout.devbox("provision")
    assert done.returncode == 0
    counted = summary(done.stderr + done.stdout)
    assert counted["changed"] == 0
    assert counted["failed"] == 0
    assert counted["same"] >= 8


def test_a_second_up_changes_nothing(checkout: Checkout) -> None:
    before = status(checkout)
    assert checkout.devbox("up").returncode == 0
    after = status(checkout)
    assert (after["pid"], after["ssh"]) == (before["pid"], before["ssh"])
    assert checkout.devbox("run", "--", "cat", "/home/dev/count").stdout == "run\n"


def test_the_machine_is_a_whole_debian(checkout: Checkout) -> None:
    def guest(*words: str) -> str:
        return checkout.devbox("run", "--", *words).stdout.strip()

    assert guest("systemctl", "is-system-running", "--wait") == "running"
    assert guest("cloud-init", "status").endswith("disabled"), "the fast profile"
    assert guest("hostname") == "story"
    assert guest("sudo", "-n", "id", "-u") == "0"
    assert guest("cat", "/home/dev/greeting") == "it's set"
    assert guest("sh", "-c", "echo $STORY") == "it's set"
    size = int(guest("df", "--output=size", "-B1", "/").split()[-1])
    assert size > 5 * 2**30, "the root file system grew with the disk"
    assert guest("getent", "passwd", "worker").endswith(":/usr/sbin/nologin")


def test_run_passes_status_input_and_folder_on(checkout: Checkout) -> None:
    assert checkout.devbox("run", "--", "sh", "-c", "exit 37").returncode == 37
    assert checkout.devbox("run", "--", "tr", "a-z", "A-Z", input="shout").stdout == "SHOUT"
    inside = Checkout(checkout.root / "scripts", checkout.env)
    assert inside.devbox("run", "--", "pwd").stdout.strip() == "/workspace/scripts"
    listing = checkout.devbox("run", "--", "ls", "-A", "/workspace").stdout.split()
    assert {"Devboxfile", "scripts"} <= set(listing)


def test_folders_arrive(checkout: Checkout) -> None:
    assert checkout.devbox("run", "--", "cat", "/shared/shared.txt").stdout == "from the host\n"
    types = {
        folder["guest"]: folder["type"] for folder in json.loads(checkout.devbox("status", "--json").stdout)["folders"]
    }
    assert types == {"/workspace": "rsync", "/shared": "virtiofs" if VIRTIOFS else "rsync"}
    if VIRTIOFS:  # what is shared, not copied, is seen at once
        (checkout.root / "src/shared.txt").write_text("changed\n")
        assert checkout.devbox("run", "--", "cat", "/shared/shared.txt").stdout == "changed\n"


def test_run_passes_a_signal_on(checkout: Checkout) -> None:
    with checkout.start(
        "run", "--", "sh", "-c", "trap 'echo caught; exit 3' TERM; echo on; while :; do sleep 0.2; done"
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"on\n"
        child.send_signal(signal.SIGTERM)
        out, _ = child.communicate(timeout=120)
        assert out == b"caught\n"
        assert child.returncode == 3


def test_only_loopback_listens(checkout: Checkout) -> None:
    pid = status(checkout)["pid"]
    held = {str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()}
    addresses = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == "0A" and f"socket:[{columns[9]}]" in held:  # 0A is listening
                addresses.append(columns[1].partition(":")[0])
    assert len(addresses) >= 2
    assert set(addresses) == {"0100007F"}  # 127.0.0.1, in this byte order


def test_a_failing_step_is_named_and_the_next_up_resumes_there(checkout: Checkout) -> None:
    broken = DEVBOXFILE.replace(
        "  - name: greet\n", "  - name: breaks\n    run: |\n      echo about to break\n      exit 9\n  - name: greet\n"
    ).replace("message:", "  - name: afterwards\n    run: echo run >> ~/after\nmessage:")
    checkout.write(broken)
    failed = checkout.devbox("up")
    assert failed.returncode == 1
    assert "breaks" in failed.stderr
    assert "about to break" in failed.stderr
    assert "9" in failed.stderr
    assert checkout.devbox("run", "--", "test", "-e", "/home/dev/after").returncode == 1
    assert "about to break" in checkout.devbox("logs", "breaks").stdout

    checkout.write(broken.replace("exit 9", "exit 0"))
    resumed = checkout.devbox("up")
    assert resumed.returncode == 0
    assert summary(resumed.stderr + resumed.stdout)["changed"] == 2
    assert checkout.devbox("run", "--", "cat", "/home/dev/after").stdout == "run\n"
    assert checkout.devbox("run", "--", "cat", "/home/dev/count").stdout == "run\n"


def test_check_tells_and_touches_nothing(checkout: Checkout) -> None:
    checkout.write(DEVBOXFILE.replace("Hello from", "Greetings from"))
    told = checkout.devbox("provision", "--check", "--diff")
    assert "-Hello from debian 12 for story" in told.stderr + told.stdout
    assert "+Greetings from debian 12 for story" in told.stderr + told.stdout
    assert page(checkout).startswith("Hello")
    assert checkout.devbox("provision", "--only", "page").returncode == 0
    assert page(checkout).startswith("Greetings")


def test_a_changed_unit_restarts_its_service(checkout: Checkout) -> None:
    def started() -> str:
        return checkout.devbox("run", "--", "systemctl", "show", "-p", "ExecMainPID", "site").stdout

    before = started()
    checkout.write(DEVBOXFILE.replace("--directory /srv/site", "--bind 0.0.0.0 --directory /srv/site"))
    assert checkout.devbox("provision").returncode == 0
    assert started() != before
    again = started()
    assert checkout.devbox("provision").returncode == 0
    assert started() == again


def test_killed_qemu_is_told_and_up_brings_everything_back(checkout: Checkout) -> None:
    checkout.devbox("run", "--", "sh", "-c", "echo precious > ~/kept; sync")
    pid = status(checkout)["pid"]
    assert isinstance(pid, int)
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while status(checkout)["state"] != "stopped" and time.monotonic() < deadline:
        time.sleep(0.2)
    assert status(checkout)["state"] == "stopped"
    assert "devbox up" in checkout.devbox("ssh").stderr
    # killed again while it comes up: the next one must still work
    with checkout.start("up") as interrupted:
        time.sleep(8)
        interrupted.kill()
        interrupted.communicate()
    assert checkout.devbox("up").returncode == 0
    assert checkout.devbox("run", "--", "cat", "/home/dev/kept").stdout == "precious\n"
    assert page(checkout).startswith("Hello")


def test_halt_and_up(checkout: Checkout) -> None:
    port = json.loads(checkout.devbox("ports", "--json").stdout)[0]["host"]
    assert checkout.devbox("halt").returncode == 0
    assert status(checkout)["state"] == "stopped"
    host, _, number = port.rpartition(":")
    with socket.socket() as probe:
        assert probe.connect_ex((host, int(number))) != 0
    assert checkout.devbox("halt").returncode == 0
    up = checkout.devbox("up")
    assert up.returncode == 0
    assert summary(up.stderr + up.stdout)["changed"] == 0
    assert json.loads(checkout.devbox("ports", "--json").stdout)[0]["host"] == port
    assert page(checkout).startswith("Hello")


def test_the_printed_ssh_config_works_with_openssh_itself(checkout: Checkout, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(checkout.devbox("ssh-config").stdout)
    host = re.findall(r"^Host (\S+)", config.read_text(), re.MULTILINE)[0]
    done = subprocess.run(
        ["ssh", "-F", config, host, "whoami"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=checkout.env,
    )
    assert done.stdout == "dev\n"


def test_destroy_leaves_nothing_of_it(checkout: Checkout) -> None:
    pid = status(checkout)["pid"]
    identity = str(status(checkout)["id"])
    assert checkout.devbox("destroy").returncode == 2, "without a terminal it must be said with --yes"
    assert checkout.devbox("destroy", "--yes").returncode == 0
    assert not is_alive(pid)
    assert not list(Path(checkout.env["DEVBOX_RUNTIME_DIR"]).glob(f"{identity[:8]}*"))
    assert not (Path(checkout.env["DEVBOX_STATE_DIR"]) / "machines" / identity).exists()
    assert status(checkout)["state"] == "not created"
    assert json.loads(checkout.devbox("list", "--json").stdout) == []
