"""Which machine a verb means: the one of the project around this folder. Read-only."""

from pathlib import Path

from devbox import paths
from devbox.disk import record as records
from devbox.disk.record import Record
from devbox.errors import DevboxError
from devbox.machine import lifecycle
from devbox.machine.lifecycle import Observation, State

_NEXT = {
    State.RUNNING: "devbox ssh",
    State.PAUSED: "devbox resume",
    State.SUSPENDED: "devbox resume",
    State.NOT_ANSWERING: "devbox halt --force",
    State.DAMAGED: "devbox destroy",
}


def next_command(seen: Observation) -> str:
    """What to type next, in this state of the machine."""
    if seen.reason == lifecycle.NO_SOCKETS:
        return "devbox reload"  # The guest itself is well, so it is shut down in good order.
    return _NEXT.get(seen.state, "devbox up")


def existing(machine: str = records.MAIN) -> Record:
    """The record of this project's machine, or of one beside it. Raises `project.missing` and `machine.missing`."""
    root = paths.find_project(Path.cwd())
    record = records.find(root, machine)
    if record is None:
        named = "The machine" if machine == records.MAIN else f"The machine `{machine}`"
        raise DevboxError(
            "machine.missing",
            f"{named} of {root} does not exist{' yet' if machine == records.MAIN else ''}.",
            hint="Create it with `devbox up`." if machine == records.MAIN else "See which there are: `devbox list`.",
        )
    return record


def running() -> tuple[Record, Observation]:
    """The record and what was seen of its running machine. Raises also `machine.not-running`."""
    record = existing()
    seen = lifecycle.observe(record)
    if seen.state is not State.RUNNING or seen.ssh_port is None:
        reason = f" ({seen.reason})" if seen.reason else ""
        hint = f"Go on with `{next_command(seen)}`."
        raise DevboxError("machine.not-running", f"The machine is {seen.state}{reason}.", hint=hint)
    return record, seen
