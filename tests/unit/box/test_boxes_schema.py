"""Every file of the catalogue is held to schemas/box.schema.json, and the schema refuses what it should."""

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from devbox import paths
from devbox.config import document

FILES = sorted(paths.resource_dir("boxes").iterdir())
SCHEMA = json.loads((paths.resource_dir("schemas") / "box.schema.json").read_text())
CHECK = jsonschema.Draft202012Validator(SCHEMA)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_each_file_of_the_catalogue_is_right(file: Path) -> None:
    assert file.suffix == ".yaml"
    CHECK.validate(document.load_plain(file))


IMAGE: dict[str, Any] = {
    "url": "https://i.test/x",
    "digest": f"sha256:{'0' * 64}",
    "format": "qcow2",
    "firmware": ["bios"],
}
BOX: dict[str, Any] = {"title": "T", "os": "debian", "user": "debian", "images": {"x86_64": IMAGE}}


@pytest.mark.parametrize(
    "change",
    [
        {"url": "http://i.test/x"},
        {"digest": "sha256:00"},
        {"digest": f"md5:{'0' * 32}"},
        {"digest": None},
        {"pinned": False},
        {"pinned": True, "digest": None},
        {"format": "vmdk"},
        {"firmware": []},
        {"firmware": ["efi"]},
        {"cpu": "host"},
        {"mirror": "https://i.test/x"},
    ],
)
def test_a_wrong_image_is_refused(change: dict[str, Any]) -> None:
    box = copy.deepcopy(BOX)
    CHECK.validate(box)
    image = box["images"]["x86_64"]
    for key, value in change.items():
        image[key] = value
        if value is None:
            del image[key]
    assert list(CHECK.iter_errors(box))


def test_every_key_is_explained() -> None:
    def keys(schema: dict[str, Any]) -> list[dict[str, Any]]:
        found = [*schema.get("properties", {}).values()]
        return found + [key for each in schema.get("$defs", {}).values() for key in keys(each)]

    for key in keys(SCHEMA):
        assert {"title", "description", "examples"} <= key.keys()
