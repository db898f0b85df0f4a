"""A guest that is this computer: commands run by a local shell in a sandbox, and channels are counted.

devbox's own folders and the stand-ins for system programs lie below the sandbox; files of steps must be put there too.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from devbox.config.model import Arch, MachineSpec, StepSpec
from devbox.errors import DevboxError
from devbox.guest.connection import Input, Result
from devbox.provision.apply import Context, Report
from devbox.provision.journal import Places

Go = Callable[..., Report]
SHELLS = ("dash", "busybox", "bash")


@dataclass
class FakeGuest:
    root: Path
    shell: str
    channels: int = 0
    commands: list[str] = field(default_factory=list)
    lose_at: bytes = b""  # the connection breaks when the guest has said this

    def __post_init__(self) -> None:
        for folder in ("bin", "run", "var/lib", "var/log"):
            self.path(folder).mkdir(parents=True)
        if self.shell == "busybox":
            busybox = str(shutil.which("busybox"))
            listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
            for name in listed:
                # Its own package tools would hide the stand-ins' absence.
                if name not in {"dpkg", "rpm", "busybox"} and not (self.bin / name).exists():
                    (self.bin / name).symlink_to(busybox)
        else:
            (self.bin / "sh").symlink_to(str(shutil.which(self.shell)))

    @property
    def bin(self) -> Path:
        return self.root / "bin"

    def let_others_in(self) -> None:
        """Open the way to the guest for other accounts: pytest's own folders are closed to them."""
        top = Path(tempfile.gettempdir())
        for folder in (self.root, *(each for each in self.root.parents if top in each.parents)):
            folder.chmod(0o755)

    def program(self, name: str, text: str) -> None:
        """A stand-in for a system program."""
        (self.bin / name).unlink(missing_ok=True)
        (self.bin / name).write_text(f"#!/bin/sh\n{text}")
        (self.bin / name).chmod(0o755)

    def run(
        self,
        command: str,
        *,
        stdin: Input | None = None,
        timeout: float | None = None,
        on_output: Callable[[bytes], None] | None = None,
    ) -> Result:
        self.channels += 1
        self.commands.append(command)
        environment = {"PATH": f"{self.bin}:{os.environ['PATH']}", "HOME": str(self.root)}
        errors = self.root / f"stderr.{self.channels}"
        with errors.open("wb") as stderr:
            child = subprocess.Popen(
                [self.bin / "sh", "-c", command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment,
                cwd="/",
                start_new_session=True,
            )
            assert child.stdin is not None
            assert child.stdout is not None
            with child:
                with contextlib.suppress(BrokenPipeError):  # it may end without reading, as over SSH
                    for piece in (stdin,) if isinstance(stdin, bytes) else stdin or ():
                        child.stdin.write(piece)
                with contextlib.suppress(BrokenPipeError):
                    child.stdin.close()
                output = b""
                while data := os.read(child.stdout.fileno(), 1 << 16):
                    output += data
                    if on_output:
                        on_output(data)
                    if self.lose_at and self.lose_at in output:
                        self.lose_at = b""
                        os.killpg(child.pid, signal.SIGKILL)
                        raise DevboxError("guest.connection-lost", "The connection to the guest was lost.")
        return Result(child.returncode, b"" if on_output else output, errors.read_bytes())

    def put(self, data: bytes, path: str, mode: int) -> None:
        raise AssertionError("the engine sends everything over its own channels")

    def get(self, path: str) -> bytes:
        raise AssertionError("the engine sends everything over its own channels")

    def close(self) -> None:
        pass

    def path(self, name: str) -> Path:
        return self.root / name

    def context(self, project: Path, **machine: object) -> Context:
        """`root` as the login account, so that no sudo is asked for."""
        spec = MachineSpec("default", {}, Arch.X86_64, **machine)  # type: ignore[arg-type]
        places = Places(str(self.root), secrets_on_disk=True)
        return Context(project, "demo", spec, run_user="root", places=places, secret_key=b"this machine's")


def step(kind: str, options: object, name: str = "", **common: object) -> StepSpec:
    return StepSpec(name or f"{kind} step", kind, options, position="Devboxfile:7", **common)  # type: ignore[arg-type]
