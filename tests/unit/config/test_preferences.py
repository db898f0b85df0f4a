import subprocess
import sys
from pathlib import Path

import pytest

from devbox import paths
from devbox.config import preferences
from devbox.config.preferences import Preferences
from devbox.errors import DevboxError, ExitCode


def written(text: str) -> Path:
    path = paths.preferences_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_nobody_needs_one() -> None:
    assert preferences.load() == Preferences(mirrors={}, layers_limit=20 << 30, trash_days=7, unused_days=30)


def test_one_of_comments_says_nothing() -> None:
    written("# nothing yet\n")
    assert preferences.load() == Preferences()


def test_what_is_written_is_read() -> None:
    written(
        "mirrors:\n"
        "  https://images.test/cloud: [https://one.test/c, https://two.test/]\n"
        "layers: {limit: 5GiB}\n"
        "gc: {trash_days: 1}\n"
    )
    found = preferences.load()
    assert found.mirrors == {"https://images.test/cloud": ("https://one.test/c", "https://two.test/")}
    assert (found.layers_limit, found.trash_days, found.unused_days) == (5 << 30, 1, 30)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("mirors: {}\n", ":1:1: mirors: there is no such key; did you mean `mirrors`?"),
        ("mirrors:\n  ftp://x/: [https://a.test]\n", ":2:3: mirrors.ftp://x/: must be the beginning of an address"),
        ("mirrors:\n  https://a.test:\n    - here\n", ":3:7: mirrors.https://a.test[0]: must be the beginning"),
        ("mirrors:\n  https://a.test: https://b.test\n", ":2:19: mirrors.https://a.test: must be a list"),
        ("layers: {limit: 20}\n", ":1:17: layers.limit: must be a size with its unit"),
        ("gc: {trash_days: soon}\n", ":1:18: gc.trash_days: must be a whole number"),
        ("gc: {trash_days: -1}\n", ":1:18: gc.trash_days: must be at least 0"),
        ("- 1\n", "must be a mapping"),
        ("gc: &a {}\n", "anchors and aliases are not used here"),
    ],
)
def test_a_mistake_is_told_with_its_file_and_line(text: str, told: str) -> None:
    path = written(text)
    with pytest.raises(DevboxError) as caught:
        preferences.load()
    assert (caught.value.id, caught.value.exit_code) == ("config.invalid", ExitCode.USAGE)
    assert told in caught.value.message
    assert str(path) in caught.value.message


def test_an_address_has_others_by_its_beginning() -> None:
    found = Preferences(
        mirrors={
            "https://a.test/": ("https://far.test",),
            "https://a.test/x": ("https://near.test/y/", "https://far.test/x"),
        }
    )
    assert found.elsewhere("https://a.test/x/1.img") == ("https://near.test/y/1.img", "https://far.test/x/1.img")
    assert found.elsewhere("https://a.test/xx/1.img") == ("https://far.test/xx/1.img",)
    assert found.elsewhere("https://a.test.evil/x/1.img") == ()


def test_it_lies_where_the_user_keeps_such_things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert paths.preferences_file().parent.name == "config"
    monkeypatch.delenv("DEVBOX_CONFIG_DIR")
    monkeypatch.setattr(paths, "_PLATFORM", "linux")
    assert paths.preferences_file() == Path.home() / ".config/devbox/config.yaml"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert paths.preferences_file() == tmp_path / "devbox/config.yaml"


def test_without_the_file_nothing_is_loaded_for_it() -> None:
    probe = "import sys; from devbox.config import preferences as p; p.load(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout.split()
    assert {"yaml", "jsonschema", "hashlib"} & set(loaded) == set()
