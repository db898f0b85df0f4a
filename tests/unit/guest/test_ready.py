import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from devbox.errors import DevboxError
from devbox.guest import ready
from devbox.guest.openssh import Endpoint
from tests.unit.guest import sshd
from tests.unit.guest.sshd import Server

SERIAL = Path(__file__).parent / "serial"


@contextmanager
def fake(serve: Callable[[socket.socket, int], None]) -> Iterator[int]:
    """A server on loopback: `serve` gets each connection and its number, in a thread, and it is closed afterwards."""
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)

        def accept() -> None:
            number, kept = 0, []
            while not stop.is_set():
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                kept.append(connection)
                serve(connection, number)
                number += 1
            for connection in kept:
                connection.close()

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            stop.set()
            thread.join()


def failure(endpoint: Endpoint, *, log: Path, alive: Callable[[], str | None] = lambda: None) -> DevboxError:
    with pytest.raises(DevboxError) as caught:
        ready.wait(endpoint, slowdown=0.008, serial_log=log, alive=alive)
    return caught.value


def nobody(port: int = 1) -> Endpoint:
    return Endpoint(port, "dev", Path("/nonexistent"), Path("/nonexistent"))


def test_a_guest_that_is_up_is_reached_with_one_connection_and_one_command(
    own_server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ready.wait(own_server.endpoint, slowdown=1, serial_log=tmp_path / "none", alive=lambda: None) as guest:
        assert guest.channels == 1
        assert guest.run("echo here").stdout == b"here\n"
    said = own_server.log.read_text()
    assert said.count("Accepted publickey") == 1
    assert "Wait until the guest has booted" in capsys.readouterr().err


def relay(port: int, connection: socket.socket) -> None:
    """Carry bytes both ways between the connection and a server, until either ends."""
    server = socket.create_connection(("127.0.0.1", port))

    def carry(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def both() -> None:
        back = threading.Thread(target=carry, args=(server, connection))
        back.start()
        carry(connection, server)
        back.join()
        server.close()

    threading.Thread(target=both).start()


def test_it_waits_through_silence_resets_and_a_slow_banner(server: Server, tmp_path: Path) -> None:
    def serve(connection: socket.socket, number: int) -> None:
        if number < 3:  # the guest has no network yet: the connection hangs
            return
        if number < 6:  # no sshd yet
            connection.close()
        else:
            relay(server.endpoint.port, connection)

    with fake(serve) as port:
        endpoint = replace(server.endpoint, port=port)
        with ready.wait(endpoint, slowdown=0.1, serial_log=tmp_path / "none", alive=lambda: None) as guest:
            assert guest.run("echo here").stdout == b"here\n"


def test_a_busy_sshd_is_not_asked_again(server: Server, tmp_path: Path) -> None:
    seen: list[socket.socket] = []

    def answer_late(connection: socket.socket) -> None:
        time.sleep(0.5)
        relay(server.endpoint.port, connection)

    def serve(connection: socket.socket, number: int) -> None:
        seen.append(connection)
        if number == 0:  # the guest has its network
            connection.close()
        else:
            threading.Thread(target=answer_late, args=(connection,)).start()

    with fake(serve) as port:
        endpoint = replace(server.endpoint, port=port)
        ready.wait(endpoint, slowdown=0.1, serial_log=tmp_path / "none", alive=lambda: None).close()
    assert len(seen) == 2


def test_a_port_that_only_accepts_is_not_ready(tmp_path: Path) -> None:
    log = tmp_path / "serial.log"
    log.write_text((SERIAL / "no-sshd.log").read_text())
    with fake(lambda connection, number: None) as port:
        error = failure(nobody(port), log=log)
    assert error.id == "guest.no-ssh"
    assert "did not answer within 1.0 s. The guest's SSH server does not start." in error.message
    assert "Failed to start ssh.service" in error.details


def test_another_program_on_the_port_is_not_ready(tmp_path: Path) -> None:
    with fake(lambda connection, number: connection.sendall(b"HTTP/1.1 400\r\n")) as port:
        assert failure(nobody(port), log=tmp_path / "none").id == "guest.no-ssh"


def test_few_connections_wait_at_a_time(tmp_path: Path) -> None:
    opened: list[socket.socket] = []
    most = 0

    def serve(connection: socket.socket, number: int) -> None:
        nonlocal most
        opened.append(connection)
        alive = 0
        for one in opened:
            one.settimeout(0)
            try:
                alive += one.recv(1, socket.MSG_PEEK) != b""
            except BlockingIOError:
                alive += 1
            except OSError:
                continue
        most = max(most, alive)

    with fake(serve) as port:
        failure(nobody(port), log=tmp_path / "none")
    assert len(opened) > 5
    assert most <= ready._Doors.MOST + 1


def test_a_qemu_that_ends_is_told_at_once_with_its_words(tmp_path: Path) -> None:
    log = tmp_path / "serial.log"
    log.write_text("SeaBIOS (version 1.16.2)\n")
    asked = 0

    def alive() -> str | None:
        nonlocal asked
        asked += 1
        return "qemu-system-x86_64: could not lock disk.qcow2" if asked > 3 else None

    with fake(lambda connection, number: None) as port:
        error = failure(nobody(port), log=log, alive=alive)
    assert error.id == "guest.died"
    assert asked == 4
    assert "could not lock disk.qcow2" in error.details
    assert "SeaBIOS" in error.details


@pytest.mark.parametrize("sample", ["kernel-panic.log", "seabios-nothing.log", "emergency.log", "uefi-shell.log"])
def test_a_boot_that_is_lost_is_not_waited_for(tmp_path: Path, sample: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ready, "BANNER_DEADLINE", 1e9)
    log = tmp_path / "serial.log"
    log.write_bytes(b"\x1b[2J\x1b[01;01H" + (SERIAL / sample).read_bytes().replace(b"\n", b"\r\n"))
    with fake(lambda connection, number: None) as port:
        error = failure(nobody(port), log=log)
    assert error.id == "guest.boot-failed"
    assert error.hint
    assert "\x1b" not in error.details
    assert len(error.details.splitlines()) <= 22


def test_a_guest_that_goes_on_after_a_panic_is_waited_for(tmp_path: Path) -> None:
    log = tmp_path / "serial.log"
    log.write_text((SERIAL / "kernel-panic.log").read_text())

    def alive() -> str | None:
        with log.open("a") as file:
            file.write("[    0.000000] Linux version 6.1.0\n")
        return None

    with fake(lambda connection, number: None) as port:
        assert failure(nobody(port), log=log, alive=alive).id == "guest.no-ssh"


def test_another_host_key_is_refused_without_a_word(server: Server, tmp_path: Path) -> None:
    _, other = sshd.host_key(tmp_path)
    (tmp_path / "known_hosts").write_text(f"* {other}\n")
    error = failure(replace(server.endpoint, known_hosts=tmp_path / "known_hosts"), log=tmp_path / "none")
    assert error.id == "guest.host-key"


def test_an_account_that_is_never_made_is_told(server: Server, tmp_path: Path) -> None:
    log = tmp_path / "serial.log"
    log.write_text((SERIAL / "cloud-init-user.log").read_text())
    stranger = sshd.client(tmp_path, "ssh-ed25519 unused")
    error = failure(replace(server.endpoint, key=stranger.key), log=log)
    assert error.id == "guest.login"
    assert "cloud-init failed" in error.message
    assert "Failed to create user" in error.details


def test_an_account_that_comes_late_is_waited_for(own_server: Server, tmp_path: Path) -> None:
    allowed = own_server.endpoint.key.parent / "authorized_keys"
    keys = allowed.read_text()
    allowed.write_text("")

    def alive() -> str | None:
        if "Connection closed by authenticating user" in own_server.log.read_text():
            allowed.write_text(keys)  # cloud-init comes to it now
        return None

    ready.wait(own_server.endpoint, slowdown=1, serial_log=tmp_path / "none", alive=alive).close()
    assert allowed.read_text() == keys


def test_a_shell_that_runs_nothing_is_told(tmp_path: Path) -> None:
    with sshd.serve(tmp_path / "sshd", options=("ForceCommand echo not available; exit 1",)) as server:
        error = failure(server.endpoint, log=tmp_path / "none")
    assert error.id == "guest.no-shell"
    assert "not available" in error.details


def test_failures_leave_no_descriptor_open(server: Server, tmp_path: Path) -> None:
    stranger = replace(server.endpoint, key=sshd.client(tmp_path, "ssh-ed25519 unused").key)

    def descriptors() -> int:
        return len(os.listdir("/dev/fd"))  # noqa: PTH208

    failure(stranger, log=tmp_path / "none")
    before = descriptors()
    failure(stranger, log=tmp_path / "none")
    assert descriptors() <= before
