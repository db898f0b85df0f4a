"""The Devboxfile of a folder in, its `Project` out: read, checked, defaults filled in. Changes nothing outside.

Every mistake, of the file's form and of what it says, is reported at once with its line.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from devbox import paths, ui
from devbox.config import addresses, box_names, checks, document, local, remembered, secrets, steps, values
from devbox.config.draft import Draft
from devbox.config.model import (
    Arch,
    Boot,
    BoxRef,
    Digest,
    Disk,
    Export,
    Firmware,
    Folder,
    MachineSpec,
    Network,
    Port,
    Project,
    Socket,
    User,
)
from devbox.config.problems import Document, Place, fail, show
from devbox.config.values import Host, Mistake
from devbox.errors import DevboxError, ExitCode
from devbox.version import __version__

FORMAT = 1
N = TypeVar("N", Socket, Export)
_NATIVE = {"x86_64": Arch.X86_64, "amd64": Arch.X86_64, "aarch64": Arch.AARCH64, "arm64": Arch.AARCH64}
_WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared with, never bound to
_LEAST_MEMORY = 64 << 20
_LEAST_DISK = 64 << 20
_DEFAULTS = MachineSpec("default", {}, Arch.X86_64)


def load(root: Path, host: Host | None = None, *, committed: bool = False) -> Project:
    """The project whose Devboxfile lies in `root`. Digests that its steps leave out come from Devboxfile.lock.

    `committed`: as it is for everybody, without Devboxfile.local, and as it is written, without what the lock adds.
    Raises `config.invalid` with every mistake, `config.unreadable`, `config.version` and `config.requires`.
    """
    root = root.absolute()
    contents = [document.read_bytes(root / paths.DEVBOXFILE)]
    own = os.path.lexists(root / paths.LOCAL_FILE)
    if own and not committed:
        contents.append(document.read_bytes(root / paths.LOCAL_FILE))
    known = remembered.recall(root, contents)
    asked = known or _read(contents)
    problems = [] if known else _problems(asked)
    draft = Draft(asked, problems)
    project = _project(draft, root, host or values.this_host())
    if draft.problems:
        fail(draft.problems)
    if not known and not (own and committed):  # one is remembered, and the other one is asked for more often
        remembered.remember(root, contents, asked)
    return project if committed else addresses.completed(project)


def _read(contents: list[bytes]) -> Document:
    asked = _mapping(document.load_bytes(contents[0], paths.DEVBOXFILE))
    if len(contents) > 1:
        own = document.load_bytes(contents[1], paths.LOCAL_FILE)
        if own.data is not None or own.problems:
            asked = local.merge(asked, _mapping(own))
    _refuse_other_versions(asked)
    return asked


def _mapping(read: Document) -> Document:
    """The document, whose data is a mapping; when it is not, that is a problem, and an empty one takes its place."""
    if isinstance(read.data, dict):
        return read
    problems = read.problems
    if not read.incomplete:
        what = "is empty; `devbox init` writes one" if read.data is None else "must be a mapping (`key: value` lines)"
        problems = (*problems, read.problem((), f"the file {what}"))
    return replace(read, data={}, problems=problems, incomplete=True)


def _refuse_other_versions(asked: Document) -> None:
    """A file that is meant for another devbox: its other mistakes are none, so they are not listed."""
    version, requires = asked.data.get("version"), asked.data.get("requires")
    if type(version) is int and version > FORMAT:
        raise DevboxError(
            "config.version",
            f"{asked.where(('version',))}: this file is written in format {version}, and devbox {__version__} reads "
            f"format {FORMAT}.",
            hint="Update devbox.",
            exit_code=ExitCode.USAGE,
        )
    try:
        wrong = isinstance(requires, str) and not values.fits(__version__, requires)
    except Mistake:
        return  # The schema says what is wrong with it.
    if wrong:
        raise DevboxError(
            "config.requires",
            f"{asked.where(('requires',))}: this file asks for devbox {show(requires)}, and this is {__version__}.",
            hint="Install a devbox that fits.",
            exit_code=ExitCode.USAGE,
        )


def _problems(asked: Document) -> list[Any]:
    from devbox.config import contract  # noqa: PLC0415 - 90 ms that a remembered document does not need

    return [*asked.problems, *contract.check(asked, "devboxfile")]


def _project(draft: Draft, root: Path, host: Host) -> Project:
    name = draft.get(("name",), values.slug(root.name))
    return Project(root, name, _machine(draft, root, name, host))


def _machine(draft: Draft, root: Path, name: str, host: Host) -> MachineSpec:
    arch = _arch(draft, host)
    user = _user(draft)
    return MachineSpec(
        name="default",
        boxes=_boxes(draft, root, arch),
        arch=arch,
        cpus=_cpus(draft, host),
        memory=_memory(draft, host),
        disk=draft.make(("disk",), lambda text: _at_least(text, _LEAST_DISK), _DEFAULTS.disk),
        disks=_disks(draft, user),
        firmware=Firmware(draft.get(("firmware",), "auto")),
        boot=Boot(draft.get(("boot",), "auto")),
        hostname=draft.get(("hostname",), name.strip("-") or "devbox"),
        timezone=draft.get(("timezone",), ""),
        locale=draft.get(("locale",), ""),
        user=user,
        env=steps.env(draft, ("env",)),
        folders=_folders(draft, root, user),
        ports=_ports(draft),
        auto_ports=draft.make(("auto_ports",), values.auto_ports, None),
        sockets=_named(draft, "sockets", Socket),
        exports=_named(draft, "exports", Export),
        network=Network(draft.get(("network",), "internet")),
        hosts=MappingProxyType({str(place[-1]): ip for place, ip in draft.each(("hosts",), values.address)}),
        dns=tuple(ip for _, ip in draft.each(("dns",), values.address)),
        ca_certs=tuple(path for _, path in draft.each(("ca_certs",), lambda text: values.existing_file(text, root))),
        proxy=draft.get(("proxy",), "inherit"),
        forward_agent=draft.get(("forward_agent",), default=False),
        secrets=secrets.build(draft, root),
        steps=steps.build(draft),
        checks=checks.build(draft),
        message=draft.get(("message",), ""),
    )


def native(machine: str) -> Arch:
    """This computer's architecture by the name that its kernel gives it. Raises `config.native-arch`."""
    if machine not in _NATIVE:
        raise DevboxError(
            "config.native-arch",
            f"This computer is a {machine}, and boxes are made for {' and '.join(Arch)}.",
            hint="Set `arch: x86_64` in the Devboxfile to run emulated.",
            exit_code=ExitCode.USAGE,
        )
    return _NATIVE[machine]


def _arch(draft: Draft, host: Host) -> Arch:
    asked = draft.get(("arch",), "native")
    return native(host.machine) if asked == "native" else Arch(asked)


def _cpus(draft: Draft, host: Host) -> int:
    asked = draft.get(("cpus",))
    if asked is None:
        return min(_DEFAULTS.cpus, host.cpus)
    if asked > host.cpus:
        draft.problem(("cpus",), f"asks for {asked:.0f} processors, but this computer has {host.cpus}")
    return int(asked)


def _memory(draft: Draft, host: Host) -> int:
    def convert(text: str) -> int:
        count = _at_least(text, _LEAST_MEMORY)
        if count > host.memory:
            raise Mistake(f"asks for {text}, but this computer has {ui.size(host.memory)}")
        return count

    return draft.make(("memory",), convert, min(_DEFAULTS.memory, host.memory))


def _at_least(text: str, least: int) -> int:
    count = values.size(text)
    if count < least:
        raise Mistake(f"must be at least {values.size_text(least)}, not `{text}`")
    return count


def _user(draft: Draft) -> User:
    default = User()
    return User(
        draft.get(("user", "name"), default.name),
        int(draft.get(("user", "uid"), default.uid)),
        int(draft.get(("user", "gid"), default.gid)),
        draft.get(("user", "shell"), default.shell),
        tuple(draft.get(("user", "groups"), default.groups)),
    )


def _boxes(draft: Draft, root: Path, arch: Arch) -> Mapping[Arch, BoxRef]:
    asked = draft.get(("box",))
    if asked is None:
        return MappingProxyType({arch: BoxRef()})  # The schema has said that it is missing.
    if isinstance(asked, dict) and asked.keys() & set(Arch):
        boxes = {Arch(key): _box(draft, ("box", key), value, root) for key, value in asked.items()}
    else:
        # A name or a recipe stands for all architectures, an image for one.
        one = _box(draft, ("box",), asked, root)
        boxes = {each: one for each in Arch if each is arch or one.name or one.recipe}
    if arch not in boxes:
        given = " and ".join(boxes)
        draft.problem(("box",), f"has an image for {given} only, and this machine is {arch}")
        return MappingProxyType({arch: BoxRef()})
    path = boxes[arch].path
    if path and not path.is_file():
        draft.problem(("box",), f"the image {path} does not exist on this computer")
    return MappingProxyType(boxes)


def _box(draft: Draft, place: Place, value: str | Mapping[str, Any], root: Path) -> BoxRef:
    if isinstance(value, str):
        if problem := box_names.problem_with(value):
            draft.problem(place, problem)
        return BoxRef(name=value)
    path = draft.make((*place, "path"), lambda text: values.host_path(text, root), None)
    algorithm = next((name for name in ("sha256", "sha512") if name in value), "")
    return BoxRef(
        url=value.get("url", ""),
        path=path,
        recipe=value.get("recipe", ""),
        packages=tuple(value.get("packages", ())),
        digest=Digest(algorithm, value[algorithm].lower()) if algorithm else None,
        format=value.get("format", "qcow2"),
        user=value.get("user", ""),
    )


def _folders(draft: Draft, root: Path, user: User) -> tuple[Folder, ...]:
    if "folders" not in draft.document.data:
        return (values.folder(".:/workspace", root),)
    found: list[Folder] = []
    lines: dict[str, int] = {}
    for place, folder in draft.each(("folders",), lambda value: values.folder(value, root)):
        guest = str(folder.guest)
        if guest == user.home:
            draft.problem(place, f"a folder at `{guest}` would hide the account's own files, its login key among them")
        elif guest in lines:
            draft.problem(place, f"line {lines[guest]} shares a folder at `{guest}` already")
        lines[guest] = draft.document.where(place).line
        found.append(folder)
    return tuple(found)


def _disks(draft: Draft, user: User) -> tuple[Disk, ...]:
    found: list[Disk] = []
    for place, disk in draft.each(("disks",), lambda value: values.disk(value, _LEAST_DISK)):
        if any(disk.name == other.name for other in found):
            draft.problem(place, f"there is a disk with the name `{disk.name}` already")
        if any(disk.mount == other.mount for other in found):
            draft.problem(place, f"another disk is mounted at `{disk.mount}` already")
        if str(disk.mount) == user.home:
            draft.problem(
                place, f"a disk at `{disk.mount}` would hide the account's own files, its login key among them"
            )
        found.append(disk)
    return tuple(found)


def _named(draft: Draft, key: str, kind: type[N]) -> tuple[N, ...]:
    """The sockets or exports: each has a path in the guest and a name of its own."""
    found: dict[str, N] = {}
    for place, one in draft.each((key,), lambda value: kind(values.guest_folder(value["guest"]), value["name"])):
        if one.name in found:
            draft.problem(place, f"the name `{one.name}` is taken by another one of them")
        found[one.name] = one
    return tuple(found.values())


def _ports(draft: Draft) -> tuple[Port, ...]:
    found: list[tuple[int, Port]] = []
    for place, port in draft.each(("ports",), values.port):
        line = draft.document.where(place).line
        for other_line, other in found:
            if port.name and port.name == other.name:
                draft.problem(place, f"the port in line {other_line} has the name `{port.name}` already")
            if _same_door(port, other):
                draft.problem(place, f"line {other_line} forwards this computer's port {port.host} already")
        found.append((line, port))
    return tuple(port for _, port in found)


def _same_door(one: Port, other: Port) -> bool:
    if one.host is None or (one.host, one.protocol) != (other.host, other.protocol):
        return False
    return one.bind == other.bind or bool({one.bind, other.bind} & _WILDCARDS)
