"""One committed lock through the installed command: it is enough for CI, and for no network at all."""

import functools
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.checkout import Checkout, a_person
from tests.tiny import default_cache, tiny_image

pytestmark = pytest.mark.guest

TOOL = b"#!/bin/sh\necho the tool\n"
DEVBOXFILE = """\
version: 1
name: locked
box: {url: "IMAGE"}
cpus: 1
memory: 256MiB
disk: 2GiB
folders: []
provision:
  - name: tool
    download: {url: "TOOL", path: /usr/local/bin/tool, mode: "0755"}
"""


@dataclass
class Server:
    """A publisher on loopback, and what it was asked for."""

    folder: Path
    asked: list[str] = field(default_factory=list)
    port: int = 0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "served")
    made.folder.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def log_request(self, *_: object) -> None:
            made.asked.append(self.path)

        def log_message(self, *_: object) -> None:
            pass

    web = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(made.folder)))
    made.port = web.server_address[1]
    thread = threading.Thread(target=web.serve_forever)
    thread.start()
    yield made
    web.shutdown()
    thread.join()
    web.server_close()


@pytest.fixture
def checkout(tmp_path: Path, server: Server) -> Iterator[Checkout]:
    image, _ = tiny_image(default_cache())
    (server.folder / "tiny.qcow2").symlink_to(image)
    (server.folder / "tool").write_bytes(TOOL)
    root = tmp_path / "project"
    root.mkdir()
    base = f"http://127.0.0.1:{server.port}"
    with a_person() as env:
        made = Checkout(root, env)
        made.write(DEVBOXFILE.replace("IMAGE", f"{base}/tiny.qcow2").replace("TOOL", f"{base}/tool"))
        yield made
        made.devbox("destroy", "--yes")


def test_a_lock_is_enough_for_ci_and_for_no_network(checkout: Checkout, server: Server) -> None:
    lock = checkout.root / "Devboxfile.lock"
    in_ci = replace(checkout, env={**checkout.env, "CI": "true"})
    shown = in_ci.devbox("up", "--approve=all")
    assert shown.returncode == 2
    assert "devbox lock" in shown.stderr
    assert checkout.devbox("up").returncode == 2  # nothing says yet which file the tool is
    assert (server.asked, lock.exists()) == ([], False)

    assert checkout.devbox("lock").returncode == 0
    assert sorted(server.asked) == ["/tiny.qcow2", "/tool"]
    written = json.loads(lock.read_text())
    (pin,) = written["machines"]["default"].values()
    assert pin["sha256"] == tiny_image(default_cache())[1]
    (tool,) = written["downloads"].values()
    assert tool == {"sha256": hashlib.sha256(TOOL).hexdigest(), "size": len(TOOL)}
    text = lock.read_text()

    # The publisher has others by now, and is not even asked.
    server.asked.clear()
    for name in ("tiny.qcow2", "tool"):
        (server.folder / name).unlink()
        (server.folder / name).write_bytes(bytes(4096))
    up = in_ci.devbox("up", "--offline")
    assert up.returncode == 0
    assert checkout.devbox("run", "--", "tool").stdout == "the tool\n"
    assert in_ci.devbox("verify").returncode == 0
    assert in_ci.devbox("reload", "--offline").returncode == 0
    assert (server.asked, lock.read_text()) == ([], text)
