"""`devbox clone NAME`: a second machine out of this project's one, as it is now, for an experiment."""

from pathlib import Path
from typing import Annotated

import typer

from devbox import proc, ui
from devbox.commands import beside, target
from devbox.disk import chain, identity
from devbox.disk import record as records
from devbox.disk.record import Record
from devbox.errors import DevboxError
from devbox.guest import openssh
from devbox.machine import lifecycle
from devbox.machine.lifecycle import State

_DEEPEST = 32  # files under a disk; `disk.chain` knows twice as many
_PATIENCE = 180.0  # seconds for a guest to write out what it has in memory


def clone(
    name: Annotated[str, typer.Argument(metavar="NAME", help="How `--machine` will know it.")],
) -> None:
    """Fork this project's machine for an experiment."""
    from devbox.disk import fork

    beside.check_name(name)
    parent = target.existing()
    with records.locked(parent):
        records.refuse_second(parent.project, name)  # before anything is frozen
        frozen = _freeze(parent)
        with ui.step(f"Clone the machine as `{name}`"):
            made = fork.make(parent, name, frozen)
    ui.note(f"It shares the disk with its parent as that was now. Start it with `devbox up --machine {made.machine}`.")
    ui.note(f"`devbox destroy --machine {made.machine}` deletes it; your own machine notices nothing of either.")


def _freeze(parent: Record) -> Path:
    """The parent's disk as it is now. Raises `clone.state`."""
    from devbox.disk import fork

    seen = lifecycle.observe(parent)
    unfinished = identity.is_provisional(parent) or parent.dir.first_boot.exists()
    if not parent.dir.disk.exists() or unfinished:
        raise DevboxError(
            "clone.state", "The machine is not ready yet, so there is nothing to clone.", hint="Run `devbox up` first."
        )
    if any(parent.dir.snapshots.glob("*.json")):  # a shared disk cannot go back to one
        raise DevboxError(
            "clone.state",
            "The machine has snapshots, which are inside the disk that the clone would share.",
            hint="See them with `devbox snapshot list`, and delete them first: `devbox snapshot delete NAME`.",
        )
    if len(chain.parents(parent.dir)) >= _DEEPEST:
        raise DevboxError(
            "clone.state",
            f"The machine was cloned about {_DEEPEST} times, and each time its disk is read through one file more.",
            hint="Make it anew for further clones: `devbox destroy`, then `devbox up`.",
        )
    if seen.state is State.STOPPED:
        return fork.freeze(parent)
    if seen.state is not State.RUNNING:
        raise DevboxError(
            "clone.state",
            f"The machine is {seen.state}, and only a running or a stopped one can be cloned.",
            hint=f"Go on with `{target.next_command(seen, parent)}`.",
        )
    from devbox.machine import cut
    from devbox.machine.qmp import Qmp

    with ui.step("Let the machine write out what it has in memory"):
        _write_out(parent)
    with Qmp(parent.dir.qmp, timeout=60.0) as qmp:
        return cut.freeze(parent, qmp)


def _write_out(parent: Record) -> None:
    """What was written a moment ago shall be in the clone. Without it the clone has what a power cut would leave."""
    config = parent.dir.ssh_config
    if config.exists():
        argv = openssh.ssh_argv(config, openssh.host_alias(parent.name), "sudo -n sync || sync")
        done = proc.run(argv, timeout=_PATIENCE)
        if done.status == 0:
            return
    ui.warn("The machine does not answer, so its clone has what is on its disk by now.")
