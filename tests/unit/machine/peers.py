"""A QMP peer on a Unix socket, which answers as QEMU does, or misbehaves as told."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

UUID = "8d4a1f0e-5b1c-4a6f-9d1e-2f3a4b5c6d7e"
USERNET = (
    "Hub -1 (net0):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n"
    "  TCP[HOST_FORWARD]  15       127.0.0.1 35197       10.0.2.15    22     0     0\r\n"
    "  TCP[ESTABLISHED]   16       127.0.0.1 35198       10.0.2.15    22     0     0\r\n"
    "  TCP[HOST_FORWARD]  14       127.0.0.1  8022       10.0.2.15    22     0     0\r\n"
    "  UDP[HOST_FORWARD]  13               * 60638       10.0.2.15    53     0     0\r\n"
)
ANSWERS: dict[str, Any] = {
    "qmp_capabilities": {},
    "query-uuid": {"UUID": UUID},
    "query-status": {"status": "running", "running": True},
    "query-kvm": {"enabled": False, "present": True},
    "human-monitor-command": USERNET,
    "query-block": [{"io-status": "ok"}, {}],
    "query-migrate": {},
    "cont": {},
}
Handler = Callable[[socket.socket], None]


def questions(client: socket.socket) -> Iterator[dict[str, Any]]:
    """What the client asks; the QMP library ends its messages without a newline, so JSON's own end counts."""
    received = ""
    while chunk := client.recv(4096):
        received += chunk.decode()
        while received.strip():
            try:
                asked, end = json.JSONDecoder().raw_decode(received.lstrip())
            except ValueError:
                break
            received = received.lstrip()[end:]
            yield asked


def send(client: socket.socket, asked: dict[str, Any], reply: dict[str, Any]) -> None:
    """The reply, under the question's id if it has one."""
    numbered = {**reply, **({"id": asked["id"]} if "id" in asked else {})}
    client.sendall(json.dumps(numbered).encode() + b"\r\n")


def answering(**changes: Any) -> Handler:
    """Answers each question from the table, with an event before each, as QEMU may send at any time."""
    answers = {**ANSWERS, **{name.replace("_", "-"): value for name, value in changes.items()}}

    def serve(client: socket.socket) -> None:
        client.sendall(b'{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}}, "capabilities": []}}\r\n')
        for asked in questions(client):
            if asked["execute"] != "qmp_capabilities":
                client.sendall(b'{"event": "NOISE", "timestamp": {"seconds": 1, "microseconds": 2}}\r\n')
            send(client, asked, {"return": answers[asked["execute"]]})

    return serve


@contextmanager
def listening(path: Path, handler: Handler) -> Iterator[None]:
    """Serve one client after the other until the end of the block."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        listener.listen(4)

        def serve() -> None:
            while True:
                try:
                    client = listener.accept()[0]
                except OSError:
                    return
                with client:
                    try:
                        handler(client)
                    except OSError:
                        continue

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)
