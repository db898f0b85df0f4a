"""A real sshd on loopback, with keys, configuration and port of its own, ended by its pid."""

import getpass
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from devbox import proc
from devbox.disk import keys
from devbox.errors import DevboxError
from devbox.guest.openssh import Endpoint


@dataclass(frozen=True)
class Server:
    endpoint: Endpoint
    process: subprocess.Popen[bytes]
    log: Path

    def sessions(self) -> list[int]:
        """The pids of its children: one for each connection."""
        listed = proc.run(["/bin/ps", "-o", "pid=", "--ppid", str(self.process.pid)], timeout=30)
        return [int(pid) for pid in listed.text.split()]


def host_key(folder: Path, kind: str = "ed25519") -> tuple[Path, str]:
    path = folder / f"host_{kind}"
    if kind == "ed25519":
        return path, keys.make(path)
    done = proc.run([proc.find_tool("ssh-keygen"), "-q", "-t", kind, "-N", "", "-f", path], timeout=60)
    assert done.status == 0, done.error_text
    return path, " ".join(path.with_suffix(".pub").read_text().split()[:2])


def client(folder: Path, host: str) -> Endpoint:
    """What a client that expects this host key knows; the port is not known yet."""
    folder.mkdir(exist_ok=True)
    keys.make(folder / "id_ed25519")
    (folder / "known_hosts").write_text(f"* {host}\n")
    return Endpoint(port=0, user=getpass.getuser(), key=folder / "id_ed25519", known_hosts=folder / "known_hosts")


@contextmanager
def serve(
    folder: Path, *, kind: str = "ed25519", options: tuple[str, ...] = (), programs: str = os.defpath
) -> Iterator[Server]:
    """`programs` is the PATH of the server's side."""
    try:
        program = proc.find_tool("sshd")
    except DevboxError:
        pytest.skip("sshd is not installed")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    folder.mkdir(exist_ok=True)
    private, public = host_key(folder, kind)
    endpoint = client(folder, public)
    allowed = folder / "authorized_keys"
    allowed.write_text(keys.make(endpoint.key) + "\n")
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    lines = (
        f"Port {port}",
        "ListenAddress 127.0.0.1",
        f'HostKey "{private}"',
        f'AuthorizedKeysFile "{allowed}"',
        "PidFile none",
        "StrictModes no",
        "UsePAM no",
        "PasswordAuthentication no",
        "PermitRootLogin prohibit-password",
        # At this SHLVL bash leaves the start files of whoever runs the tests alone.
        f'SetEnv SHLVL=2 "PATH={programs}"',
        *options,
    )
    (folder / "sshd_config").write_text("\n".join(lines) + "\n")
    log = folder / "sshd.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, "-D", "-e", "-f", folder / "sshd_config"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    server = Server(replace(endpoint, port=port), process, log)
    try:
        _wait(server)
        yield server
    finally:
        children = server.sessions()
        process.terminate()
        process.wait()
        for pid in children:
            try:
                os.kill(pid, 15)
            except ProcessLookupError:
                continue


def _wait(server: Server) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        assert server.process.poll() is None, server.log.read_text()
        try:
            with socket.create_connection(("127.0.0.1", server.endpoint.port), 1):
                return
        except OSError:
            time.sleep(0.02)
    raise AssertionError(server.log.read_text())
