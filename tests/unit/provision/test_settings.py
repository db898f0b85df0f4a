"""The machine's keys as steps: proxies for the guest, certificates, mounts."""

from pathlib import Path, PurePosixPath

import pytest

from devbox.config.model import Arch, MachineSpec
from devbox.errors import DevboxError
from devbox.provision.kinds.settings import Settings
from devbox.provision.settings import machine_steps, mount_step, proxy_environment


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
