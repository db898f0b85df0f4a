"""A publisher on loopback with a catalogue that names its images, and a project that asks for one of them."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from devbox import paths
from devbox.commands import locking
from devbox.config import build
from devbox.config.model import Project
from tests.unit.box.conftest import Resource, Torture

OLD = b"\xeb\x63" + b"o" * (16 * 512 - 2)
NEW = b"\xeb\x63" + b"n" * (16 * 512 - 2)
TOOL = b"#!/bin/sh\necho tool\n"
HEAD = "version: 1\nname: locked\narch: x86_64\n"


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def sha512(body: bytes) -> str:
    return hashlib.sha512(body).hexdigest()


@dataclass
class World:
    root: Path
    boxes: Path
    server: Torture

    def publish(self, path: str, body: bytes, **how: object) -> str:
        return self.server.add(path, Resource(body, **how))  # type: ignore[arg-type]

    def catalogue(self, url: str, body: bytes | None, name: str = "deb") -> None:
        """The box `name`, whose published digest is that of `body`."""
        image = {"url": url, "format": "raw", "firmware": ["bios"]}
        if body is not None:
            image["digest"] = f"sha512:{sha512(body)}"
        box = {"title": name, "os": "debian", "user": "debian", "images": {"x86_64": image, "aarch64": image}}
        (self.boxes / f"{name}.yaml").write_text(json.dumps(box))

    def ask(self, box: str = "deb", *steps: str) -> None:
        lines = "".join(f"  - {step}\n" for step in steps)
        (self.root / "Devboxfile").write_text(f"{HEAD}box: {box}\n{'provision:' if steps else ''}\n{lines}")

    def project(self) -> Project:
        return build.load(self.root)

    def resolve(self) -> bytes:
        """The bytes of the image that `up` would take."""
        return locking.find_image(self.project(), None, locked=False).path.read_bytes()

    def lock_text(self) -> str:
        return (self.root / "Devboxfile.lock").read_text()

    def asked(self) -> list[str]:
        """The paths that were asked for, as often as they were."""
        return [path for path, one in self.server.resources.items() for _ in one.requests]

    def forget(self) -> None:
        """An empty store, and a server that has counted nothing."""
        import shutil

        shutil.rmtree(paths.cache_dir(), ignore_errors=True)
        for one in self.server.resources.values():
            one.requests.clear()


def worlds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    boxes, root = tmp_path / "boxes", tmp_path / "project"
    boxes.mkdir()
    root.mkdir()
    monkeypatch.chdir(root)
    real = paths.resource_dir
    monkeypatch.setattr(paths, "resource_dir", lambda name: boxes if name == "boxes" else real(name))
    made = World(root, boxes, Torture())
    yield made
    made.server.close()
