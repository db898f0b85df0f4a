"""`repository` in each family, really, below a folder that stands for /etc: its list, its key, and a stale index."""

import base64
import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest

from devbox.provision import artefacts, shell
from devbox.provision.apply import Options, provision
from devbox.provision.facts import Facts
from devbox.provision.kinds import repository
from tests.unit.provision.fake import FakeGuest, step
from tests.unit.provision.test_kinds import Alone

BINARY = b"\x99\x01\x0d\x04\x00\n\x08" + bytes(range(256))
ARMOURED = (
    b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n" + base64.b64encode(BINARY) + b"\n-----END PGP PUBLIC KEY BLOCK-----\n"
)
URL = "https://packages.example.org/x"
NAMES = {"os": {"id": "debian", "codename": "bookworm", "version": "12"}, "arch": "x86_64"}


class Family:
    def __init__(self, guest: FakeGuest, project: Path, manager: str) -> None:
        self.guest, self.project, self.manager = guest, project, manager
        self.etc = guest.path("etc")
        self.etc.mkdir()
        for name in ("passwd", "group"):
            (self.etc / name).touch()
        self.index = guest.path("state/index")
        self.index.parent.mkdir()
        self.facts = Facts(os="other", codename="bookworm", manager=manager, names=NAMES)
        log = guest.path("log")
        for name in ("rpm", "pacman-key"):
            guest.program(name, f'echo "{name} $*" >>{log}\n')
        guest.program("gpg", "printf 'pub:-:4096:1:AAAA:::\\nfpr:::::::::00FF11:\\nsub:-:\\nfpr:::::::::BAD0:\\n'\n")

    def step(self, **options: Any) -> Alone:
        return Alone(self.guest, self.project, "repository", {"name": "own", **options}, self.facts)

    def applied(self, **options: Any) -> Alone:
        alone = self.step(**options)
        self.index.touch()
        shutil.rmtree(self.guest.path("files"), ignore_errors=True)
        done = alone.apply()
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        assert alone.changes() == ()
        assert not self.index.exists(), "the index is stale"
        assert [path for path in self.etc.rglob("*") if ".devbox-" in path.name] == []
        return alone

    def text(self, path: str) -> str:
        return (self.etc / path).read_text()

    def log(self) -> list[str]:
        path = self.guest.path("log")
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture(autouse=True)
def elsewhere(guest: FakeGuest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repository, "ETC", str(guest.path("etc")))


@pytest.fixture
def debian(guest: FakeGuest, project: Path) -> Family:
    return Family(guest, project, "apt")


def test_apt(debian: Family) -> None:
    debian.applied(url=URL, components=["main", "contrib"], architectures=["amd64"])
    assert debian.text("apt/sources.list.d/own.sources") == (
        "# Written by devbox.\nTypes: deb\nURIs: https://packages.example.org/x\nSuites: bookworm\n"
        "Components: main contrib\nArchitectures: amd64\n"
    )
    assert (debian.etc / "apt/sources.list.d/own.sources").stat().st_mode & 0o777 == 0o644


def test_apt_keys_by_their_sort(debian: Family) -> None:
    (debian.project / "k.gpg").write_bytes(BINARY)
    debian.applied(url=URL, key={"content": ARMOURED.decode()})
    keyrings = debian.etc / "apt/keyrings"
    assert (keyrings / "own.asc").read_bytes() == ARMOURED
    assert debian.text("apt/sources.list.d/own.sources").endswith(f"\nSigned-By: {keyrings}/own.asc\n")
    debian.applied(url=URL, key={"src": "k.gpg"})
    assert (keyrings / "own.gpg").read_bytes() == BINARY
    assert not (keyrings / "own.asc").exists()
    assert debian.text("apt/sources.list.d/own.sources").endswith(f"\nSigned-By: {keyrings}/own.gpg\n")
    debian.applied(url=URL)
    assert list(keyrings.iterdir()) == []
    assert "Signed-By" not in debian.text("apt/sources.list.d/own.sources")


def test_drift_is_found_and_mended(debian: Family) -> None:
    alone = debian.applied(url=URL, key={"content": ARMOURED.decode()})
    listed, key = debian.etc / "apt/sources.list.d/own.sources", debian.etc / "apt/keyrings/own.asc"
    right = listed.read_text()

    def fields() -> list[str]:
        return [change.field for change in alone.changes()]

    listed.write_text(right.replace("bookworm", "trixie"))
    assert fields() == ["Suites"]
    listed.write_text(f"{right}Trusted: yes")  # without a line's end
    assert fields() == ["Trusted"]
    listed.write_text(f"# a remark\n\n{right}")
    assert fields() == []
    listed.write_text(right.replace("own.asc", "other.asc"))
    assert fields() == ["Signed-By"]
    listed.unlink()
    assert "URIs" in fields()
    alone.apply()
    assert listed.read_text() == right
    key.write_bytes(b"other")
    assert fields() == ["key"]
    alone.apply()
    assert key.read_bytes() == ARMOURED
    key.unlink()
    key.mkdir()
    assert fields() == ["key"]
    assert "own.asc is a folder." in alone.apply().stderr
    key.rmdir()
    alone.apply()
    assert fields() == []
    for path in (key, listed):
        assert path.stat().st_mode & 0o777 == 0o644, "apt reads it as an account of its own"


def test_a_key_by_address_comes_with_the_run(debian: Family) -> None:
    sha256 = hashlib.sha256(BINARY).hexdigest()
    alone = debian.step(url=URL, key={"url": f"{URL}/gpg", "sha256": sha256})
    incoming = debian.guest.path("incoming")
    alone.head += f"incoming='{incoming}'\n"
    assert alone.apply().returncode == 75, "it asks for another run, which brings the key"
    assert not (debian.etc / "apt/sources.list.d/own.sources").exists()
    incoming.mkdir()
    (incoming / "key").write_bytes(BINARY)
    done = alone.apply()
    assert (done.returncode, done.stderr) == (0, "")
    assert alone.changes() == ()
    assert (debian.etc / "apt/keyrings/own.gpg").read_bytes() == BINARY
    (incoming / "key").unlink()
    listed = debian.etc / "apt/sources.list.d/own.sources"
    listed.write_text("Types: deb\n")
    assert "URIs" in [change.field for change in alone.changes()]


def test_gone(debian: Family) -> None:
    debian.applied(url=URL, key={"content": ARMOURED.decode()})
    gone = debian.step(state="absent")
    assert {change.new for change in gone.changes()} == {None}
    debian.applied(state="absent")
    assert list((debian.etc / "apt").rglob("own.*")) == []


@pytest.mark.parametrize(("manager", "folder"), [("dnf", "yum.repos.d"), ("zypper", "zypp/repos.d")])
def test_rpm(guest: FakeGuest, project: Path, manager: str, folder: str) -> None:
    family = Family(guest, project, manager)
    url = f"{URL}/$releasever/$basearch"
    family.applied(url=url, key={"content": ARMOURED.decode()})
    key = f"{guest.path('etc')}/pki/rpm-gpg/RPM-GPG-KEY-devbox-own"
    refresh = "autorefresh=1\n" if manager == "zypper" else ""
    assert family.text(f"{folder}/own.repo") == (
        f"# Written by devbox.\n[own]\nname=own\nbaseurl={url}\nenabled=1\n{refresh}gpgcheck=1\ngpgkey=file://{key}\n"
    )
    assert Path(key).read_bytes() == ARMOURED
    imports = [f"rpm --import {guest.path('files')}/key"] if manager == "zypper" else []
    assert family.log() == imports, "dnf takes the key when it is needed, zypper would ask"
    listed = family.etc / folder / "own.repo"
    listed.write_text(listed.read_text().replace("enabled=1", "enabled=0"))
    family.applied(url=url, key={"content": ARMOURED.decode()})
    assert family.log() == imports, "the key is trusted already"
    family.applied(state="absent")
    assert not listed.exists()
    assert not Path(key).exists()


def test_apk(guest: FakeGuest, project: Path) -> None:
    family = Family(guest, project, "apk")
    listed = family.etc / "apk/repositories"
    listed.parent.mkdir()
    listed.write_text("https://mirror.example.org/v3.20/main\n#https://mirror.example.org/edge/main")
    family.applied(url=f"{URL}/a")
    whole = "https://mirror.example.org/v3.20/main\n#https://mirror.example.org/edge/main\n# devbox: own\n"
    assert listed.read_text() == f"{whole}{URL}/a\n"
    listed.write_text(f"{listed.read_text()}# devbox: other\n{URL}/other\n")
    family.applied(url=f"{URL}/b")
    assert listed.read_text() == f"{whole}{URL}/b\n# devbox: other\n{URL}/other\n"
    assert family.step(name="other", url=f"{URL}/other").changes() == ()
    family.applied(state="absent")
    assert listed.read_text() == f"{whole.removesuffix('# devbox: own' + chr(10))}# devbox: other\n{URL}/other\n"


def test_apk_key(guest: FakeGuest, project: Path) -> None:
    family = Family(guest, project, "apk")
    (project / "me@example.org-1.rsa.pub").write_text("-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----\n")
    family.applied(url=URL, key={"src": "me@example.org-1.rsa.pub"})
    assert family.text("apk/keys/me@example.org-1.rsa.pub").startswith("-----BEGIN PUBLIC KEY")
    family.applied(state="absent", key={"src": "me@example.org-1.rsa.pub"})
    assert list((family.etc / "apk/keys").iterdir()) == []


def test_pacman(guest: FakeGuest, project: Path) -> None:
    family = Family(guest, project, "pacman")
    real = family.etc / "pacman.real"
    real.write_text("[options]\nSigLevel = Required\n\n[core]\nInclude = /etc/pacman.d/mirrorlist\n")
    (family.etc / "pacman.conf").symlink_to("pacman.real")
    url = f"{URL}/$repo/$arch"
    family.applied(url=url, key={"content": ARMOURED.decode()})
    files = guest.path("files")
    assert family.log() == [f"pacman-key --add {files}/key", "pacman-key --lsign-key 00FF11"]
    assert real.read_text().endswith(f"mirrorlist\n[own]\nServer = {url}\n")
    assert (family.etc / "pacman.conf").is_symlink()
    real.write_text(f"{real.read_text()}\n# mine\n[mine]\nServer = {URL}/mine\n")
    family.applied(url=url, gpgcheck=False)
    assert real.read_text() == (
        "[options]\nSigLevel = Required\n\n[core]\nInclude = /etc/pacman.d/mirrorlist\n"
        f"[own]\nServer = {url}\nSigLevel = Never\n\n# mine\n[mine]\nServer = {URL}/mine\n"
    )
    family.applied(state="absent")
    assert "own" not in real.read_text()
    assert "[mine]" in real.read_text()


def test_no_package_manager(guest: FakeGuest, project: Path) -> None:
    family = Family(guest, project, "")
    alone = family.step(url=URL)
    assert alone.state() is None
    assert "no package manager that devbox knows" in alone.apply().stderr


def test_through_the_engine(guest: FakeGuest, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key by address is fetched only when something is to be done; two channels, then one."""
    family = Family(guest, project, "apt")
    guest.program("apt-get", "exit 0\n")
    prelude = shell.prelude()
    assert prelude.count("\netc=/etc\n") == 1, "or this test would write to this computer's own"
    prelude = prelude.replace("\netc=/etc\n", f"\netc={family.etc}\n")
    monkeypatch.setattr(shell, "prelude", lambda: prelude)
    fetched: list[str] = []
    store = project / "store"
    store.mkdir()

    def ensure(url: str, sha256: str, *, title: str) -> Path:
        fetched.append(f"{title}: {url}")
        (store / sha256).write_bytes(ARMOURED)
        return store / sha256

    monkeypatch.setattr(artefacts, "path", lambda sha256: store / sha256)
    monkeypatch.setattr(artefacts, "ensure", ensure)
    key = {"url": f"{URL}/gpg", "sha256": hashlib.sha256(ARMOURED).hexdigest()}
    steps = (step("repository", {"name": "own", "url": URL, "suite": "stable", "key": key}),)
    context = guest.context(project)
    assert provision(guest, steps, context, Options(check=True)).ok
    assert fetched == []
    before = guest.channels
    assert provision(guest, steps, context, Options()).ok
    assert fetched == [f"key of own: {URL}/gpg"]
    assert guest.channels - before == 2
    assert (family.etc / "apt/keyrings/own.asc").read_bytes() == ARMOURED
    report = provision(guest, steps, context, Options())
    assert [outcome.status.value for outcome in report.outcomes] == ["same"]
    assert guest.channels - before == 3
    assert len(fetched) == 1
