import os
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from devbox import proc
from devbox.guest import openssh
from devbox.guest.openssh import Endpoint, Keys
from tests.unit.guest import sshd
from tests.unit.guest.sshd import Server

STRANGE = "a b, 'c' \"d\" 100% %h \\ ünï"


@pytest.fixture(params=["plain", STRANGE])
def machine(request: pytest.FixtureRequest, server: Server, tmp_path: Path, devbox_dirs: Path) -> Iterator[Path]:
    """The ssh_config of a machine whose folder has this name, reached at the real server."""
    folder = tmp_path / request.param
    folder.mkdir()
    (folder / "id_ed25519").write_bytes(server.endpoint.key.read_bytes())
    (folder / "id_ed25519").chmod(0o600)
    (folder / "known_hosts").write_bytes(server.endpoint.known_hosts.read_bytes())
    endpoint = replace(server.endpoint, key=folder / "id_ed25519", known_hosts=folder / "known_hosts")
    # The control socket's path is short in real life too.
    runtime = Path(os.environ["DEVBOX_RUNTIME_DIR"]) / request.param[:12]
    runtime.mkdir()
    host = openssh.write_ssh_config(folder / "ssh_config", endpoint, "hello", runtime)
    assert host == "devbox-hello"
    yield folder / "ssh_config"
    openssh.drop_control(folder / "ssh_config", host)


def ssh(config: Path, remote: str) -> proc.Completed:
    return proc.run(openssh.ssh_argv(config, "devbox-hello", remote), input=b"", timeout=60)


def test_openssh_understands_it_whatever_the_folder_is_called(machine: Path) -> None:
    done = ssh(machine, "echo 'in the guest'; exit 7")
    assert (done.status, done.text, done.error_text) == (7, "in the guest\n", "")


def warm(machine: Path) -> None:
    """Begin the control connection, and wait for it as no command does."""
    openssh.warm_control(machine, "devbox-hello", Path(os.environ["DEVBOX_RUNTIME_DIR"]))
    check: list[str | Path] = ["/usr/bin/ssh", "-F", machine, "-O", "check", "devbox-hello"]
    deadline = time.monotonic() + 30
    while proc.run(check, timeout=30).status != 0 and time.monotonic() < deadline:
        time.sleep(0.05)


def test_a_warm_connection_serves_the_next_commands_until_it_is_dropped(machine: Path, server: Server) -> None:
    def logins() -> int:
        return server.log.read_text().count("Accepted publickey")

    warm(machine)
    before = logins()
    assert ssh(machine, "echo warm").text == "warm\n"
    warm(machine)
    assert logins() == before
    openssh.drop_control(machine, "devbox-hello")
    assert ssh(machine, "echo cold").text == "cold\n"
    assert logins() == before + 1


def test_a_socket_that_a_kill_left_is_no_obstacle(machine: Path, server: Server) -> None:
    left = openssh.control_socket(Path(os.environ["DEVBOX_RUNTIME_DIR"]))
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(left))
    warm(machine)
    before = server.log.read_text().count("Accepted publickey")
    done = ssh(machine, "echo warm")
    assert (done.text, done.error_text) == ("warm\n", "")
    assert server.log.read_text().count("Accepted publickey") == before


def test_the_user_s_own_ssh_folder_is_neither_read_nor_written(machine: Path, devbox_dirs: Path) -> None:
    before = sorted(devbox_dirs.rglob(".ssh*"))
    ssh(machine, "true")
    assert sorted(devbox_dirs.rglob(".ssh*")) == before == []
    asked = proc.run(["/usr/bin/ssh", "-F", machine, "-G", "devbox-hello"], timeout=30).text.lower()
    for said in ("stricthostkeychecking true", "updatehostkeys false", "forwardagent no", "identitiesonly yes"):
        assert said in asked
    assert "passwordauthentication no" in asked
    assert "hostkeyalgorithms ssh-ed25519\n" in asked


def test_another_host_key_is_refused(server: Server, tmp_path: Path) -> None:
    _, other = sshd.host_key(tmp_path)
    (tmp_path / "known_hosts").write_text(f"* {other}\n")
    endpoint = replace(server.endpoint, known_hosts=tmp_path / "known_hosts")
    openssh.write_ssh_config(tmp_path / "ssh_config", endpoint, "hello", Path(os.environ["DEVBOX_RUNTIME_DIR"]))
    assert ssh(tmp_path / "ssh_config", "true").status == 255


def test_openssh_reaches_either_of_two_identities(machine: Path, server: Server, tmp_path: Path) -> None:
    _, other_host = sshd.host_key(tmp_path)
    sshd.client(tmp_path / "other", other_host)
    real = replace(server.endpoint, key=machine.parent / "id_ed25519", known_hosts=machine.parent / "known_hosts")
    (real.key.parent / "other").mkdir()
    for name in ("id_ed25519", "known_hosts"):  # under the awkward name, too
        (real.key.parent / "other" / name).write_bytes((tmp_path / "other" / name).read_bytes())
        (real.key.parent / "other" / name).chmod(0o600)
    moved = real.key.parent / "other"
    own, born = Keys(real.key, real.known_hosts), Keys(moved / "id_ed25519", moved / "known_hosts")
    runtime = Path(os.environ["DEVBOX_RUNTIME_DIR"])
    for first, second in ((own, born), (born, own)):
        where = replace(real, key=first.key, known_hosts=first.known_hosts, born=second)
        openssh.write_ssh_config(machine, where, "hello", runtime / "none")
        assert ssh(machine, "echo in").text == "in\n"
    openssh.write_ssh_config(machine, replace(real, known_hosts=born.known_hosts, born=born), "hello", runtime / "none")
    assert ssh(machine, "true").status == 255


def test_the_file_is_private_and_written_only_when_it_changes(tmp_path: Path) -> None:
    endpoint = Endpoint(2222, "dev", tmp_path / "key", tmp_path / "hosts")
    path = tmp_path / "ssh_config"
    openssh.write_ssh_config(path, endpoint, "hello", tmp_path)
    first = path.stat().st_ino
    assert path.stat().st_mode & 0o777 == 0o600
    openssh.write_ssh_config(path, endpoint, "hello", tmp_path)
    assert path.stat().st_ino == first
    openssh.write_ssh_config(path, replace(endpoint, port=2223), "hello", tmp_path)
    assert "Port 2223" in path.read_text()


def test_the_agent_is_forwarded_only_when_asked(tmp_path: Path) -> None:
    endpoint = Endpoint(2222, "dev", tmp_path / "key", tmp_path / "hosts")
    assert "ForwardAgent no" in openssh.ssh_config(endpoint, "hello", tmp_path / "s")
    assert "ForwardAgent yes" in openssh.ssh_config(endpoint, "hello", tmp_path / "s", forward_agent=True)


def test_a_command_line_holds_the_remote_command_as_one_word(tmp_path: Path) -> None:
    argv = openssh.ssh_argv(tmp_path / "ssh_config", "devbox-hello", "echo 'a b'")
    assert argv[1:] == ["-F", str(tmp_path / "ssh_config"), "-T", "devbox-hello", "--", "echo 'a b'"]
    assert openssh.ssh_argv(tmp_path / "c", "h", terminal=True)[1:] == ["-F", str(tmp_path / "c"), "-t", "h"]
