"""Which machine a verb means: the one of the project around this folder. Read-only."""

from pathlib import Path

from devbox import paths
from devbox.disk import identity
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


def next_command(seen: Observation, record: Record | None = None) -> str:
    """What to type next, in this state of the machine."""
    word = _next_command(seen)
    if record is None:
        return word
    if seen.state is State.RUNNING and identity.is_provisional(record):
        word = "devbox up"  # It was interrupted before the guest had an identity of its own.
    return _of(word, record)


def _of(command: str, record: Record) -> str:
    return command if record.machine == records.MAIN else f"{command} --machine {record.machine}"


def _next_command(seen: Observation) -> str:
    if seen.reason == lifecycle.WAITS_FOR_MEMORY:
        return "devbox up"  # A kill came between, and nobody will give it any: `up` begins anew.
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
            hint="Create it with `devbox up`."
            if machine == records.MAIN
            else f"Make it with `devbox clone {machine}`, or see which there are: `devbox list`.",
        )
    return record


def require_finished(record: Record) -> None:
    """Raises `machine.unfinished` where the first `up` was interrupted: what is kept of such a machine knows only keys
    that are forgotten as soon as it has its own.
    """
    if identity.is_provisional(record) or record.dir.first_boot.exists():
        raise DevboxError(
            "machine.unfinished",
            "The machine is not ready yet: its first `devbox up` was interrupted.",
            hint=f"Finish it with `{_of('devbox up', record)}`.",
        )


def running(machine: str = records.MAIN) -> tuple[Record, Observation]:
    """The record and what was seen of its running machine. Raises also `machine.not-running`."""
    record = existing(machine)
    seen = lifecycle.observe(record)
    if seen.state is not State.RUNNING or seen.ssh_port is None:
        reason = f" ({seen.reason})" if seen.reason else ""
        hint = f"Go on with `{next_command(seen, record)}`."
        raise DevboxError("machine.not-running", f"The machine is {seen.state}{reason}.", hint=hint)
    return record, seen
