"""A store and machines as they are on a disk, made by hand: blobs, layers on layers, kernels, templates, the trash."""

import hashlib
import json
import os
import time
from pathlib import Path

from devbox import fs, paths
from devbox.box import qcow2, store
from devbox.config.model import Firmware
from devbox.disk import record as records
from devbox.disk.record import Record
from tests.unit.disk import machines

DAY = 86400.0
LONG_AGO = 400.0  # days


def blob(name: str, *keys: str, size: int = 8192, on: str = "", days: float = LONG_AGO) -> str:
    """Put a file into the store as it was `days` ago; `on` is the digest that its header names. Returns its digest."""
    data = bytearray(hashlib.sha256(name.encode()).digest() * (size // 32))
    if on:
        data[:24] = (
            b"QFI\xfb" + (3).to_bytes(4, "big") + (1024).to_bytes(8, "big") + len(on).to_bytes(4, "big") + bytes(4)
        )
        data[1024 : 1024 + len(on)] = on.encode()
    digest = hashlib.sha256(data).hexdigest()
    aside = store.partial(f"making-{digest}")
    aside.write_bytes(data)
    header = qcow2.Header("qcow2" if on else "raw", size, compressed=False)
    store.publish(aside, digest, header, label=name, keys=keys or (f"recipe-{name}",))
    age(store.record_path(digest), days)
    return digest


def layer(name: str, on: str, *, size: int = 8192, days: float = LONG_AGO) -> str:
    digest = blob(name, f"layer-{name}", size=size, on=on, days=days)
    keys = fs.make_private_dir(paths.layers_dir() / digest)
    (keys / "id_ed25519").write_text("a key\n")
    age(keys, days)
    return digest


def template(layer: str, *, days: float = LONG_AGO, size: int = 65536) -> Path:
    folder = fs.make_private_dir(paths.templates_dir() / hashlib.sha256(layer.encode()).hexdigest())
    (folder / "ram").write_bytes(b"\x01" * size)
    (folder / "state").write_bytes(b"\x02" * 4096)
    (folder / "template.json").write_text(json.dumps({"schema": 1, "layer": layer, "kind": {}, "label": "memory"}))
    for path in (*folder.iterdir(), folder):
        age(path, days)
    return folder


def machine(tmp_path: Path, name: str, *holds: str, image: str = "", layer: str = "") -> Record:
    """A stopped machine whose folder has hard links of the blobs in `holds`; its record names `image` and `layer`."""
    made = records.ensure(machines.project(tmp_path / name), machines.image(tmp_path / "images"), Firmware.BIOS)
    raw = json.loads(made.dir.record.read_bytes()) | {"image": image or "0" * 64, "layer": layer}
    made.dir.record.write_text(json.dumps(raw))
    for digest in holds:
        os.link(store.blob_path(digest), made.dir.folder / digest)
    found = records.find(tmp_path / name)
    assert found is not None
    return found


def age(path: Path, days: float) -> None:
    then = time.time() - days * DAY
    os.utime(path, (then, then))


def there(digest: str) -> bool:
    return store.blob_path(digest).exists()
