"""Files of steps on this computer: fetched once, verified always, safe against a second devbox and a kill."""

import hashlib
import multiprocessing
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from devbox import paths
from devbox.box import prune
from devbox.box.references import Uses
from devbox.errors import DevboxError
from devbox.provision import artefacts
from tests.unit.box.conftest import Resource, Torture

BODY = bytes(range(256)) * 800
SHA256 = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEVBOX_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def server() -> Iterator[Torture]:
    torture = Torture()
    yield torture
    torture.close()


def left(cache: Path) -> list[str]:
    return [path.name for path in (cache / "partial").iterdir()]


def test_the_name_alone_makes_nothing(cache: Path) -> None:
    assert artefacts.path(SHA256) == cache / "artefacts" / SHA256
    assert not cache.exists()


def test_fetched_once(server: Torture, cache: Path) -> None:
    resource = Resource(BODY)
    url = server.add("/tool.tar.gz", resource)
    for _ in range(2):
        path = artefacts.ensure(url, SHA256, title="Fetching tool.tar.gz")
        assert path == artefacts.path(SHA256)
        assert path.read_bytes() == BODY
    assert len(resource.requests) == 1
    assert (path.stat().st_mode & 0o777, left(cache)) == (0o444, [])


def test_a_broken_off_download_is_resumed(server: Torture, cache: Path) -> None:
    resource = Resource(BODY, cuts=[100_000])
    artefacts.ensure(server.add("/a", resource), SHA256, title="x")
    assert [request.get("range") for request in resource.requests] == [None, "bytes=100000-"]
    assert left(cache) == []


def test_a_damaged_one_is_fetched_anew(server: Torture) -> None:
    url = server.add("/a", Resource(BODY))
    path = artefacts.ensure(url, SHA256, title="x")
    path.chmod(0o600)
    path.write_bytes(BODY[:-1] + b"?")
    assert artefacts.ensure(url, SHA256, title="x").read_bytes() == BODY


def test_wrong_bytes_are_never_published(server: Torture, cache: Path) -> None:
    url = server.add("/a", Resource(BODY + b"more"))
    with pytest.raises(DevboxError) as wrong:
        artefacts.ensure(url, SHA256, title="x")
    assert wrong.value.id == "download.digest"
    assert "image" not in wrong.value.message
    assert not artefacts.path(SHA256).exists()
    assert left(cache) == []


def test_what_is_gone_says_what_else_can_be_done(server: Torture) -> None:
    with pytest.raises(DevboxError) as gone:
        artefacts.ensure(server.add("/a", Resource(b"", status=[404])), SHA256, title="x")
    assert gone.value.id == "download.gone"
    assert "src" in str(gone.value.hint)


@pytest.mark.parametrize(("url", "id"), [("http://192.0.2.1/a", "download.insecure"), ("nothing", "download.insecure")])
def test_only_https(url: str, id: str) -> None:
    with pytest.raises(DevboxError) as refused:
        artefacts.ensure(url, SHA256, title="x")
    assert refused.value.id == id


def test_a_kill_between_publishing_and_cleaning_leaves_nothing(server: Torture, cache: Path) -> None:
    url = server.add("/a", Resource(BODY))
    artefacts.ensure(url, SHA256, title="x")
    (cache / "partial" / f"artefact-{SHA256}.part.json").write_text("{}")
    artefacts.ensure(url, SHA256, title="x")
    assert left(cache) == []


def _ensure(url: str) -> None:
    assert artefacts.ensure(url, SHA256, title="x").read_bytes() == BODY


def test_two_at_once_fetch_once(server: Torture) -> None:
    resource = Resource(BODY)
    url = server.add("/a", resource)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_ensure, args=(url,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 3
    assert len(resource.requests) == 1


def test_prune_removes_what_was_not_asked_for_in_a_month(server: Torture) -> None:
    url = server.add("/a", Resource(BODY))
    path = artefacts.ensure(url, SHA256, title="x")
    assert prune.prune(Uses(), dry_run=False).removed == ()
    old = time.time() - 31 * 86400
    os.utime(path, (old, old))
    told = prune.prune(Uses(), dry_run=True)
    assert [(item.what, item.name) for item in told.removed] == [("download", SHA256[:12])]
    assert path.exists()
    os.utime(path, (old, old))
    artefacts.ensure(url, SHA256, title="x")
    assert prune.prune(Uses(), dry_run=False).removed == ()
    os.utime(path, (old, old))
    assert prune.prune(Uses(), dry_run=False) == told
    assert not path.exists()
    assert paths.cache_dir().exists()
