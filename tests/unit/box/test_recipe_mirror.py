"""Which mirror a recipe takes, from apt's own files in both of their formats."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from devbox.box import mirror
from devbox.box.mirror import Entry, Mirror
from devbox.errors import DevboxError

KEY = "/usr/share/keyrings/debian-archive-keyring.gpg"
DEB822 = f"""\
Types: deb deb-src
# a comment inside
URIs: http://mirror.example/debian/
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: {KEY}

# a comment between
Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
Signed-By: {KEY}

Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main
Enabled: no

Types: deb-src
URIs: http://source.example/debian
Suites: bookworm
Components: main
"""


def nothing(uri: str, suite: str) -> bool:
    return False


def everything(uri: str, suite: str) -> bool:
    return True


def never_asked(uri: str, suite: str) -> bool:
    raise AssertionError(f"asked for {suite} at {uri}")


def names(entries: tuple[Entry, ...]) -> list[tuple[str, str]]:
    return [(entry.uri, entry.suite) for entry in entries]


def test_deb822_gives_one_entry_for_each_uri_and_suite() -> None:
    entries = mirror.parse_deb822(DEB822)
    assert names(entries) == [
        ("http://mirror.example/debian", "bookworm"),
        ("http://mirror.example/debian", "bookworm-updates"),
        ("http://mirror.example/debian-security", "bookworm-security"),
    ]
    assert entries[0] == Entry("http://mirror.example/debian", "bookworm", ("main", "contrib"), KEY)


def test_deb822_keeps_a_key_that_stands_in_the_file() -> None:
    text = (
        "Types: deb\nURIs: http://m.example/debian\nSuites: trixie\nComponents: main\nTrusted: yes\n"
        "Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQINBF\n -----END PGP PUBLIC KEY BLOCK-----\n"
    )
    (entry,) = mirror.parse_deb822(text)
    assert entry.trusted
    assert entry.signed_by.split("\n") == [
        "",
        "-----BEGIN PGP PUBLIC KEY BLOCK-----",
        "",
        "mQINBF",
        "-----END PGP PUBLIC KEY BLOCK-----",
    ]


@pytest.mark.parametrize(
    ("line", "entry"),
    [
        ("deb http://m.example/debian bookworm main", Entry("http://m.example/debian", "bookworm")),
        (
            "  deb  http://m.example/debian/  sid  main contrib # mine",
            Entry("http://m.example/debian", "sid", ("main", "contrib")),
        ),
        (
            "deb [arch=amd64 signed-by=/k.gpg trusted=yes] http://m.example/debian sid main",
            Entry("http://m.example/debian", "sid", ("main",), "/k.gpg", trusted=True),
        ),
        (
            "deb [ signed-by=/k.gpg ] http://m.example/debian sid main",
            Entry("http://m.example/debian", "sid", ("main",), "/k.gpg"),
        ),
    ],
)
def test_one_line_entries(line: str, entry: Entry) -> None:
    assert mirror.parse_list(line) == (entry,)


@pytest.mark.parametrize(
    "line", ["# deb http://m.example/debian sid main", "deb-src http://m.example/debian sid main", ""]
)
def test_lines_that_name_no_packages(line: str) -> None:
    assert mirror.parse_list(line) == ()


def test_the_hosts_own_suite_comes_with_its_updates_and_nothing_is_asked() -> None:
    chosen = mirror.choose(mirror.parse_deb822(DEB822), "bookworm", never_asked)
    assert names(chosen) == [
        ("http://mirror.example/debian", "bookworm"),
        ("http://mirror.example/debian", "bookworm-updates"),
        ("http://mirror.example/debian-security", "bookworm-security"),
    ]
    assert {entry.components for entry in chosen} == {("main",)}


@pytest.mark.parametrize(
    ("has", "suites"),
    [(everything, ["trixie", "trixie-updates", "trixie-security"]), (nothing, ["trixie"])],
)
def test_another_suite_comes_from_the_same_mirror(has: Callable[[str, str], bool], suites: list[str]) -> None:
    chosen = mirror.choose(mirror.parse_deb822(DEB822), "trixie", has)
    assert [entry.suite for entry in chosen] == suites
    assert {entry.signed_by for entry in chosen} == {KEY}


def test_an_archive_of_somebody_else_with_debians_suite_names_is_passed_over() -> None:
    others = (
        Entry("https://other.example/php", "bookworm"),
        Entry("https://other.example/linux/debian", "bookworm", ("stable",)),
        Entry("https://other.example/pub", "bookworm-pgdg"),
    )
    assert mirror.choose(others, "bookworm", everything) == ()
    chosen = mirror.choose((*others, *mirror.parse_deb822(DEB822)), "bookworm", nothing)
    assert chosen[0].uri == "http://mirror.example/debian"


def test_an_ubuntu_host_has_no_debian_mirror() -> None:
    ubuntu = (
        Entry("http://archive.example/ubuntu", "noble", ("main",), "/usr/share/keyrings/ubuntu-archive-keyring.gpg"),
        Entry("http://archive.example/ubuntu", "noble-security"),
    )
    assert mirror.choose(ubuntu, "bookworm", everything) == ()


def test_a_named_mirror_is_asked_for_what_it_has() -> None:
    chosen = mirror.from_url("https://m.example/debian/", "trixie", lambda uri, suite: not suite.endswith("-updates"))
    assert names(chosen) == [
        ("https://m.example/debian", "trixie"),
        ("https://m.example/debian-security", "trixie-security"),
    ]


@pytest.mark.parametrize("url", ["https://user:secret@m.example/nothing", "m.example/debian"])
def test_a_named_mirror_without_the_suite_is_refused(url: str) -> None:
    with pytest.raises(DevboxError, match="no Debian suite `trixie`") as caught:
        mirror.from_url(url, "trixie", nothing)
    assert caught.value.id == "recipe.mirror"
    assert "secret" not in caught.value.message


def test_a_list_of_mirrors_gives_its_first(tmp_path: Path) -> None:
    listing = tmp_path / "mirrors.txt"
    listing.write_text("# ours\n\nhttp://first.example/debian/ priority:1\nhttp://second.example/debian\n")
    assert mirror.expand(Entry(f"mirror+file:{listing}", "sid")).uri == "http://first.example/debian"


def test_the_guests_sources_can_be_read_again_and_hold_no_password() -> None:
    entries = (
        Entry("https://user:secret@m.example/debian", "trixie", ("main",), "/etc/apt/keyrings/ours.gpg"),
        Entry("file:/srv/mirror", "trixie"),
    )
    text = mirror.source_lines(
        mirror.for_guest(entries), {"/etc/apt/keyrings/ours.gpg": "/etc/apt/keyrings/devbox-0.gpg"}
    )
    assert mirror.parse_deb822(text) == (
        replace(entries[0], uri="https://m.example/debian", signed_by="/etc/apt/keyrings/devbox-0.gpg"),
    )


def test_only_what_makes_old_dates_count_goes_into_the_guest() -> None:
    settings = ('Acquire::http::Proxy "http://proxy.example";', 'Acquire::Check-Valid-Until "false";')
    assert Mirror((), settings).guest_settings == ('Acquire::Check-Valid-Until "false";',)


def test_finding_it_without_a_debian_mirror_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "_host_entries", lambda: ())
    monkeypatch.setattr(mirror, "apt_config", lambda: ())
    monkeypatch.delenv(mirror.VARIABLE, raising=False)
    with pytest.raises(DevboxError) as caught:
        mirror.find("bookworm")
    assert caught.value.id == "recipe.no-mirror"
    assert "DEVBOX_DEBIAN_MIRROR" in caught.value.hint


def test_a_computer_without_apt_is_told_of_the_ready_image(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("devbox.proc.shutil.which", lambda name, path: None)
    with pytest.raises(DevboxError) as caught:
        mirror.find("bookworm")
    assert caught.value.id == "recipe.no-apt"
