"""`download` for real under each shell: fetched by this computer, put or unpacked in the guest, drift mended."""

import bz2
import gzip
import hashlib
import io
import lzma
import os
import pwd
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from devbox.errors import DevboxError
from devbox.provision import archive, artefacts
from devbox.provision.apply import Options, Report, provision
from devbox.provision.bind import bind
from tests.unit.box.conftest import Resource, Torture
from tests.unit.provision.fake import FakeGuest, step

Go = Callable[..., Report]
Entry = tuple[str, str | bytes | None, int]  # name; bytes of a file, target of a link, None for a folder; mode
TREE: list[Entry] = [
    ("tool-1.2/", None, 0o755),
    ("tool-1.2/bin/tool", b"#!/bin/sh\necho 1.2\n", 0o755),
    ("tool-1.2/share/read me", b"hello\n", 0o600),
    ("tool-1.2/share/\xfcn\xefcode\n", b"odd\n", 0o664),
    ("tool-1.2/bin/alias", "tool", 0o777),
    ("tool-1.2/empty/", None, 0o700),
]


def make_tar(entries: list[Entry]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, what, mode in entries:
            info = tarfile.TarInfo(name)
            info.mode, info.uid, info.uname = mode, 12345, "somebody"
            if what is None:
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            elif isinstance(what, str):
                info.type, info.linkname = tarfile.SYMTYPE, what
                tar.addfile(info)
            else:
                info.size = len(what)
                tar.addfile(info, io.BytesIO(what))
    return buffer.getvalue()


def make_zip(entries: list[Entry]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, what, mode in entries:
            info = zipfile.ZipInfo(name)
            kind = 0o040000 if what is None else 0o120000 if isinstance(what, str) else 0o100000
            info.create_system, info.external_attr = 3, (kind | mode) << 16
            packed.writestr(info, what or b"")
    return buffer.getvalue()


PACK: dict[str, Callable[[list[Entry]], bytes]] = {
    "tar": make_tar,
    "tar.gz": lambda entries: gzip.compress(make_tar(entries)),
    "tgz": lambda entries: gzip.compress(make_tar(entries)),
    "tar.xz": lambda entries: lzma.compress(make_tar(entries)),
    "tar.bz2": lambda entries: bz2.compress(make_tar(entries)),
    "tar.zst": lambda entries: zstandard.compress(make_tar(entries)),
    "zip": make_zip,
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEVBOX_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def server() -> Iterator[Torture]:
    torture = Torture()
    yield torture
    torture.close()


@pytest.fixture
def go(guest: FakeGuest, project: Path, server: Torture) -> Go:
    def download(body: bytes, name: str = "tool", **options: Any) -> Report:
        url = server.add(f"/{name}", Resource(body))
        spec = step("download", {"url": url, "sha256": hashlib.sha256(body).hexdigest(), **options})
        (bound,) = bind((spec,), project, "root")
        assert bound.kind.fetch
        bound.kind.fetch(bound.options)
        return provision(guest, (spec,), guest.context(project), Options())

    return download


def status(report: Report) -> str:
    return str(report.outcomes[0].status)


def changes(report: Report) -> list[tuple[str, str | None, str | None]]:
    return [(change.field, change.old, change.new) for change in report.outcomes[0].changes]


def test_a_file(go: Go, guest: FakeGuest) -> None:
    path = guest.path("opt/my tool")
    body = os.urandom(300_000)
    assert status(go(body, path=str(path), mode="0755")) == "changed"
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (body, 0o755)
    channels = guest.channels
    assert status(go(body, path=str(path), mode="0755")) == "same"
    assert guest.channels == channels + 1
    path.write_bytes(b"edited")
    assert status(go(body, path=str(path), mode="0755")) == "changed"
    assert path.read_bytes() == body
    path.chmod(0o600)
    assert changes(go(body, path=str(path), mode="0755")) == [("mode", "0600", "0755")]
    assert status(go(body[1:], path=str(path))) == "changed"
    assert path.read_bytes() == body[1:]
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", PACK)
def test_every_sort_of_archive(suffix: str, go: Go, guest: FakeGuest) -> None:
    folder = guest.path("opt/the tool")
    body = PACK[suffix](TREE)
    name = f"tool-1.2.{suffix}"
    assert status(go(body, name, unpack=str(folder), strip=1)) == "changed"
    assert subprocess.run([folder / "bin/alias"], capture_output=True, check=True).stdout == b"1.2\n"
    assert (folder / "share/\xfcn\xefcode\n").read_bytes() == b"odd\n"
    assert {oct(path.stat().st_mode & 0o777) for path in (folder / "share").iterdir()} == {"0o644"}
    assert {path.lstat().st_uid for path in folder.rglob("*")} == {os.getuid()}
    assert list((folder / "empty").iterdir()) == []
    channels = guest.channels
    assert status(go(body, name, unpack=str(folder), strip=1)) == "same"
    assert guest.channels == channels + 1


DRIFT = {
    "bin/tool is different": "echo broken >bin/tool",
    "bin/tool is missing": "rm bin/tool",
    "bin/tool is different ": "chmod -x bin/tool",
    "bin/alias is missing": "rm bin/alias",
    "share/read me is different": "echo >>'share/read me'",
    "is missing": "rm share/*code*",
}


@pytest.mark.parametrize("what", DRIFT)
def test_drift_is_found_and_mended(what: str, go: Go, guest: FakeGuest) -> None:
    folder = guest.path("opt/tool")
    body = PACK["tar.gz"](TREE)
    go(body, "tool.tgz", unpack=str(folder), strip=1)
    subprocess.run(["sh", "-c", DRIFT[what]], cwd=folder, check=True)
    (folder / "mine").write_text("mine")
    report = go(body, "tool.tgz", unpack=str(folder), strip=1)
    ((field, old, _),) = changes(report)
    assert (field, status(report)) == ("files", "changed")
    assert what.strip() in str(old)
    assert status(go(body, "tool.tgz", unpack=str(folder), strip=1)) == "same"
    assert (folder / "mine").exists()
    assert subprocess.run([folder / "bin/alias"], capture_output=True, check=True).stdout == b"1.2\n"


def test_a_new_version_takes_the_old_one_s_files_away_and_no_others(go: Go, guest: FakeGuest) -> None:
    folder = guest.path("opt/tool")
    folder.mkdir(parents=True)
    (folder / "mine").write_text("mine")
    go(make_tar(TREE), "tool.tar", unpack=str(folder), strip=1)
    new: list[Entry] = [("tool-1.3/bin/tool", b"#!/bin/sh\necho 1.3\n", 0o755), ("tool-1.3/empty", b"a file", 0o644)]
    (folder / "empty/not yours").write_text("x")
    with pytest.raises(DevboxError):
        go(make_tar(new), "tool.tar", unpack=str(folder), strip=1)
    (folder / "empty/not yours").unlink()
    report = go(make_tar(new), "tool.tar", unpack=str(folder), strip=1)
    assert [field for field, _, _ in changes(report)][0] == "sha256"
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*")) == [
        "bin",
        "bin/tool",
        "empty",
        "mine",
    ]
    assert status(go(make_tar(new), "tool.tar", unpack=str(folder), strip=0)) == "changed"
    assert (folder / "tool-1.3/bin/tool").exists()
    assert not (folder / "bin").exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_the_owner_of_what_is_unpacked(go: Go, guest: FakeGuest) -> None:
    folder = guest.path("opt/tool")
    options = {"unpack": str(folder), "owner": "nobody"}
    go(make_tar(TREE), "tool.tar", **options)
    assert {path.lstat().st_uid for path in (folder, *folder.rglob("*"))} == {pwd.getpwnam("nobody").pw_uid}
    os.chown(folder / "tool-1.2/bin/tool", 0, -1)
    assert [field for field, _, _ in changes(go(make_tar(TREE), "tool.tar", **options))] == ["files"]
    assert status(go(make_tar(TREE), "tool.tar", **options)) == "same"


def test_a_lost_manifest_unpacks_again(go: Go, guest: FakeGuest) -> None:
    folder = guest.path("opt/tool")
    go(make_tar(TREE), "tool.tar", unpack=str(folder))
    (manifest,) = guest.path("var/lib/devbox/trees").iterdir()
    assert manifest.stat().st_mode & 0o777 == 0o600
    manifest.unlink()
    assert status(go(make_tar(TREE), "tool.tar", unpack=str(folder))) == "changed"
    assert status(go(make_tar(TREE), "tool.tar", unpack=str(folder))) == "same"


def convert(tmp_path: Path, body: bytes, strip: int = 0) -> str:
    """Why it is refused."""
    (tmp_path / "archive").write_bytes(body)
    with pytest.raises(DevboxError) as refused:
        archive.convert(tmp_path / "archive", tmp_path / "out", strip=strip, name="x.tar")
    assert refused.value.id == "download.archive"
    assert not (tmp_path / "out").exists()
    return refused.value.message


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ([("/etc/passwd", b"x", 0o644)], "absolute"),
        ([("a/../../b", b"x", 0o644)], "leads out"),
        ([("a", "/etc", 0o777)], "out of it"),
        ([("d/a", "../../x", 0o777)], "out of it"),
        ([("a", "", 0o777)], "out of it"),
        ([("a", "b", 0o777), ("a/x", b"x", 0o644)], "below a link"),
        ([("a", b"", 0o644), ("a/x", b"x", 0o644)], "below a link or a file"),
        ([("a/x", b"x", 0o644), ("a", "b", 0o777)], "twice"),
        ([], "empty"),
    ],
)
def test_what_leads_out_is_refused(tmp_path: Path, entries: list[Entry], why: str) -> None:
    assert why in convert(tmp_path, make_tar(entries))


def test_devices_and_foreign_hard_links_are_refused(tmp_path: Path) -> None:
    for kind, why in ((tarfile.CHRTYPE, "neither"), (tarfile.FIFOTYPE, "neither"), (tarfile.LNKTYPE, "not in it")):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            info = tarfile.TarInfo("x")
            info.type, info.linkname = kind, "y"
            tar.addfile(info)
        assert why in convert(tmp_path, buffer.getvalue())


@pytest.mark.parametrize("suffix", PACK)
def test_a_damaged_archive_is_told(tmp_path: Path, suffix: str) -> None:
    whole = PACK[suffix]([("a", os.urandom(50_000), 0o644)])
    assert "damaged" in convert(tmp_path, whole[: len(whole) // 2])
    middle = len(whole) // 2
    if suffix not in {"tar", "tar.zst"}:  # which have no sum of what is in them
        assert "damaged" in convert(tmp_path, whole[:middle] + bytes(2000) + whole[middle + 2000 :])
    assert "damaged" in convert(tmp_path, b"nothing of the sort" * 100)


def test_nothing_is_left_after_strip(tmp_path: Path) -> None:
    assert "first 3 folders" in convert(tmp_path, make_tar(TREE), strip=3)


def test_hard_links_and_doubled_names(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for body in (b"old", b"new!"):
            info = tarfile.TarInfo("./top/a")
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
        info = tarfile.TarInfo("top/b")
        info.type, info.linkname = tarfile.LNKTYPE, "top/a"
        tar.addfile(info)
    (tmp_path / "archive").write_bytes(buffer.getvalue())
    made = archive.convert(tmp_path / "archive", tmp_path / "out", strip=1, name="x")
    assert {file.name: file.sha256 for file in made.files} == dict.fromkeys("ab", hashlib.sha256(b"new!").hexdigest())
    subprocess.run(["tar", "-xf", tmp_path / "out", "-C", tmp_path], check=True)
    assert (tmp_path / "b").read_bytes() == b"new!"


def test_what_this_computer_keeps(go: Go, guest: FakeGuest, cache: Path) -> None:
    body = PACK["tar.gz"](TREE)
    go(body, "tool.tgz", unpack=str(guest.path("opt/tool")), strip=1)
    sha256 = hashlib.sha256(body).hexdigest()
    assert {path.name for path in (cache / "artefacts").iterdir()} == {
        sha256,
        f"{sha256}-1-tar",
        f"{sha256}-1-manifest",
    }
    assert list((cache / "partial").iterdir()) == []
    assert artefacts.path(sha256).read_bytes() == body
