from pathlib import Path

from devbox.disk import keys


def test_keys_are_made_once(tmp_path: Path) -> None:
    assert keys.make(tmp_path / "key") == keys.make(tmp_path / "key")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["key"]
