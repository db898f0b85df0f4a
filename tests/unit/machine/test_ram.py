"""Memory as a file: copied with its holes, without a name that could be left behind."""

import os
import subprocess
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


def test_another_process_can_open_it_as_long_as_the_block_lasts() -> None:
    with ram.fresh(1 << 20) as made:
        assert made is not None
        words = ["dd", "of=" + os.fspath(made.ram.path), "conv=notrunc", "status=none"]
        subprocess.run(words, input=b"the guest's", check=True)
        assert os.pread(made.descriptor, 11, 0) == b"the guest's"
        assert os.fstat(made.descriptor).st_size == 1 << 20
    assert not made.ram.path.exists()


def test_there_is_none_that_is_larger_than_this_computers_memory() -> None:
    with ram.fresh(1 << 60) as too_large, ram.fresh(None) as unwanted:
        assert (too_large, unwanted) == (None, None)
