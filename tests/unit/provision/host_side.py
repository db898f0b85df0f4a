"""What a step of this computer finds, and a real sshd that plays the guest for it."""

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from devbox.config import trust
from devbox.config.model import Arch, BoxRef, MachineSpec, Project, StepSpec
from devbox.guest import connection
from devbox.guest.openssh import Endpoint
from devbox.provision.bind import bind
from devbox.provision.facts import Facts
from devbox.provision.step import HostResult, HostSide
from tests.unit.guest import sshd

NOWHERE = Endpoint(1, "root", Path("/nonexistent"), Path("/nonexistent"))


def approve(root: Path, *steps: StepSpec) -> None:
    """As somebody does who looked at what the steps run here."""
    machine = MachineSpec("default", {Arch.X86_64: BoxRef(name="debian-12")}, Arch.X86_64, steps=steps)
    trust.approve(Project(root, "demo", machine))


@dataclass
class Side:
    """Carries steps out on this computer; `output` is what they said."""

    root: Path
    guest: Any
    endpoint: Endpoint = NOWHERE
    secrets: dict[str, str] = field(default_factory=dict)
    output: bytearray = field(default_factory=bytearray)
    connect: Callable[[], Any] | None = None

    def carry_out(self, spec: StepSpec, *, approved: bool = True) -> HostResult:
        (step,) = bind((spec,), self.root, "dev")
        if approved:
            approve(self.root, spec)
        assert step.kind.host is not None
        self.output.clear()
        side = HostSide(
            guest=self.guest,
            connect=self.connect or (lambda: self.guest),
            endpoint=self.endpoint,
            spec=spec,
            root=self.root,
            facts=Facts(os="debian", names={"name": "demo", "hostname": "box"}),
            env={},
            secrets=self.secrets,
            output=self.output.extend,
        )
        return step.kind.host(step.options, side)

    @property
    def said(self) -> str:
        return self.output.decode()


@contextmanager
def over_ssh(folder: Path, project: Path) -> Iterator[Side]:
    # The PATH of whoever runs the tests: Ansible looks for a Python there.
    with (
        sshd.serve(folder, options=("Subsystem sftp internal-sftp",), programs="/usr/bin:/bin") as server,
        connection.connect(server.endpoint, 30) as guest,
    ):
        yield Side(project, guest, server.endpoint, connect=lambda: connection.connect(server.endpoint, 30))


def with_ansible(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts the Ansible of the `dev` extra on PATH; skips where there is none."""
    beside = Path(sys.executable).parent
    found = beside / "ansible-playbook" if (beside / "ansible-playbook").exists() else shutil.which("ansible-playbook")
    if found is None:
        pytest.skip("Ansible is not installed")
    monkeypatch.setenv("PATH", f"{Path(found).parent}:/usr/bin:/bin:/usr/sbin:/sbin")
