"""docs/provisioning.md, carried out: every example of a kind in one machine, on Debian 12 and on Debian 13.

The page is the test: its YAML blocks below "Kinds" are the steps, in its order. What the examples take from elsewhere
(a server's archive, a repository) is put in its place here; a stand-in that the page no longer mentions is a failure.
"""

import http.server
import io
import re
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
INTERNAL = {"mount", "settings"}

HEAD = """\
version: 1
name: guide
box: {recipe: RELEASE}
cpus: 2
memory: 1GiB
disk: 8GiB
folders: []
secrets:
  - {name: API_TOKEN, env: GUIDE_TOKEN}
provision:
"""


def kinds_section() -> str:
    page = (ROOT / "docs/provisioning.md").read_text()
    return page.partition("\n## Kinds\n")[2].partition("\n## ")[0]


def steps_of_the_page() -> str:
    blocks = re.findall(r"```yaml\nprovision:\n(.*?)```", kinds_section(), re.DOTALL)
    return "".join(blocks)


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
