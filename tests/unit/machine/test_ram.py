"""Memory as a file: copied with its holes, without a name that could be left behind."""

import os
from pathlib import Path

from devbox.machine import ram


def test_holes_stay_holes_and_bytes_are_the_same(tmp_path: Path) -> None:
    with (tmp_path / "source").open("wb") as source:
        source.write(b"begin")
        source.seek(64 << 20)
        source.write(b"end")
        source.truncate(96 << 20)
    with (tmp_path / "source").open("rb") as source, (tmp_path / "target").open("wb") as target:
        copied = ram.copy(source.fileno(), target.fileno())
    assert (tmp_path / "target").read_bytes() == (tmp_path / "source").read_bytes()
    assert copied < 1 << 20
    assert (tmp_path / "target").stat().st_blocks * 512 < 1 << 20


def test_an_empty_memory_is_copied_as_one_hole(tmp_path: Path) -> None:
    (tmp_path / "source").touch()
    os.truncate(tmp_path / "source", 1 << 30)
    with (tmp_path / "source").open("rb") as source, (tmp_path / "target").open("wb") as target:
        assert ram.copy(source.fileno(), target.fileno()) == 0
    assert (tmp_path / "target").stat().st_size == 1 << 30


def test_it_has_no_name_once_it_is_forgotten_and_none_when_it_fails(tmp_path: Path) -> None:
    with ram.fresh(1 << 20, folder=tmp_path) as made:
        assert made is not None
        assert made.ram.path.stat().st_mode & 0o777 == 0o600
        made.forget_name()
        assert list(tmp_path.iterdir()) == []
        assert os.fstat(made.descriptor).st_size == 1 << 20
    try:
        with ram.fresh(1 << 20, folder=tmp_path):
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert list(tmp_path.iterdir()) == []


def test_there_is_none_without_the_room_or_the_folder(tmp_path: Path) -> None:
    with ram.fresh(1 << 60, folder=tmp_path) as too_large, ram.fresh(1, folder=tmp_path / "no") as nowhere:
        assert too_large is None
        assert nowhere is None
