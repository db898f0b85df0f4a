import hashlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from devbox.errors import DevboxError
from devbox.guest import connection, openssh
from devbox.guest.connection import FabricGuest
from devbox.guest.openssh import Endpoint, Keys
from tests.unit.guest import sshd
from tests.unit.guest.sshd import Server


@pytest.fixture
def guest(server: Server) -> Iterator[FabricGuest]:
    with connection.connect(server.endpoint, 30) as connected:
        yield connected


def refusal(endpoint: Endpoint) -> str:
    with pytest.raises(DevboxError) as caught:
        connection.connect(endpoint, 30)
    return caught.value.id


def test_a_command_s_status_output_and_errors_come_back_apart(guest: FabricGuest) -> None:
    done = guest.run("printf out; printf err >&2; exit 3")
    assert (done.status, done.stdout, done.stderr) == (3, b"out", b"err")
    assert guest.run("true").status == 0
    assert guest.run("no-such-program-here").status == 127
    assert guest.channels == 3


def test_input_in_pieces_is_taken_as_it_can_be_sent(guest: FabricGuest) -> None:
    def pieces() -> Iterator[bytes]:
        for number in range(64):
            yield b"" if number % 3 == 0 else bytes([number]) * 100_000

    done = guest.run("exec sha256sum", stdin=pieces(), timeout=300)
    whole = b"".join(bytes([n]) * 100_000 for n in range(64) if n % 3)
    assert done.text.split()[0] == hashlib.sha256(whole).hexdigest()


def test_an_error_of_the_input_ends_the_command(guest: FabricGuest) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"x"
        raise DevboxError("provision.input", "gone")

    with pytest.raises(DevboxError) as error:
        guest.run("exec cat", stdin=pieces(), timeout=300)
    assert error.value.id == "provision.input"
    assert guest.run("echo on", timeout=30).text == "on\n"


def test_stdin_is_empty_unless_given(guest: FabricGuest) -> None:
    assert guest.run("cat", timeout=30).stdout == b""
    assert guest.run("cat", stdin=b"a\0b\xff", timeout=30).stdout == b"a\0b\xff"


def test_20_mb_go_in_and_out_at_once(guest: FabricGuest) -> None:
    data = os.urandom(1 << 20) * 20
    done = guest.run("cat", stdin=data, timeout=300)
    assert done.status == 0
    assert done.stdout == data


def test_much_output_before_the_first_read_blocks_nobody(guest: FabricGuest) -> None:
    # Both streams are larger than the channel's window, and so is the input.
    flood = "head -c 5000000 /dev/zero; head -c 5000000 /dev/zero >&2; wc -c"
    done = guest.run(flood, stdin=b"x" * 5_000_000, timeout=300)
    assert len(done.stderr) == 5_000_000
    assert done.stdout[5_000_000:].strip() == b"5000000"


def test_a_command_may_leave_its_input_unread(guest: FabricGuest) -> None:
    assert guest.run("exit 4", stdin=b"x" * 5_000_000, timeout=300).status == 4


def test_a_command_may_close_its_output_and_go_on_reading(guest: FabricGuest, tmp_path: Path) -> None:
    sink = tmp_path / "sink"
    done = guest.run(f"exec >&- 2>&-; cat >'{sink}'", stdin=b"x" * 5_000_000, timeout=300)
    assert done.status == 0
    assert sink.stat().st_size == 5_000_000


def test_output_is_heard_while_the_command_runs(guest: FabricGuest, tmp_path: Path) -> None:
    go = tmp_path / "go"
    os.mkfifo(go)
    heard: list[bytes] = []

    def listen(data: bytes) -> None:
        heard.append(data)
        if b"first" in data:
            go.write_text("go\n")  # The command waits for this: were the output kept back, it never ended.

    done = guest.run(f"echo first; cat '{go}'; echo last; echo quiet >&2", on_output=listen, timeout=60)
    assert b"".join(heard) == b"first\ngo\nlast\n"
    assert done.stdout == b"", "a run may say more than there is memory for"
    assert done.stderr == b"quiet\n"


def test_a_time_out_is_an_error_and_the_connection_goes_on(guest: FabricGuest) -> None:
    with pytest.raises(DevboxError) as caught:
        guest.run("sleep 30", timeout=0.2)
    assert caught.value.id == "guest.timeout"
    with pytest.raises(DevboxError) as caught:
        guest.run("exec sleep 30", stdin=b"x" * 5_000_000, timeout=0.2)
    assert caught.value.id == "guest.timeout"
    assert guest.run("echo on", timeout=30).stdout == b"on\n"


def test_a_shell_killed_by_a_signal_is_a_status_not_a_lost_connection(guest: FabricGuest) -> None:
    assert guest.run("kill -9 $$", timeout=30).status == 255
    assert guest.run("true").status == 0


def test_many_commands_leak_nothing(guest: FabricGuest) -> None:
    def descriptors() -> int:
        return len(os.listdir("/dev/fd"))  # noqa: PTH208

    guest.run("true")
    before, threads = descriptors(), threading.active_count()
    for number in range(1000):
        assert guest.run(f"echo {number}").stdout == b"%d\n" % number
    assert descriptors() <= before + 2
    assert threading.active_count() <= threads
    assert guest.channels == 1001


@pytest.mark.parametrize("name", ["plain", "a b 'c' \"d\" $HOME `x` \\ ünï"])
def test_files_are_put_and_read_whole(guest: FabricGuest, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    data = os.urandom(300_000)
    guest.put(data, str(path), 0o640)
    assert path.read_bytes() == data
    assert path.stat().st_mode & 0o777 == 0o640
    assert guest.get(str(path)) == data
    guest.put(b"", str(path), 0o600)
    assert guest.get(str(path)) == b""
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_a_file_that_cannot_be_is_an_error_of_its_own(guest: FabricGuest, tmp_path: Path) -> None:
    with pytest.raises(DevboxError) as caught:
        guest.get(str(tmp_path / "absent"))
    assert caught.value.id == "guest.get-failed"
    with pytest.raises(DevboxError) as caught:
        guest.put(b"x", str(tmp_path / "absent" / "file"), 0o600)
    assert caught.value.id == "guest.put-failed"


def test_another_host_key_is_refused(server: Server, tmp_path: Path) -> None:
    _, other = sshd.host_key(tmp_path)
    stranger = replace(server.endpoint, known_hosts=tmp_path / "known_hosts")
    stranger.known_hosts.write_text(f"* {other}\n")
    assert refusal(stranger) == "guest.host-key"


def test_a_host_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    with sshd.serve(tmp_path / "sshd", kind="ecdsa") as server:
        _, other = sshd.host_key(tmp_path)
        server.endpoint.known_hosts.write_text(f"* {other}\n")
        assert refusal(server.endpoint) == "guest.host-key"


def test_another_login_key_is_refused(server: Server, tmp_path: Path) -> None:
    stranger = sshd.client(tmp_path, "ssh-ed25519 unused")
    assert refusal(replace(server.endpoint, key=stranger.key)) == "guest.login"


def test_either_of_two_identities_is_reached_and_no_third(server: Server, tmp_path: Path) -> None:
    _, other_host = sshd.host_key(tmp_path)
    other = sshd.client(tmp_path / "other", other_host)
    real = server.endpoint
    own, born = Keys(real.key, real.known_hosts), Keys(other.key, other.known_hosts)
    for first, second in ((own, born), (born, own)):
        # By whichever host key it answers: one connection, and no failed one that sshd would count.
        where = replace(real, key=first.key, known_hosts=first.known_hosts, born=second)
        failed = server.log.read_text().count("by authenticating user")
        connection.connect(where, 30).close()
        assert server.log.read_text().count("by authenticating user") == failed
    (tmp_path / "third").mkdir()
    stranger = sshd.client(tmp_path / "third", sshd.host_key(tmp_path / "third")[1])
    assert refusal(replace(real, known_hosts=stranger.known_hosts, born=born)) == "guest.host-key"
    assert refusal(replace(real, key=other.key, born=Keys(stranger.key, real.known_hosts))) == "guest.login"


def test_nothing_of_the_user_s_ssh_is_read(
    server: Server, tmp_path: Path, devbox_dirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ssh = devbox_dirs / ".ssh"
    ssh.mkdir()
    (ssh / "config").write_text(f"Host *\n  ProxyCommand touch {tmp_path}/proxy\n  User nobody\n  Port 1\n")
    (ssh / "id_ed25519").write_bytes(server.endpoint.key.read_bytes())
    (devbox_dirs / ".fabric.yaml").write_text("user: nobody\n")
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(tmp_path / "agent"))
        agent.listen()
        agent.settimeout(0)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
        with connection.connect(server.endpoint, 30) as guest:
            assert guest.run('echo "${SSH_AUTH_SOCK-none}"').stdout == b"none\n"
        stranger = sshd.client(tmp_path / "stranger", "ssh-ed25519 unused")
        assert refusal(replace(server.endpoint, key=stranger.key)) == "guest.login"
        with pytest.raises(BlockingIOError):
            agent.accept()
    assert not (tmp_path / "proxy").exists()
    assert not (ssh / "known_hosts").exists()


def test_the_socket_does_not_wait_to_fill_packets(guest: FabricGuest) -> None:
    sock = guest.connection.transport.sock
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


def test_a_connection_that_dies_is_told_not_waited_for(own_server: Server) -> None:
    guest = connection.connect(own_server.endpoint, 30)

    def kill(_: bytes) -> None:
        for pid in own_server.sessions():
            os.kill(pid, signal.SIGKILL)

    with pytest.raises(DevboxError) as lost:
        guest.run("echo up; exec sleep 600", on_output=kill, timeout=60)
    assert lost.value.id == "guest.connection-lost"
    with pytest.raises(DevboxError) as lost:
        guest.run("true", timeout=60)
    assert lost.value.id == "guest.connection-lost"
    guest.close()


def test_nobody_listening_is_told() -> None:
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        endpoint = Endpoint(chosen.getsockname()[1], "dev", Path("/nonexistent"), Path("/nonexistent"))
        assert openssh.knock(endpoint) is None
        assert refusal(endpoint) == "guest.unreachable"


def test_a_server_that_only_accepts_is_told(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        endpoint = replace(server.endpoint, port=mute.getsockname()[1])
        with pytest.raises(DevboxError) as caught:
            connection.connect(endpoint, 0.2)
    assert caught.value.id == "guest.unreachable"


def test_a_door_that_was_knocked_at_is_used(server: Server) -> None:
    door = openssh.knock(server.endpoint)
    assert door is not None
    name = door.getsockname()
    with connection.connect(server.endpoint, 30, via=door) as guest:
        assert guest.run('echo "$SSH_CONNECTION"').text.split()[1] == str(name[1])
