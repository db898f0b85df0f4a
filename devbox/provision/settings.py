"""The machine's own keys of the Devboxfile, as the implicit steps that go before the user's."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from urllib.parse import urlsplit, urlunsplit

from devbox.config.model import MachineSpec, StepSpec
from devbox.disk.data import Attached
from devbox.errors import DevboxError, ExitCode
from devbox.provision.kinds.settings import Settings

_HOST = "10.0.2.2"  # this computer, as QEMU's user network shows it to the guest
_LOOPBACK = ("localhost", "::1")
_NO_PROXY = ("localhost", "127.0.0.1", "::1")


def proxy_environment(proxy: str, environ: Mapping[str, str]) -> dict[str, str]:
    """The proxy variables that the guest gets, in small and in capital letters.

    `proxy` is the Devboxfile's: "inherit" takes them from `environ`, with this computer's loopback rewritten to the
    address by which the guest reaches it; "none" gives nothing; else it is the URL itself.
    """
    if proxy == "none":
        return {}
    if proxy == "inherit":
        given = {name: environ.get(name) or environ.get(name.upper()) or "" for name in ("http_proxy", "https_proxy")}
        exceptions = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    else:
        given, exceptions = {"http_proxy": proxy, "https_proxy": proxy}, ""
    found = {name: _for_guest(url) for name, url in given.items() if url}
    if not found:
        return {}
    names = dict.fromkeys((*_NO_PROXY, *(name.strip() for name in exceptions.split(",") if name.strip())))
    found["no_proxy"] = ",".join(names)
    return {**found, **{name.upper(): value for name, value in found.items()}}


def _for_guest(url: str) -> str:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    host = parts.hostname or ""
    if host not in _LOOPBACK and not host.startswith("127."):
        return urlunsplit(parts)
    login, at, _ = parts.netloc.rpartition("@")
    port = f":{parts.port}" if parts.port else ""
    return urlunsplit(parts._replace(netloc=f"{login}{at}{_HOST}{port}"))


def machine_steps(machine: MachineSpec, environ: Mapping[str, str]) -> tuple[StepSpec, ...]:
    """The step that carries out the machine's own keys. `environ` is this computer's, for `proxy: inherit`."""
    proxies = proxy_environment(machine.proxy, environ)
    try:
        certificates = tuple(_ended(path.read_bytes()) for path in machine.ca_certs)
    except OSError as error:
        raise DevboxError(
            "step.invalid",
            f"The certificate {error.filename} cannot be read: {error.strerror}.",
            hint="Correct `ca_certs` in the Devboxfile.",
            exit_code=ExitCode.USAGE,
        ) from error
    options = Settings(
        machine.hostname,
        machine.timezone,
        machine.locale,
        tuple({**proxies, **machine.env}.items()),
        tuple(machine.hosts.items()),
        machine.dns,
        certificates,
        tuple((name.partition("_")[0], proxies[name]) for name in ("http_proxy", "https_proxy") if name in proxies),
    )
    return (StepSpec("machine settings", "settings", options, position="Devboxfile"),)


def _ended(certificate: bytes) -> bytes:
    """With a line's end: certificates are joined to one text for their digest, in the guest too."""
    return certificate if certificate.endswith(b"\n") else certificate + b"\n"


def disk_step(disk: Attached, mount: PurePosixPath, owner: str) -> StepSpec:
    """The step that makes a data disk's file system, if it is blank, and mounts it."""
    options = {
        "name": disk.name,
        "serial": disk.serial,
        "uuid": disk.uuid,
        "size": disk.size,
        "path": str(mount),
        "owner": owner,
        "blank": disk.blank,
    }
    return StepSpec(f"disk {disk.name}", "disk", options, position="Devboxfile")


def mount_step(tag: str, type: str, guest: PurePosixPath, *, readonly: bool) -> StepSpec:
    """The step that mounts a synced folder; `type` is virtiofs or 9p."""
    options = {"tag": tag, "type": type, "path": str(guest), "readonly": readonly}
    return StepSpec(f"folder {guest}", "mount", options, position="Devboxfile")
