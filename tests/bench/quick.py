"""The bars that boot nothing: the command line's start (B10), `status` and `list` (B11), importing an image (B13)."""

import functools
import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from devbox.box.store import Image
from devbox.box.traits import Traits
from devbox.config.model import Arch, BoxRef, Firmware, MachineSpec, Project
from devbox.disk import record as records
from tests.bench.measure import Row, Sample, alternate, run

DEVBOX = Path(sys.executable).parent / "devbox"
IMPORT_TYPER = (sys.executable, "-c", "import typer")
IMAGE_MIB = 512

# What a person without devbox does: fetch the file, check its digest, and unpack its clusters if they are compressed.
FETCH_AND_HASH = """
import hashlib, shutil, subprocess, sys, urllib.request
with urllib.request.urlopen(sys.argv[1]) as answer, open(sys.argv[2], "wb") as file:
    shutil.copyfileobj(answer, file, 1 << 20)
with open(sys.argv[2], "rb") as file:
    assert hashlib.file_digest(file, "sha256").hexdigest() == sys.argv[3]
if sys.argv[4:]:
    flat = sys.argv[2] + ".flat"
    subprocess.run([*sys.argv[4:], sys.argv[2], flat], check=True)
    with open(flat, "rb") as file:
        hashlib.file_digest(file, "sha256")
"""
CONVERT = ("qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", "-W", "-m", "16")


def start(folder: Path, count: int) -> Iterator[Row]:
    """B10: what everyone waits for at every command."""
    completion = {"_DEVBOX_COMPLETE": "complete_bash", "COMP_WORDS": "devbox sta", "COMP_CWORD": "1"}
    for what, words, extra in (
        ("--help", ["--help"], {}),
        ("--version", ["--version"], {}),
        ("completion", [], completion),
    ):
        pairs = alternate(
            functools.partial(run, [DEVBOX, *words], env=extra, cwd=folder),
            functools.partial(run, IMPORT_TYPER),
            count=count,
        )
        yield Row("B10", what, "import typer", "1.2", pairs)


def machines(folder: Path, count: int) -> Iterator[Row]:
    """B11: `status` of a stopped machine, alone and among 20, and `list` of all. Nothing here ever ran."""
    alone = _stopped_machines(folder, range(1))
    for what, count_of_machines, limit in (("status", 1, "1.5"), ("status", 20, "3"), ("list", 20, "3")):
        if count_of_machines == 20 and not (folder / "project-19").exists():
            _stopped_machines(folder, range(1, 20))
        pairs = alternate(
            functools.partial(run, [DEVBOX, what], cwd=alone), functools.partial(run, IMPORT_TYPER), count=count
        )
        yield Row("B11", f"{what}, {count_of_machines} stopped", "import typer", limit, pairs)


def image_import(folder: Path, count: int) -> Iterator[Row]:
    """B13: from loopback, an uncompressed image as the store keeps it, and a compressed one that it unpacks."""
    served = folder / "served"
    served.mkdir()
    raw = served / "image.raw"
    with raw.open("wb") as file:
        for _ in range(IMAGE_MIB):
            file.write(os.urandom(1 << 19) + bytes(1 << 19))  # half of it can be compressed, as in a real image
    convert = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2"]
    subprocess.run([*convert, "-S", "0", raw, served / "plain.qcow2"], check=True)
    subprocess.run([*convert, "-c", raw, served / "compressed.qcow2"], check=True)
    raw.unlink()
    handler = functools.partial(_Quiet, directory=os.fspath(served))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            for name, more in (("plain", ()), ("compressed", CONVERT)):
                yield _import_row(folder, f"http://127.0.0.1:{server.server_port}/{name}.qcow2", more, count)
        finally:
            server.shutdown()


def _import_row(folder: Path, url: str, more: tuple[str, ...], count: int) -> Row:
    name = url.rpartition("/")[2]
    digest = hashlib.sha256((folder / "served" / name).read_bytes()).hexdigest()
    store, fetched, numbers = folder / "store", folder / "fetched", iter(range(10_000))

    def candidate() -> Sample:
        cache = store / str(next(numbers))  # a new store each time: an image that is there is not fetched again
        sample = run(
            [DEVBOX, "box", "add", url, "--sha256", digest], env={"DEVBOX_CACHE_DIR": str(cache)}, output=folder / "log"
        )
        _remove(cache)
        return sample

    def baseline() -> Sample:
        sample = run([sys.executable, "-c", FETCH_AND_HASH, url, fetched, digest, *more])
        fetched.unlink()
        fetched.with_suffix(".flat").unlink(missing_ok=True)
        return sample

    size = (folder / "served" / name).stat().st_size >> 20
    against = "download, hash, convert, hash" if more else "download, then hash"
    pairs = alternate(candidate, baseline, count=count)
    return Row("B13", f"box add, {name}, {size} MiB", against, "1.0", pairs, note="devbox also syncs it to the disk")


def _stopped_machines(folder: Path, numbers: range) -> Path:
    """Machines by the stage's own function, each of a project of its own; returns the first project."""
    arch = Arch.X86_64
    traits = Traits(
        "debian-12", arch, os="debian", user="debian", firmware=(Firmware.BIOS,), lacks=frozenset(), cpu="max"
    )
    image = Image(sha256="0" * 64, path=folder / "none", format="qcow2", virtual_size=1 << 30, traits=traits)
    spec = MachineSpec("default", {arch: BoxRef(name="debian-12")}, arch)
    for number in numbers:
        root = folder / f"project-{number}"
        root.mkdir()
        (root / "Devboxfile").write_text("version: 1\nbox: debian-12\n")
        records.ensure(
            Project(root, f"bench-{number}", replace(spec, hostname=f"bench-{number}")), image, Firmware.BIOS
        )
    return folder / "project-0"


def _remove(folder: Path) -> None:
    subprocess.run(["rm", "-rf", folder], check=True)


class _Quiet(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *words: object) -> None:
        pass
