from pathlib import Path

from devbox.disk import keys


def test_keys_are_made_once(tmp_path: Path) -> None:
    assert keys.make(tmp_path / "key") == keys.make(tmp_path / "key")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["key"]


def test_a_derived_key_is_one_for_each_purpose_and_machine(tmp_path: Path) -> None:
    for name in ("one", "two"):
        keys.make(tmp_path / name)
    assert keys.derived(tmp_path / "one", "secrets") == keys.derived(tmp_path / "one", "secrets")
    found = {keys.derived(tmp_path / name, purpose) for name in ("one", "two") for purpose in ("secrets", "other")}
    assert len(found) == 4
    assert {len(key) for key in found} == {32}
