"""Memory as a file: copied with its holes, without a name that could be left behind."""

import os
from pathlib import Path

import pytest

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


def test_its_name_goes_with_the_block_however_that_ends(tmp_path: Path) -> None:
    with ram.fresh(1 << 20, folder=tmp_path) as made:
        assert made is not None
        assert made.ram.path.stat().st_mode & 0o777 == 0o600
        assert os.fstat(made.descriptor).st_size == 1 << 20
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyboardInterrupt), ram.fresh(1 << 20, folder=tmp_path):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_what_a_kill_has_left_goes_with_the_next_one_and_what_is_in_use_stays(tmp_path: Path) -> None:
    left = tmp_path / f"devbox-{os.getuid()}-{'0' * 16}"
    left.write_bytes(b"left")
    with ram.fresh(1 << 20, folder=tmp_path) as first:
        assert not left.exists()
        with ram.fresh(1 << 20, folder=tmp_path):
            assert first is not None
            assert first.ram.path.exists()


def test_there_is_none_without_the_room_or_the_folder(tmp_path: Path) -> None:
    with ram.fresh(1 << 60, folder=tmp_path) as too_large, ram.fresh(1, folder=tmp_path / "no") as nowhere:
        assert too_large is None
        assert nowhere is None
