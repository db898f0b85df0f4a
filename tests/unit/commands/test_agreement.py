"""What keeps a machine from being made anew is found before the old one goes."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from devbox.commands import agreement, locking
from devbox.commands.agreement import Asked
from devbox.config.model import Firmware
from devbox.errors import DevboxError
from devbox.machine import host
from tests.unit.disk import machines


@pytest.mark.parametrize(
    ("changes", "id"),
    [({}, ""), ({"disk": machines.MIB}, "disk.too-small"), ({"firmware": Firmware.UEFI}, "box.firmware")],
)
def test_what_a_new_machine_would_fail_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], id: str
) -> None:
    image = machines.image(tmp_path / "store")
    image = replace(image, traits=replace(image.traits, firmware=(Firmware.BIOS,)))
    monkeypatch.setattr(host, "probe", lambda *_, **__: None)
    monkeypatch.setattr(locking, "require", lambda *_, **__: None)
    monkeypatch.setattr(locking, "find_image", lambda *_, **__: image)
    declared = machines.project(tmp_path / "project")
    declared = replace(declared, machine=replace(declared.machine, **changes))
    with pytest.raises(DevboxError) if id else nullcontext() as refused:
        agreement._require_possible(declared, Asked())
    assert refused is None or refused.value.id == id
