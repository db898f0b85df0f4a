"""Liveness comes from a socket that answers and from locks of the kernel; anything else counts as nothing."""

import fcntl
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from devbox import fs, paths
from devbox.machine import liveness
from devbox.share.ports import Forward
from tests.unit.machine import peers

HOLD = """
import fcntl, sys
file = open(sys.argv[1], "r+b")
fcntl.lockf(file, fcntl.LOCK_EX, int(sys.argv[3]), int(sys.argv[2]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path() -> Path:
    return fs.make_private_dir(paths.runtime_root()) / "status.sock"


def test_peek(path: Path) -> None:
    with peers.listening(path, peers.answering()):
        seen = liveness.peek(path)
    assert seen == liveness.Peek(
        peers.UUID,
        "running",
        os.getpid(),
        kvm=False,
        forwards=(
            Forward("tcp", "127.0.0.1", 35197, 22),
            Forward("tcp", "127.0.0.1", 8022, 22),
            Forward("udp", "0.0.0.0", 60638, 53),
        ),
    )
    assert seen.ssh_port == 35197, "the first of the two that lead to SSH is ours"
    assert [forward.host for forward in seen.declared] == [8022, 60638]


@pytest.mark.parametrize(("io_status", "full"), [("nospace", True), ("failed", False)])
def test_a_full_disk_is_known(path: Path, io_status: str, full: bool) -> None:  # noqa: FBT001
    answers = peers.answering(query_status={"status": "io-error"}, query_block=[{"io-status": io_status}])
    with peers.listening(path, answers):
        seen = liveness.peek(path)
    assert seen is not None
    assert (seen.running, seen.disk_full) == (False, full)


def silent(client: socket.socket) -> None:
    client.recv(1)


def chatty(client: socket.socket) -> None:
    while True:
        client.sendall(b"x" * 65536)


def confused(client: socket.socket) -> None:
    client.sendall(b'{"QMP": {}}\n["not", "an", "answer"]\n')
    client.recv(1)


@pytest.mark.parametrize("handler", [silent, chatty, confused, lambda _client: None])
def test_no_answer_is_none_in_time(path: Path, handler: peers.Handler) -> None:
    with peers.listening(path, handler):
        began = time.monotonic()
        assert liveness.peek(path, timeout=0.2) is None
        assert time.monotonic() - began < 5, "it does not hang"


def test_no_socket_and_a_stale_socket(path: Path) -> None:
    assert liveness.peek(path) is None
    assert liveness.socket_pid(path) is None
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(path))
    assert path.exists()
    assert liveness.peek(path) is None
    assert liveness.socket_pid(path) is None


def test_the_kernel_names_a_silent_listener(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as hung:
        hung.bind(str(path))
        hung.listen(1)
        assert liveness.socket_pid(path) == os.getpid()


def test_locks_tell_their_holder_and_vanish_with_it(tmp_path: Path) -> None:
    file = tmp_path / "qemu.pid"
    assert liveness.lock_pid(file) is None, "no file"
    file.write_bytes(b"1\n")
    assert liveness.lock_pid(file) is None, "no lock, whatever the file says"
    words = [sys.executable, "-c", HOLD, str(file), "0", "0"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert liveness.lock_pid(file) == holder.pid
        assert liveness.lock_pid(file) == holder.pid, "asking does not take it away"
        holder.kill()
        holder.wait()
        assert liveness.lock_pid(file) is None


@pytest.mark.parametrize(("start", "length", "locked"), [(100, 1, True), (203, 1, True), (0, 50, False)])
def test_image_locks(tmp_path: Path, start: int, length: int, locked: bool) -> None:  # noqa: FBT001
    image = tmp_path / "disk.qcow2"
    assert not liveness.image_locked(image)
    image.write_bytes(b"QFI\xfb")
    words = [sys.executable, "-c", HOLD, str(image), str(start), str(length)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert liveness.image_locked(image) is locked
        holder.kill()


def test_shared_locks_count_too(tmp_path: Path) -> None:
    """QEMU takes read locks, each on one byte, owned by its open file."""
    image = tmp_path / "disk.qcow2"
    image.write_bytes(b"QFI\xfb")
    fd = os.open(image, os.O_RDWR)
    try:
        import struct

        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 101, 1, 0))
        assert liveness.image_locked(image)
    finally:
        os.close(fd)
    assert not liveness.image_locked(image)


def test_it_stays_light() -> None:
    code = "import sys; from devbox.machine import lifecycle; print('asyncio' in sys.modules, 'httpx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
