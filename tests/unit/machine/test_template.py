"""What a machine must have in common with another one to go on from its memory."""

from dataclasses import replace
from pathlib import Path, PurePosixPath

from devbox.config.model import FolderType
from devbox.disk.record import Record
from devbox.machine import template
from devbox.share.folders import Mount
from tests.unit.machine.test_argv import LINUX
from tests.unit.machine.test_hardware import of
from tests.unit.machine.test_lifecycle import record

__all__ = ["record"]


def test_where_a_checkout_lies_does_not_count_and_how_many_folders_it_shares_does(
    record: Record, tmp_path: Path
) -> None:
    qemu = tmp_path / "qemu"
    qemu.touch()
    facts, vm = replace(LINUX, qemu=qemu), of(record)
    here, there = (
        replace(vm, mounts=(Mount("one", tmp_path / name, PurePosixPath("/one"), FolderType.NINEP),))
        for name in ("here", "there")
    )
    assert template.kind(here, facts) == template.kind(there, facts)
    assert template.kind(here, facts) != template.kind(replace(here, mounts=()), facts)
