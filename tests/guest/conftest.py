"""Real machines from the tiny guest: made by the real stages, run by the real QEMU, in folders with awkward names."""

import functools
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from devbox.box.store import Image
from devbox.box.traits import Traits
from devbox.config.model import Arch, BoxRef, Firmware, MachineSpec, Project
from devbox.disk import overlay, record, seed
from devbox.disk.record import Record
from devbox.machine import argv, host, lifecycle, process
from devbox.machine.argv import VmSpec
from devbox.machine.host import HostFacts
from devbox.machine.lifecycle import Running
from tests.checkout import a_person
from tests.tiny import default_cache, tiny_image

AWKWARD = "st, \"a't e"  # a comma, quotes and spaces
SSH_WAIT = 120.0  # seconds for the tiny guest to boot; it needs about six on an idle computer under emulation


@functools.cache
def host_facts(arch: Arch = Arch.X86_64) -> HostFacts:
    return host.probe(arch)


def tiny() -> Image:
    path, sha256 = tiny_image(default_cache())
    traits = Traits(label="tiny", arch=Arch.X86_64, os="debian", user="dev", lacks=frozenset({"9p"}))
    return Image(sha256=sha256, path=path, format="qcow2", virtual_size=1 << 30, traits=traits)


@dataclass
class Machine:
    """A machine on disk, and short names for what the tests do with it."""

    spec: MachineSpec
    record: Record
    vm: VmSpec
    facts: HostFacts

    def start(self, **changes: Any) -> Running:
        vm = argv.spec(self.record, self.spec, **changes) if changes else self.vm
        return lifecycle.ensure_running(self.record, vm, self.facts)

    def ssh(self, command: str, *, wait: float = 0) -> str:
        """What the command prints in the guest; `wait` gives the guest time to boot. The host key is checked."""
        deadline = time.monotonic() + wait
        folder = plain_name(self.record.dir.folder)
        while True:
            port = lifecycle.observe(self.record).ssh_port
            assert port is not None, "the machine does not run"
            options = ["BatchMode=yes", f"UserKnownHostsFile={folder}/known_hosts", "ConnectTimeout=10"]
            options += ["ServerAliveInterval=10", "ServerAliveCountMax=6"]  # a paused guest keeps no test for ever
            words = ["ssh", "-F", "none", "-i", f"{folder}/id_ed25519", "-p", str(port)]
            words += [word for option in options for word in ("-o", option)]
            done = subprocess.run([*words, f"{self.record.user}@127.0.0.1", command], capture_output=True, check=False)
            if done.returncode == 0:
                return done.stdout.decode()
            if time.monotonic() >= deadline:
                serial = self.record.dir.serial_log.read_bytes()[-2000:].decode(errors="replace")
                raise AssertionError(f"{command}: {done.returncode} {done.stderr.decode()}\n{serial}")
            time.sleep(0.2)

    def boot(self, **changes: Any) -> Running:
        running = self.start(**changes)
        self.ssh("true", wait=SSH_WAIT)
        return running

    def qemu(self) -> int | None:
        """The process that runs it, found without any of devbox's own means of finding it."""
        return process.find_qemu(self.record.uuid)


def plain_name(folder: Path) -> Path:
    """A link to the folder whose name needs no quoting: OpenSSH before 8.7 has no way to write a quote in an option."""
    link = Path(os.environ["HOME"]) / f"link-{folder.name}"
    if not link.is_symlink():
        link.symlink_to(folder)
    return link


@pytest.fixture(scope="module")
def person() -> Iterator[dict[str, str]]:
    """Somebody with folders of their own, for the tests of a module that use the installed command."""
    with a_person() as env:
        yield env


@pytest.fixture
def new_machine(devbox_dirs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Machine]]:
    """Makes machines from the tiny image; each is stopped at the end, and must leave no process."""
    facts = host_facts()
    state, runtime = devbox_dirs / AWKWARD, Path(tempfile.mkdtemp(prefix="d,x ", dir="/tmp"))
    monkeypatch.setenv("DEVBOX_STATE_DIR", os.fspath(state))
    monkeypatch.setenv("DEVBOX_RUNTIME_DIR", os.fspath(runtime))
    made: list[Machine] = []

    def make(name: str = "one", *, firmware: Firmware = Firmware.BIOS, **changes: Any) -> Machine:
        root = devbox_dirs / "projects" / f'{name}, "the" project\'s'
        root.mkdir(parents=True)
        spec = MachineSpec(
            name="default",
            boxes={Arch.X86_64: BoxRef(path=tiny().path)},
            arch=Arch.X86_64,
            **{"memory": 256 << 20, "disk": 1 << 30, "hostname": name, **changes},
        )
        kept = record.ensure(Project(root, name, spec), tiny(), firmware)
        overlay.ensure(kept, tiny())
        seed.ensure(kept, spec)
        made.append(Machine(spec, kept, argv.spec(kept, spec), facts))
        return made[-1]

    yield make
    left = []
    for machine in made:
        if machine.record.dir.folder.is_dir():
            lifecycle.halt(machine.record, force=True)
        left.append(machine.qemu())
    shutil.rmtree(runtime, ignore_errors=True)
    assert left == [None] * len(made)


@pytest.fixture
def machine(new_machine: Callable[..., Machine]) -> Machine:
    return new_machine()
