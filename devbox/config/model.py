"""What was asked, as frozen values: the one shape of a Devboxfile that the rest of devbox sees.

Sizes are bytes, durations seconds, paths absolute where they are the host's.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

from devbox.config.choices import Arch as Arch
from devbox.config.choices import Boot as Boot
from devbox.config.choices import Firmware as Firmware
from devbox.config.choices import FolderType as FolderType
from devbox.config.choices import Network as Network
from devbox.config.choices import SyncMode as SyncMode
from devbox.config.choices import When as When


@dataclass(frozen=True, slots=True)
class Digest:
    """A published digest: `algorithm` is sha256 or sha512, `value` is lower-case hexadecimal."""

    algorithm: str
    value: str

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.value}"


@dataclass(frozen=True, slots=True)
class BoxRef:
    """Which image is asked for; exactly one of `name`, `url`, `path`, `recipe` is set."""

    name: str = ""
    url: str = ""
    path: Path | None = None
    recipe: str = ""
    packages: tuple[str, ...] = ()  # with `recipe`: baked in
    digest: Digest | None = None
    format: str = "qcow2"  # or "raw"
    user: str = ""  # with `url` or `path`: the account that the image's publisher set up

    def __str__(self) -> str:
        return self.name or self.url or (f"{self.recipe} (recipe)" if self.recipe else str(self.path))


@dataclass(frozen=True, slots=True)
class User:
    name: str = "dev"
    uid: int = 1000
    gid: int = 1000
    shell: str = "/bin/bash"
    groups: tuple[str, ...] = ()

    @property
    def home(self) -> str:
        return f"/home/{self.name}"


@dataclass(frozen=True, slots=True)
class Folder:
    host: Path
    guest: PurePosixPath
    type: FolderType = FolderType.AUTO
    readonly: bool = False
    ignore: tuple[str, ...] = ()
    mode: SyncMode = SyncMode.PUSH  # of rsync only


@dataclass(frozen=True, slots=True)
class Disk:
    """A data disk, which outlives the machine; `mount` is where its file system is in there."""

    name: str
    size: int
    mount: PurePosixPath
    fs: str = "ext4"


@dataclass(frozen=True, slots=True)
class Port:
    """A forwarded port. `host` None means: one that is free, and stays the same for this machine."""

    guest: int
    host: int | None = None
    bind: str = "127.0.0.1"
    protocol: str = "tcp"  # or "udp"
    name: str = ""


@dataclass(frozen=True, slots=True)
class AutoPorts:
    """Which of the guest's listening TCP ports are forwarded: those of `first` to `last`, without the ignored ones."""

    ignore: tuple[tuple[int, int], ...] = ((22, 22),)  # ranges, both ends included
    first: int = 1
    last: int = 65535


@dataclass(frozen=True, slots=True)
class Socket:
    """A Unix socket of the guest that is to be on this computer, at `MachineDir.socket(name)`."""

    guest: PurePosixPath
    name: str


@dataclass(frozen=True, slots=True)
class Export:
    """A file of the guest that is copied to this computer, to `MachineDir.export(name)`."""

    guest: PurePosixPath
    name: str


@dataclass(frozen=True, slots=True)
class Secret:
    """A value for the steps that name it, and where it is to be read: exactly one of the other fields is set."""

    name: str  # of the variable that the steps see
    env: str = ""
    file: Path | None = None  # links followed
    command: tuple[str, ...] = ()
    keyring: tuple[str, str] | None = None  # service and user name

    def __str__(self) -> str:
        if self.env:
            return f"your environment variable {self.env}"
        if self.file is not None:
            return f"the file {self.file}"
        if self.command:
            return f"the output of `{shlex.join(self.command)}`"
        service, username = self.keyring or ("", "")
        return f"the keyring entry of {username} for {service}"


@dataclass(frozen=True, slots=True)
class StepSpec:
    """A step as written: `options` is the kind's own mapping, which the kind turns into its own value.

    `name` is unique within the machine; `user` is the guest account that does it ("" = the kind's default).
    `position` is `Devboxfile:line` for messages. `timeout` is in seconds, None for no limit.
    """

    name: str
    kind: str
    options: Any
    user: str = ""
    when: When = When.CHANGED
    needs: tuple[str, ...] = ()
    condition: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    tags: tuple[str, ...] = ()
    sensitive: bool = False
    secrets: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    timeout: float | None = None
    retries: int = 0
    cwd: str = ""
    position: str = ""
    identity: str = ""  # what its receipt is kept by; "" is its name
    layer: bool = True  # False: it and the steps after it are never part of a layer
    epoch: str = ""  # what `refresh` is today: it enters the digest


@dataclass(frozen=True, slots=True)
class Check:
    """A command that must succeed in the finished machine; `user` "" means the login account, `timeout` is seconds."""

    name: str
    run: str
    user: str = ""
    timeout: float = 60.0
    retries: int = 0
    cwd: str = ""
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    position: str = ""  # `Devboxfile:line`


@dataclass(frozen=True, slots=True)
class MachineSpec:
    name: str  # "default" in a file without `machines`
    boxes: Mapping[Arch, BoxRef]  # the architectures for which a box is given
    arch: Arch  # resolved: `native` became this computer's
    cpus: int = 2
    memory: int = 2 << 30
    disk: int = 20 << 30
    disks: tuple[Disk, ...] = ()
    firmware: Firmware = Firmware.AUTO
    boot: Boot = Boot.AUTO
    hostname: str = "devbox"
    timezone: str = ""
    locale: str = ""
    user: User = User()
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    folders: tuple[Folder, ...] = ()
    ports: tuple[Port, ...] = ()
    auto_ports: AutoPorts | None = None
    sockets: tuple[Socket, ...] = ()
    exports: tuple[Export, ...] = ()
    network: Network = Network.INTERNET
    hosts: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))  # name → address
    dns: tuple[str, ...] = ()
    ca_certs: tuple[Path, ...] = ()
    proxy: str = "inherit"  # "inherit", "none" or a URL
    forward_agent: bool = False
    secrets: tuple[Secret, ...] = ()
    steps: tuple[StepSpec, ...] = ()
    checks: tuple[Check, ...] = ()
    message: str = ""
    # Of a machine among several of one file:
    needs: tuple[str, ...] = ()  # the machines that are up and provisioned before this one starts
    primary: bool = False  # the one that `ssh` and `run` mean without a name
    autostart: bool = True  # whether `up` without names brings it up
    address: str = ""  # its own on the machines' private network; "" where there is none
    peers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))  # name → address, its own included

    @property
    def box(self) -> BoxRef:
        return self.boxes[self.arch]


@dataclass(frozen=True, slots=True)
class Project:
    root: Path  # the folder that holds the Devboxfile, absolute
    name: str
    machine: MachineSpec  # the one that is meant: the file's only one, or one of `machines`
    machines: tuple[MachineSpec, ...] = ()  # all of them in the file's order; empty where it has no `machines`

    @property
    def file(self) -> Path:
        return self.root / "Devboxfile"
