"""A web server on loopback that misbehaves in every way that the downloads must survive, and small images."""

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from devbox import proc


@dataclass
class Resource:
    """One path of the server. `cuts` are how many bytes each answer brings before the connection breaks."""

    body: bytes
    etag: str | None = '"one"'
    modified: str | None = None
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    status: list[int] = field(default_factory=list)  # answers to give first
    stall: bool = False  # where cut: keep silent instead of closing
    trickle: bool = False  # a byte now and then
    length: int | None = -1  # what Content-Length says; None: not said; -1: the truth
    shift: int = 0  # how far a range answer begins from where it was asked to
    location: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    requests: list[dict[str, str]] = field(default_factory=list)


class Torture:
    def __init__(self) -> None:
        self.resources: dict[str, Resource] = {}
        self.ended = threading.Event()
        torture = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                torture.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = False
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def add(self, path: str, resource: Resource) -> str:
        self.resources[path] = resource
        return f"http://127.0.0.1:{self.server.server_address[1]}{path}"

    def close(self) -> None:
        self.ended.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        resource = self.resources.get(handler.path)
        if resource is None:
            handler.send_error(404)
            return
        resource.requests.append({name.lower(): value for name, value in handler.headers.items()})
        if resource.location is not None or resource.status:
            handler.send_response(resource.status.pop(0) if resource.status else 302)
            if resource.location is not None:
                handler.send_header("Location", resource.location)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        begin = self._begin(handler, resource)
        if begin >= len(resource.body) > 0:
            handler.send_response(416)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        self._body(handler, resource, begin)

    def _begin(self, handler: BaseHTTPRequestHandler, resource: Resource) -> int:
        asked, condition = handler.headers.get("Range"), handler.headers.get("If-Range")
        if not asked or not resource.ranges or (condition and condition not in {resource.etag, resource.modified}):
            return 0
        return int(asked.removeprefix("bytes=").rstrip("-"))

    def _body(self, handler: BaseHTTPRequestHandler, resource: Resource, begin: int) -> None:
        body = resource.body[begin + resource.shift :] if begin else resource.body
        handler.send_response(206 if begin else 200)
        if begin:
            total = len(resource.body)
            handler.send_header("Content-Range", f"bytes {begin + resource.shift}-{total - 1}/{total}")
        if resource.length is not None:
            handler.send_header("Content-Length", str(len(body) if resource.length == -1 else resource.length))
        for name, value in (("ETag", resource.etag), ("Last-Modified", resource.modified), *resource.headers.items()):
            if value is not None:
                handler.send_header(name, value)
        handler.end_headers()
        cut = resource.cuts.pop(0) if resource.cuts else None
        try:
            while resource.trickle and not self.ended.wait(0.05):
                handler.wfile.write(b"x")
            handler.wfile.write(body[:cut])
            handler.wfile.flush()
            if cut is not None and resource.stall:
                self.ended.wait(10)
        except OSError:
            pass  # The client has had enough: that is what some of these answers are for.


@pytest.fixture
def torture() -> Iterator[Torture]:
    server = Torture()
    yield server
    server.close()


MakeImage = Callable[..., Path]


@pytest.fixture
def make_image(tmp_path: Path) -> MakeImage:
    """A qcow2 made by qemu-img, with `content` at its start; `options` are qemu-img convert's."""

    def make(*options: str, content: bytes = b"\x55\xaa" * 40_000, name: str = "disk.qcow2") -> Path:
        raw, image = tmp_path / f"{name}.raw", tmp_path / name
        raw.write_bytes(content)
        os.truncate(raw, 4 << 20)
        qemu_img = proc.find_tool("qemu-img")
        done = proc.run((qemu_img, "convert", "-f", "raw", "-O", "qcow2", *options, raw, image))
        assert done.status == 0, done.error_text
        raw.unlink()
        return image

    return make


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
