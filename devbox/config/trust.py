"""What a Devboxfile asks of this computer, and which of it the user has approved for this checkout.

`capabilities` only reads. Approvals lie in the user's state, never in the repository, and are asked again only for
growth, and for code that changed.
"""

import hashlib
import ipaddress
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from devbox import fs, paths
from devbox.config import host_code
from devbox.config.model import Network, Project
from devbox.errors import DevboxError


@dataclass(frozen=True, slots=True, order=True)
class Capability:
    """One thing asked of this computer. `id` is stable; `implied`: whoever types `devbox up` means it anyway."""

    id: str
    sentence: str
    implied: bool = False

    def __str__(self) -> str:
        return self.sentence


def capabilities(project: Project) -> tuple[Capability, ...]:
    """Everything the project asks of this computer, sorted by id and without duplicates."""
    found = {
        capability.id: capability
        for one in (_folders, _ports, _box, _secrets, _rest, _code)
        for capability in one(project)
    }
    return tuple(found[id] for id in sorted(found))


def needing_approval(project: Project) -> tuple[Capability, ...]:
    """Those of the project's capabilities that typing `devbox up` in its folder does not imply."""
    return tuple(capability for capability in capabilities(project) if not capability.implied)


def _within(path: Path, project: Project) -> Path | None:
    """The path relative to the project's folder, links followed; None when it is outside."""
    real, root = path.resolve(), project.root.resolve()
    return real.relative_to(root) if real.is_relative_to(root) else None


def _folders(project: Project) -> Iterator[Capability]:
    for folder in project.machine.folders:
        mode, may = ("ro", "read") if folder.readonly else ("rw", "read and change")
        inside = _within(folder.host, project)
        where = f"project/{inside}" if inside is not None else os.fspath(folder.host.resolve())
        shown = "the project's folder" if inside == Path() else f"the folder {inside or folder.host.resolve()}"
        yield Capability(f"folder:{mode}:{where}", f"the machine may {may} {shown}", inside is not None)


def _ports(project: Project) -> Iterator[Capability]:
    for port in project.machine.ports:
        local = ipaddress.ip_address(port.bind).is_loopback
        number = "auto" if port.host is None else str(port.host)
        who = "programs on this computer" if local else f"other computers (through {port.bind})"
        door = f"port {number}" if port.host else "a free port"
        low = port.host is not None and port.host < 1024
        yield Capability(
            f"port:{port.protocol}:{port.bind}:{number}:{port.guest}",
            f"{who} reach the machine's port {port.guest} at {door}/{port.protocol}"
            + (" (one of the system's)" if low else ""),
            local and not low,
        )


def _box(project: Project) -> Iterator[Capability]:
    box = project.machine.box
    if box.url:
        yield Capability(f"box:url:{box.url}", f"the machine is made from the image at {box.url}")
    elif box.path is not None:
        inside = _within(box.path, project)
        where = f"project/{inside}" if inside is not None else os.fspath(box.path)
        yield Capability(f"box:path:{where}", f"the machine is made from the image file {inside or box.path}")
    elif box.recipe:
        yield Capability(f"box:recipe:{box.recipe}", f"the machine is made by the recipe {box.recipe}", implied=True)
    else:
        yield Capability(f"box:name:{box.name}", f"the machine is made from the box {box.name}", implied=True)


def _secrets(project: Project) -> Iterator[Capability]:
    """By what is read, under whichever name the steps see it.

    A file of the project itself is implied: its folder may be shared with the machine, so asking for one file of it
    would keep nothing from anybody. It is opened without following links, since the machine may make some there.
    """
    for secret in project.machine.secrets:
        ids: dict[str, object] = {"env": secret.env, "command": secret.command, "keyring": secret.keyring}
        kind, source = next(((kind, source) for kind, source in ids.items() if source), ("file", None))
        inside = _within(secret.file, project) if secret.file is not None else None
        if secret.file is not None:
            source = f"project/{inside}" if inside is not None else os.fspath(secret.file)
        shown = f"the file {inside}" if inside is not None else str(secret)
        where = ", which runs on this computer" if secret.command else ""
        yield Capability(
            f"secret:{kind}:{source if isinstance(source, str) else json.dumps(source)}",
            f"the machine's steps may read {shown}{where}",
            inside is not None,
        )


def _rest(project: Project) -> Iterator[Capability]:
    machine = project.machine
    network = {
        Network.INTERNET: "the machine reaches the internet through this computer",
        Network.NONE: "the machine reaches no network",
        Network.HOST: "the machine reaches the services on this computer's own loopback",
    }[machine.network]
    yield Capability(f"network:{machine.network}", network, machine.network is not Network.HOST)
    if machine.forward_agent:
        yield Capability("agent", "the machine may sign with your SSH keys while you are logged in to it")
    for path in machine.ca_certs:
        inside = _within(path, project)
        where = f"project/{inside}" if inside is not None else os.fspath(path.resolve())
        yield Capability(f"cert:{where}", f"the certificate {inside or path} is read", inside is not None)


def _code(project: Project) -> Iterator[Capability]:
    """The project's code that runs here; another digest is another capability, so code that changed is asked again."""
    for spec in project.machine.steps:
        local = spec.kind == "ansible" and host_code.playbook_options(spec.options).get("local", False)
        if spec.kind not in host_code.KINDS or local:
            continue
        try:
            code = host_code.of_step(spec, project.root)
        except DevboxError:
            continue  # A mistake in the step, which is said with its position when the steps are read.
        yield Capability(code.id, code.sentence)


def digest(asked: Sequence[Capability]) -> str:
    """A short name for exactly these capabilities, for `--approve=<hash>`."""
    return hashlib.sha256(json.dumps(sorted(one.id for one in asked)).encode()).hexdigest()[:16]


def missing(project: Project) -> tuple[Capability, ...]:
    """What needs an approval and has none yet."""
    approved = _approved(_file(project.root))
    return tuple(capability for capability in needing_approval(project) if capability.id not in approved)


def is_approved(root: Path, id: str) -> bool:
    """Whether the capability of this id has been approved for the project in `root`."""
    return id in _approved(_file(root))


def approve(project: Project) -> None:
    """Approve everything that the project asks for now, and nothing that it asked for earlier."""
    path = _file(project.root)
    kept = {
        "project": os.fspath(project.root.resolve()),
        "approved": [capability.id for capability in needing_approval(project)],
    }
    fs.make_private_dir(path.parent)
    fs.write_atomic(path, json.dumps(kept, indent=2).encode())


def _file(root: Path) -> Path:
    name = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()
    return paths.state_dir() / "approvals" / f"{name}.json"


def _approved(path: Path) -> frozenset[str]:
    try:
        kept = json.loads(path.read_bytes())["approved"]
    except (OSError, ValueError, KeyError, TypeError):
        return frozenset()  # None, or damaged: ask again.
    return frozenset(id for id in kept if isinstance(id, str)) if isinstance(kept, list) else frozenset()
