import hashlib
import os
from pathlib import Path

import httpx
import pytest

from devbox import proc
from devbox.box import download, partial
from devbox.box.download import Bounds, fetch
from devbox.config.model import Digest
from devbox.errors import DevboxError
from tests.unit.box.conftest import Resource, Torture

BODY = os.urandom(700_000)
SHA256 = Digest("sha256", hashlib.sha256(BODY).hexdigest())
QUICK = Bounds(stall=0.4, pause=0.001, attempts=3)


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / "image.part"


def refused(id: str, url: str, part: Path, digest: Digest | None = SHA256, bounds: Bounds = QUICK) -> DevboxError:
    with pytest.raises(DevboxError) as caught:
        fetch(url, part, digest, bounds=bounds)
    assert caught.value.id == id, caught.value.message
    return caught.value


def state_of(part: Path) -> Path:
    return part.with_name("image.part.json")


def test_all_bytes_and_both_digests(torture: Torture, part: Path) -> None:
    sha512 = Digest("sha512", hashlib.sha512(BODY).hexdigest())
    got = fetch(torture.add("/i", Resource(BODY)), part, sha512, bounds=QUICK)
    assert part.read_bytes() == BODY
    assert got == download.Downloaded(SHA256.value, len(BODY), (SHA256, sha512))


def test_a_cut_connection_goes_on_where_it_broke(torture: Torture, part: Path) -> None:
    resource = Resource(BODY, cuts=[300_000, 200_000])
    fetch(torture.add("/i", resource), part, SHA256, bounds=QUICK)
    assert part.read_bytes() == BODY
    assert [each.get("range") for each in resource.requests] == [None, "bytes=300000-", "bytes=500000-"]
    assert resource.requests[1]["if-range"] == '"one"'


def test_a_later_run_goes_on_from_the_partial_file(torture: Torture, part: Path) -> None:
    resource = Resource(BODY, cuts=[300_000, 0, 0, 0])
    url = torture.add("/i", resource)
    refused("download.failed", url, part, digest=None)
    assert part.stat().st_size == 300_000
    resource.cuts, resource.requests = [], []
    got = fetch(url, part, None, bounds=QUICK)
    assert (got.sha256, part.read_bytes()) == (SHA256.value, BODY)
    assert [each["range"] for each in resource.requests] == ["bytes=300000-"]


def test_a_whole_partial_file_with_a_digest_asks_no_server(part: Path) -> None:
    part.write_bytes(BODY)
    assert fetch("http://127.0.0.1:1/gone", part, SHA256, bounds=QUICK).size == len(BODY)


def test_a_whole_partial_file_without_a_digest_is_asked_for_its_last_byte(torture: Torture, part: Path) -> None:
    resource = Resource(BODY)
    url = torture.add("/i", resource)
    fetch(url, part, None, bounds=QUICK)
    assert fetch(url, part, None, bounds=QUICK).sha256 == SHA256.value
    assert resource.requests[1]["range"] == f"bytes={len(BODY) - 1}-"


@pytest.mark.parametrize("etag", ['"two"', 'W/"two"', None])
def test_a_changed_file_is_fetched_from_its_beginning(torture: Torture, part: Path, etag: str | None) -> None:
    resource = Resource(os.urandom(500_000), cuts=[200_000, 0, 0, 0], etag='"one"' if etag else None)
    url = torture.add("/i", resource)
    refused("download.failed", url, part, digest=None)
    resource.body, resource.etag, resource.cuts = BODY, etag, []
    assert fetch(url, part, None, bounds=QUICK).sha256 == SHA256.value
    assert part.read_bytes() == BODY


def test_the_date_stands_in_for_a_weak_tag(torture: Torture, part: Path) -> None:
    date = "Mon, 01 Jan 2024 00:00:00 GMT"
    resource = Resource(BODY, etag='W/"x"', modified=date, cuts=[300_000])
    fetch(torture.add("/i", resource), part, None, bounds=QUICK)
    assert (resource.requests[1]["range"], resource.requests[1]["if-range"]) == ("bytes=300000-", date)


def test_a_server_without_ranges(torture: Torture, part: Path) -> None:
    fetch(torture.add("/i", Resource(BODY, ranges=False, cuts=[300_000])), part, SHA256, bounds=QUICK)
    assert part.read_bytes() == BODY


def test_a_range_that_begins_elsewhere_is_not_taken(torture: Torture, part: Path) -> None:
    resource = Resource(BODY, cuts=[300_000], shift=7)
    fetch(torture.add("/i", resource), part, SHA256, bounds=QUICK)
    assert part.read_bytes() == BODY
    assert "range" not in resource.requests[2]


def test_a_wrong_digest_is_final_and_shows_both(torture: Torture, part: Path) -> None:
    resource = Resource(BODY)
    error = refused("download.digest", torture.add("/i", resource), part, Digest("sha256", "0" * 64))
    assert "0" * 64 in error.message
    assert SHA256.value in error.message
    assert len(resource.requests) == 1
    assert not part.exists()
    assert not state_of(part).exists()


def test_a_wrong_digest_after_going_on_is_tried_once_from_the_beginning(
    torture: Torture, part: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    resource = Resource(BODY)
    part.write_bytes(b"\0" * 300_000)  # what a power cut leaves: the length without the bytes
    fetch(torture.add("/i", resource), part, SHA256, bounds=QUICK)
    assert part.read_bytes() == BODY
    assert [each.get("range") for each in resource.requests] == ["bytes=300000-", None]
    assert "anew" in capfd.readouterr().err
    part.write_bytes(b"\0" * 300_000)
    refused("download.digest", torture.add("/j", Resource(BODY[:-1] + b"!")), part)


def test_a_stalled_server_is_left_and_asked_again(torture: Torture, part: Path) -> None:
    fetch(torture.add("/i", Resource(BODY, cuts=[300_000], stall=True)), part, SHA256, bounds=QUICK)
    assert part.read_bytes() == BODY


def test_a_trickle_is_no_download(torture: Torture, part: Path) -> None:
    resource = Resource(BODY, trickle=True)
    error = refused(
        "download.failed", torture.add("/i", resource), part, bounds=Bounds(stall=0.2, attempts=2, pause=0.0)
    )
    assert "came in" in error.message


def test_too_little_is_an_error_that_keeps_what_came(torture: Torture, part: Path) -> None:
    error = refused("download.failed", torture.add("/i", Resource(BODY[:1000], length=5000, ranges=False)), part)
    assert part.stat().st_size == 1000
    assert "goes on after 1000 B" in error.hint


def test_more_than_announced_is_cut_off(torture: Torture, part: Path) -> None:
    fetch(torture.add("/i", Resource(BODY + b"more", length=len(BODY))), part, SHA256, bounds=QUICK)
    assert part.read_bytes() == BODY


@pytest.mark.parametrize("length", [-1, None])
def test_larger_than_any_image(torture: Torture, part: Path, length: int | None) -> None:
    bounds = Bounds(size=100_000, stall=0.4)
    refused("download.too-large", torture.add("/i", Resource(BODY, length=length)), part, bounds=bounds)
    assert part.stat().st_size == 0


def test_an_unannounced_length_is_taken_only_with_a_digest(torture: Torture, part: Path) -> None:
    url = torture.add("/i", Resource(BODY, length=None))
    refused("download.refused", url, part, digest=None)
    assert fetch(url, part, SHA256, bounds=QUICK).size == len(BODY)


def test_bytes_are_taken_as_sent_whatever_the_encoding_header_says(torture: Torture, part: Path) -> None:
    resource = Resource(BODY, headers={"Content-Encoding": "gzip"})
    fetch(torture.add("/i", resource), part, SHA256, bounds=QUICK)
    assert part.read_bytes() == BODY
    assert resource.requests[0]["accept-encoding"] == "identity"


def test_redirects_are_followed_but_not_in_circles(torture: Torture, part: Path) -> None:
    torture.add("/a", Resource(b"", location="/b"))
    torture.add("/b", Resource(b"", location="/i"))
    fetch(torture.add("/i", Resource(BODY)).replace("/i", "/a"), part, SHA256, bounds=QUICK)
    assert part.read_bytes() == BODY
    part.unlink()
    refused("download.redirects", torture.add("/c", Resource(b"", location="/c")), part)


@pytest.mark.parametrize(
    "location", ["ftp://127.0.0.1/i", "http://example.org/i", "file:///etc/passwd", "//evil.test/i"]
)
def test_a_redirect_out_of_the_rules(torture: Torture, part: Path, location: str) -> None:
    refused("download.insecure", torture.add("/i", Resource(b"", location=location)), part)


def test_a_redirect_from_https_to_http_is_refused_even_to_this_computer() -> None:
    with pytest.raises(DevboxError) as caught:
        download._follow(httpx.URL("https://images.test/i"), "http://127.0.0.1/i")
    assert caught.value.id == "download.insecure"


@pytest.mark.parametrize(
    "url", ["http://images.test/i", "ftp://127.0.0.1/i", "http://127.0.0.1.evil.test/i", "i.qcow2"]
)
def test_only_https_and_loopback(part: Path, url: str) -> None:
    refused("download.insecure", url, part)
    assert not part.exists()


@pytest.mark.parametrize("url", ["https://", "https://images.test:port/i", "https://images.test/\0"])
def test_no_address_at_all(part: Path, url: str) -> None:
    refused("download.url", url, part)


@pytest.mark.parametrize(("status", "id"), [(404, "download.gone"), (410, "download.gone"), (403, "download.refused")])
def test_a_refusal_is_said_at_once(torture: Torture, part: Path, status: int, id: str) -> None:
    resource = Resource(BODY, status=[status] * 9)
    refused(id, torture.add("/i", resource), part)
    assert len(resource.requests) == 1


def test_a_busy_server_is_asked_again(torture: Torture, part: Path) -> None:
    fetch(torture.add("/i", Resource(BODY, status=[503, 429])), part, SHA256, bounds=QUICK)
    assert part.read_bytes() == BODY
    refused("download.failed", torture.add("/j", Resource(BODY, status=[503] * 9)), part, Digest("sha256", "1" * 64))


def test_nobody_there_is_said_at_once(part: Path) -> None:
    slow = Bounds(pause=1000.0)
    assert "127.0.0.1" in refused("download.failed", "http://127.0.0.1:1/i", part, bounds=slow).message


def test_a_link_in_place_of_the_partial_file_is_not_written_through(torture: Torture, part: Path) -> None:
    victim = part.with_name("victim")
    victim.write_bytes(b"precious")
    part.symlink_to(victim)
    fetch(torture.add("/i", Resource(BODY)), part, SHA256, bounds=QUICK)
    part.unlink()
    part.hardlink_to(victim)
    fetch(torture.add("/i", Resource(BODY)), part, SHA256, bounds=QUICK)
    assert victim.read_bytes() == b"precious"


@pytest.mark.skipif(os.getuid() != 0, reason="needs to mount a small file system")
def test_a_full_disk_keeps_what_came(torture: Torture, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = proc.run((proc.find_tool("mount"), "-t", "tmpfs", "-o", "size=512k", "none", small))
    if mounted.status != 0:
        pytest.skip(f"cannot mount here: {mounted.error_text}")
    try:
        part = small / "image.part"
        refused("store.full", torture.add("/known", Resource(BODY)), part)
        assert part.stat().st_size == 0  # said before the first byte
        error = refused("store.full", torture.add("/unknown", Resource(BODY, length=None)), part)
        assert "devbox gc" in error.hint
        assert part.stat().st_size >= 256 << 10
        assert part.read_bytes() == BODY[: part.stat().st_size]
    finally:
        assert proc.run((proc.find_tool("umount"), small)).status == 0


def test_out_of_quota_is_a_full_disk_too(tmp_path: Path) -> None:
    with pytest.raises(DevboxError, match="not enough space"), partial.full_disk_told(tmp_path / "x"):
        raise OSError(122, "Disk quota exceeded")


def test_what_may_be_secret_in_an_address_is_not_shown(torture: Torture, part: Path) -> None:
    url = torture.add("/i?token=hush", Resource(BODY)).replace("//", "//me:hush@")
    shown = refused("download.digest", url, part, Digest("sha256", "0" * 64))
    assert "/i is not" in shown.message
    assert "hush" not in f"{shown.message}{shown.hint}{shown.details}"
