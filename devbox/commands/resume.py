"""`devbox resume`: lets a machine go on that was suspended, or that met a full disk on this computer."""

from contextlib import suppress
from pathlib import Path

from devbox import paths, ui
from devbox.commands import sleeping, target
from devbox.commands.beside import MachineOption
from devbox.disk import record as records
from devbox.disk.record import Record
from devbox.errors import DevboxError
from devbox.machine import hardware, lifecycle, started


def resume(machine: MachineOption = records.MAIN) -> None:
    """Let a suspended or paused machine go on."""
    record = target.existing(machine)
    with records.locked(record):
        if not sleeping.go_on(record):
            lifecycle.resume(record)
        _say_what_waits(record)
    ui.done("The machine goes on.")


def _say_what_waits(record: Record) -> None:
    """What the Devboxfile asks for by now and only a restart could bring. A mistake in it keeps nobody out."""
    from devbox.commands import rebuild
    from devbox.config import build
    from devbox.machine import argv

    with suppress(DevboxError):
        vm = hardware.last(record)
        machine = rebuild.as_made(build.load(paths.find_project(Path.cwd()))).machine
        if waiting := started.differs(record, argv.spec(record, machine, forwards=vm.forwards, mounts=vm.mounts)):
            ui.warn(f"It goes on with another {', '.join(waiting)} than the Devboxfile says: `devbox reload`.")
