"""docs/provisioning.md, carried out: every example of a kind in one machine, on Debian 12 and on Debian 13.

What the examples take from elsewhere (an archive of packages, a server, a repository) is put in its place here; a
stand-in for something that the page no longer mentions is a failure.
"""

import hashlib
import http.server
import io
import json
import os
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from devbox.provision.bind import KINDS
from tests import guide
from tests.checkout import Checkout

pytestmark = pytest.mark.e2e

INTERNAL = {"disk", "mount", "settings"}
ONE_LINE = ("path: /etc/app.conf, src: files/app.conf", "path: /etc/app.conf, content: edited")

HEAD = """\
version: 1
name: guide
box: {recipe: RELEASE}
cpus: 2
memory: MEMORY
firmware: FIRMWARE
disk: 8GiB
secrets:
  - {name: API_TOKEN, env: GUIDE_TOKEN}
provision:
  - packages: [git, python3]
  - name: repository of the guide
    run: |
      git init -q -b main ~/tool.git
      cd ~/tool.git
      git -c user.name=x -c user.email=x@example.com commit -q --allow-empty -m one
      git tag v1.0
  - directory: {path: /opt/old-release/lib}
    when: once
"""


def archive() -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        program = b"#!/bin/sh\necho tool 1.2\n"
        info = tarfile.TarInfo("tool-1.2/bin/tool")
        info.size, info.mode = len(program), 0o755
        tar.addfile(info, io.BytesIO(program))
    return made.getvalue()


class _Served(http.server.BaseHTTPRequestHandler):
    body = archive()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Served) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()


# The road that test_story does not take: Debian 13, by UEFI.
ROADS = {"debian-12": "bios", "debian-13": "uefi"}


def head(release: str, memory: str = "1GiB") -> str:
    text = HEAD.replace("RELEASE", release).replace("FIRMWARE", ROADS[release])
    return text.replace("MEMORY", memory)


def mirror(checkout: Checkout) -> str:
    """The archive of packages that the guest's own apt uses."""
    find = "grep -rhoE 'https?://[^ ]+' /etc/apt/sources.list /etc/apt/sources.list.d | head -n 1"
    shown = checkout.devbox("run", "--", "sh", "-c", find)
    assert shown.stdout.startswith("http")
    return shown.stdout.strip().rstrip("/")


def described(server: str, archive_url: str, release: str) -> str:
    """The whole Devboxfile; every stand-in must be asked for by the page."""
    text = guide.steps()
    stand_ins = {
        "https://downloads.example.com/tool-1.2.tar.gz": f"{server}/tool-1.2.tar.gz",
        "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08": hashlib.sha256(_Served.body).hexdigest(),
        "https://git.example.com/tool.git": "/home/dev/tool.git",
        "http://packages.example.org/debian": archive_url,
    }
    for there, here in stand_ins.items():
        assert there in text, f"the page no longer mentions {there}"
        text = text.replace(there, here)
    return head(release) + text


def told(checkout: Checkout, *arguments: str) -> list[dict[str, Any]]:
    done = checkout.devbox("provision", "--json", *arguments)
    assert done.returncode == 0
    return [event for event in map(json.loads, done.stdout.splitlines()) if event["event"] == "step-end"]


@pytest.mark.parametrize("release", ROADS)
def test_every_example_of_the_page_is_carried_out_once(
    release: str, server: str, person: dict[str, str], tmp_path: Path
) -> None:
    beside = os.pathsep.join((os.fspath(Path(sys.executable).parent), person["PATH"]))  # ansible-playbook is there
    checkout = Checkout(tmp_path, {**person, "GUIDE_TOKEN": "s3cret-of-the-guide", "PATH": beside})
    guide.project(tmp_path)
    try:
        checkout.write(head(release).partition("provision:")[0])
        assert checkout.devbox("up", "--approve=all").returncode == 0
        text = described(server, mirror(checkout), release)
        checkout.write(text)
        first = checkout.devbox("provision", "--approve=all")
        assert first.returncode == 0
        again = told(checkout)
        # What was once there for the page to remove is removed, and not put back.
        assert {event["step"] for event in again if event["status"] != "same"} == set()
        assert {event["kind"] for event in again} >= KINDS.keys() - INTERNAL

        def says(command: str) -> str:
            return checkout.devbox("run", "--", "sh", "-c", command).stdout

        assert says("cat /etc/motd; /opt/tool/bin/tool") == "Welcome\ntool 1.2\n"
        assert says("cat /srv/ansible; wc -l </srv/rows") == "hello from Ansible\n3\n"
        assert says("cat /srv/setup; git -C /srv/tool describe --tags") == "set up --quick\nv1.0\n"
        assert says("systemctl is-active app; cat /proc/sys/vm/swappiness; id -nG worker") == "active\n10\nworker app\n"
        assert says("ls /srv/www; stat -c %U /srv/www/index.html; readlink /srv/app/current") == (
            "assets\nindex.html\nwww-data\nreleases/1\n"
        )

        before, after = ONE_LINE
        assert before in text
        checkout.write(text.replace(before, after))
        assert [event["step"] for event in told(checkout) if event["status"] == "changed"] == ["file:/etc/app.conf"]

        # What somebody changed in the machine is found and mended.
        drift = "rm /srv/www/index.html /opt/tool/bin/tool /srv/app/current; sysctl -qw vm.swappiness=60; rmmod dummy"
        assert checkout.devbox("ssh", "-c", f"sudo sh -c '{drift}; userdel worker; groupdel app'").returncode == 0
        mended = {event["kind"] for event in told(checkout) if event["status"] == "changed"}
        assert mended == {"copy", "download", "link", "sysctl", "module", "user", "group"}

        if release == "debian-13":
            assert says(". /etc/os-release; echo $ID $VERSION_ID; ls -d /sys/firmware/efi") == (
                "debian 13\n/sys/firmware/efi\n"
            )
            checkout.write((tmp_path / "Devboxfile").read_text().replace(head(release), head(release, "1280MiB")))
            assert "devbox reload" in checkout.devbox("up").stderr
            assert checkout.devbox("reload").returncode == 0
            assert int(says("awk '/MemTotal/ {print $2}' /proc/meminfo")) > 1100 * 1024
            assert {event["status"] for event in told(checkout)} == {"same"}
    finally:
        checkout.devbox("destroy", "--yes")
