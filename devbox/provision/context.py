"""What the host knows of the machine that it provisions: names for templates, the way in, the environment of steps."""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from devbox.config.model import MachineSpec
from devbox.provision import shell
from devbox.provision.journal import Places
from devbox.provision.report import Report
from devbox.provision.script import Gates

if TYPE_CHECKING:
    from devbox.guest.connection import Guest
    from devbox.guest.openssh import Endpoint


@dataclass(frozen=True, slots=True)
class Context:
    """`run_user` is the login account, `ports` are the forwarded ones by name.

    `connect` makes another connection to the guest, waiting for one that is booting; with `endpoint` it is what
    steps need that this computer carries out. With `at_gate` a run stops behind steps that cost much: it is told the
    step's place, has the guest to itself, and calls what it is given to let the run go on.
    """

    project_root: Path
    project_name: str
    machine: MachineSpec
    run_user: str
    ports: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    proxies: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))  # settings.proxy_environment
    slowdown: float = 1.0
    places: Places = Places()
    connect: "Callable[[], Guest] | None" = None
    endpoint: "Endpoint | None" = None
    secret_key: bytes = field(default=b"", repr=False)  # this machine's, for the digests of secrets
    at_gate: "Callable[[int, Guest, Callable[[], None]], None] | None" = None
    gates: Gates = Gates()
    foreseen: Callable[[Report], None] | None = None  # hears, before anything is done, what there is to do
    ended: Callable[[Report], None] | None = None  # hears how it went, however that was

    @property
    def names(self) -> dict[str, Any]:
        """What templates see, beside `arch`, `os` and `vars`."""
        account = self.machine.user
        return {
            "name": self.project_name,
            "hostname": self.machine.hostname,
            "user": {"name": account.name, "uid": account.uid, "gid": account.gid, "home": account.home},
            "ports": dict(self.ports),
            "env": dict(self.machine.env),
        }

    @property
    def env(self) -> dict[str, str]:
        """What every step finds in its environment."""
        return {**self.proxies, **self.machine.env}

    def run(self) -> shell.Run:
        return shell.Run(secrets.token_hex(16), self.places, self.env)
