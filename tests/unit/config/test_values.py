import pytest

from devbox.config import values

GIB = 1 << 30


@pytest.mark.parametrize(
    ("text", "count"),
    [("512MiB", 512 << 20), ("2GiB", 2 * GIB), ("1.5GiB", 3 * GIB // 2), ("1TiB", 1024 * GIB), ("100MB", 95 << 20)],
)
def test_sizes(text: str, count: int) -> None:
    assert values.size(text) == count


def test_a_size_is_bounded() -> None:
    with pytest.raises(values.Mistake):
        values.size("999999999TiB")


@pytest.mark.parametrize(
    ("value", "guess"),
    [("2G", "2GiB"), ("2 gb", "2GiB"), ("512m", "512MiB"), ("1.5g", "1.5GiB"), (2048, "2048MiB"), (20, "20GiB")]
    + [("lots", ""), (0, ""), (True, "")],
)
def test_what_was_probably_meant_by_a_size(value: object, guess: str) -> None:
    assert values.likely("size", value) == guess


@pytest.mark.parametrize(("value", "seconds"), [(5, 5.0), (0.5, 0.5), ("90s", 90.0), ("10m", 600.0), ("1h30m", 5400.0)])
def test_durations(value: float | str, seconds: float) -> None:
    assert values.duration(value) == seconds


@pytest.mark.parametrize(
    ("requires", "fits"),
    [
        (">=0.1", True),
        (">=0.1.0, <1", True),
        ("==0.1", True),
        ("!=0.1.0", False),
        (">0.1", False),
        (">=0.10", False),
        ("<=0.1.0.0", True),
        ("<0.1", False),
    ],
)
def test_requires(requires: str, fits: bool) -> None:  # noqa: FBT001
    assert values.fits("0.1.0", requires) is fits


def test_a_slug_is_a_name() -> None:
    assert values.slug("  Mein Läden (2) ") == "mein-l-den-2"
    assert values.slug("***") == "project"
    assert values.slug("a" * 39 + "-b") == "a" * 39


def test_home_is_understood(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("h").resolve()
    monkeypatch.setenv("HOME", str(home))
    assert values.host_path("~/.m2", home / "project") == home / ".m2"
    assert values.host_path("~x", home / "project") == home / "project" / "~x"
