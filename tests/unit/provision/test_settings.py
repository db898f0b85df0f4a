"""The machine's keys as steps: proxies for the guest, certificates, mounts."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest

from devbox.config.model import Arch, MachineSpec
from devbox.errors import DevboxError
from devbox.provision import shell
from devbox.provision.facts import Facts
from devbox.provision.kinds import settings as kind
from devbox.provision.kinds.settings import Settings
from devbox.provision.settings import machine_steps, mount_step, proxy_environment
from devbox.provision.step import State, parse_state
from tests.unit.provision.fake import FakeGuest


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("http://127.0.0.1:3128", "http://10.0.2.2:3128"),
        ("http://localhost:3128/", "http://10.0.2.2:3128/"),
        ("http://me:pa%3Ass@127.1.2.3:3128", "http://me:pa%3Ass@10.0.2.2:3128"),
        ("http://[::1]:8080", "http://10.0.2.2:8080"),
        ("localhost:3128", "http://10.0.2.2:3128"),
        ("http://proxy.corp:3128", "http://proxy.corp:3128"),
    ],
)
def test_loopback_is_rewritten(given: str, expected: str) -> None:
    found = proxy_environment("inherit", {"HTTP_PROXY": given, "no_proxy": "corp, 10.0.0.0/8"})
    assert found["http_proxy"] == found["HTTP_PROXY"] == expected
    assert found["NO_PROXY"] == "localhost,127.0.0.1,::1,corp,10.0.0.0/8"
    assert "https_proxy" not in found


def test_proxies_by_choice() -> None:
    environ = {"http_proxy": "http://proxy:1"}
    assert proxy_environment("none", environ) == {}
    assert proxy_environment("inherit", {}) == {}
    assert proxy_environment("http://other:2", environ)["https_proxy"] == "http://other:2"


def machine(**keys: object) -> MachineSpec:
    return MachineSpec("default", {}, Arch.X86_64, **keys)  # type: ignore[arg-type]


def test_machine_steps(tmp_path: Path) -> None:
    certificate = tmp_path / "ca.crt"
    certificate.write_text("PEM")
    spec = machine(env={"A": "1"}, hosts={"db": "10.0.0.5"}, ca_certs=(certificate,), timezone="UTC")
    (made,) = machine_steps(spec, {"https_proxy": "http://proxy:1"})
    options = made.options
    assert isinstance(options, Settings)
    assert dict(options.env)["A"] == "1"
    assert dict(options.env)["https_proxy"] == "http://proxy:1"
    assert options.hosts_block == ("10.0.0.5 db",)
    assert options.ca_certs == (b"PEM\n",)
    assert options.apt_file == b'Acquire::https::Proxy "http://proxy:1";\n'


def test_a_certificate_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(DevboxError, match="cannot be read: No such file"):
        machine_steps(machine(ca_certs=(tmp_path / "none",)), {})


def test_a_mount_step() -> None:
    made = mount_step("devbox1", "9p", PurePosixPath("/workspace"), readonly=True)
    assert (made.name, made.kind, made.options["readonly"]) == ("folder /workspace", "mount", True)


FACTS = Facts(manager="apt")
CUT_OFF = "kill -9 $PPID"


@dataclass
class Root:
    """The settings' own shell text, with the paths of the system below the sandbox."""

    guest: FakeGuest

    def text(self, body: str) -> str:
        for path in ("/etc/", "/usr/", "/run/systemd/resolve", "/proc/sys/kernel/hostname"):
            body = body.replace(path, f"{self.guest.root}{path}")
        words = f"state={self.guest.root}/var/lib/devbox files={self.guest.root}/files manager=apt"
        return f"{shell.prelude()}\n{words}\n{body}"

    def probe(self, settings: Settings) -> State | None:
        script = f"{shell.load(kind.reads(settings))}\n{kind.probe(settings)}"
        return parse_state(self.guest.run(self.text(script)).stdout.decode())

    def apply(self, settings: Settings) -> bool:
        action = kind.apply(settings, FACTS)
        files = self.guest.path("files")
        files.mkdir(exist_ok=True)
        for old in files.iterdir():
            old.unlink()
        for name, data in action.files.items():
            (files / name).write_bytes(data)
        self.guest.path("script").write_text(self.text(action.script.decode()))
        return self.guest.run(f"sh -e {self.guest.path('script')}").status == 0

    def is_same(self, settings: Settings) -> bool:
        return self.probe(settings) == kind.desired(settings, FACTS)


@pytest.fixture
def root(guest: FakeGuest) -> Root:
    for folder in ("etc", "usr/share/zoneinfo/Europe", "proc/sys/kernel", "run/systemd/resolve"):
        guest.path(folder).mkdir(parents=True)
    for name, text in {
        "etc/hosts": "127.0.0.1 localhost\n",
        "etc/hostname": "old\n",
        "etc/timezone": "UTC\n",
        "proc/sys/kernel/hostname": "old\n",
        "usr/share/zoneinfo/Europe/Berlin": "",
    }.items():
        guest.path(name).write_text(text)
    for name in ("update-ca-certificates", "systemctl"):
        guest.program(name, f"echo {name} >>{guest.path('told')}\n")
    return Root(guest)


@pytest.mark.parametrize("cut_off", [CUT_OFF, "exit 1"])
@pytest.mark.parametrize(
    ("program", "there", "other"),
    [
        ("update-ca-certificates", Settings(ca_certs=(b"one\n", b"two\n")), Settings(ca_certs=(b"three\n",))),
        ("systemctl", Settings(dns=("10.0.0.1",)), Settings(dns=("10.0.0.2", "10.0.0.3"))),
    ],
)
def test_what_was_not_told_to_the_program_is_not_there_yet(
    root: Root, program: str, there: Settings, other: Settings, cut_off: str
) -> None:
    real = (root.guest.bin / program).read_text().removeprefix("#!/bin/sh\n")
    for settings in (there, other, Settings()):
        assert not root.is_same(settings)
        root.guest.program(program, cut_off)
        assert not root.apply(settings)
        assert not root.is_same(settings), "its files are there, its effect is not"
        root.guest.program(program, real)
        root.guest.path("told").write_text("")
        assert root.apply(settings)
        assert root.guest.path("told").read_text() == f"{program}\n"
        assert root.is_same(settings)
        assert root.apply(settings)
        assert root.guest.path("told").read_text() == f"{program}\n", "once is enough"


def test_a_change_taken_back_after_it_was_cut_off(root: Root) -> None:
    one, two = Settings(ca_certs=(b"one\n",)), Settings(ca_certs=(b"two\n",))
    assert root.apply(one)
    real = (root.guest.bin / "update-ca-certificates").read_text().removeprefix("#!/bin/sh\n")
    root.guest.program("update-ca-certificates", CUT_OFF)
    assert not root.apply(two)
    assert not root.apply(one)
    assert not root.is_same(one)
    root.guest.program("update-ca-certificates", real)
    assert root.apply(one)
    assert root.is_same(one)


def test_of_two_files_the_one_that_the_probe_sees_comes_last(root: Root) -> None:
    named = Settings(hostname="box")
    root.guest.path("etc/hosts").rename(root.guest.path("away"))
    root.guest.path("etc/hosts").mkdir()
    assert not root.apply(named)
    root.guest.path("etc/hosts").rmdir()
    root.guest.path("away").rename(root.guest.path("etc/hosts"))
    assert not root.is_same(named)
    assert root.apply(named)
    assert root.is_same(named)
    assert "127.0.1.1 box\n" in root.guest.path("etc/hosts").read_text()
    zone = Settings(timezone="Europe/Berlin")
    root.guest.path("etc/timezone").unlink()
    root.guest.path("etc/timezone").mkdir()
    assert not root.apply(zone)
    assert not root.is_same(zone)
    root.guest.path("etc/timezone").rmdir()
    root.guest.path("etc/timezone").touch()
    assert root.apply(zone)
    assert root.is_same(zone)
    assert root.guest.path("etc/timezone").read_text() == "Europe/Berlin\n"
