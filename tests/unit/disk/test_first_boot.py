"""The credential is given to the real systemd-tmpfiles where there is one."""

import base64
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from devbox import proc
from devbox.disk import first_boot, keys, seed
from tests.unit.disk import machines

HOST = "-----BEGIN OPENSSH PRIVATE KEY-----\nHOST\n-----END OPENSSH PRIVATE KEY-----\n"


def lines(smbios: str) -> str:
    prefix = "io.systemd.credential.binary:tmpfiles.extra="
    assert smbios.startswith(prefix)
    assert re.fullmatch(r"[A-Za-z0-9+/=]+", smbios.removeprefix(prefix))
    return base64.b64decode(smbios.removeprefix(prefix)).decode()


def test_systemd_makes_the_files_of_it_with_their_modes(tmp_path: Path) -> None:
    text = lines(first_boot.text(host_key=HOST, host_line="ssh-ed25519 HOST", login_line="ssh-ed25519 LOGIN"))
    assert "HOST" not in text
    tool = shutil.which("systemd-tmpfiles")
    if tool is None or os.getuid() != 0:
        pytest.skip("systemd-tmpfiles as root is needed to carry it out")
    (tmp_path / "root/etc/ssh").mkdir(parents=True)
    (tmp_path / "root/root").mkdir(mode=0o700)
    (tmp_path / "extra.conf").write_text(text)
    subprocess.run([tool, f"--root={tmp_path / 'root'}", "--create", tmp_path / "extra.conf"], check=True)
    made = {
        path: ((tmp_path / f"root{path}").read_text(), (tmp_path / f"root{path}").stat().st_mode & 0o777)
        for path in ("/etc/ssh/ssh_host_ed25519_key", "/etc/ssh/ssh_host_ed25519_key.pub", "/root/.ssh/authorized_keys")
    }
    assert list(made.values()) == [
        (HOST, 0o600),
        ("ssh-ed25519 HOST\n", 0o644),
        ("ssh-ed25519 LOGIN\n", 0o600),
    ]
    assert (tmp_path / "root/root/.ssh").stat().st_mode & 0o777 == 0o700


def test_a_machine_without_a_seed_has_the_same_keys(tmp_path: Path) -> None:
    record, _ = machines.record(tmp_path)
    machine = machines.project(tmp_path / "project").machine
    assert first_boot.profile(record) == first_boot.PLAIN
    first_boot.begin(record)
    assert first_boot.profile(record) == first_boot.FAST
    made = seed.ensure(record, machine)
    assert not made.path.exists()
    assert made.known_hosts.read_text() == f"* {record.host_key}\n"
    said = lines(record.dir.first_boot.read_text())
    assert base64.b64encode(record.dir.host_key.read_bytes()).decode() in said
    assert base64.b64encode(f"{keys.make(record.dir.login_key)}\n".encode()).decode() in said
    assert record.dir.first_boot.stat().st_mode & 0o777 == 0o600


def test_it_is_over_and_stays_so(tmp_path: Path) -> None:
    record, _ = machines.record(tmp_path)
    machine = machines.project(tmp_path / "project").machine
    first_boot.begin(record)
    first_boot.adopted(record)
    first_boot.over(record)
    assert first_boot.is_adopted(record)
    assert not first_boot.is_under_way(record)
    assert not seed.ensure(record, machine).path.exists()
    assert first_boot.profile(record) == first_boot.FAST


def test_a_lost_login_key_comes_by_a_seed_all_the_same(tmp_path: Path) -> None:
    record, _ = machines.record(tmp_path)
    first_boot.adopted(record)
    made = seed.ensure(record, machines.project(tmp_path / "project").machine)
    assert made.path.exists()
    public = proc.run(["/usr/bin/ssh-keygen", "-y", "-f", made.login_key], timeout=30).text.split()[1]
    assert public.encode() in made.path.read_bytes()
