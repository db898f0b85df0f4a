"""`devbox resume`: lets a paused machine go on, such as one that met a full disk on this computer."""

from devbox import ui
from devbox.commands import target
from devbox.disk import record as records
from devbox.machine import lifecycle


def resume() -> None:
    """Let a machine go on that a full disk has paused."""
    record = target.existing()
    with records.locked(record):
        lifecycle.resume(record)
    ui.done("The machine goes on.")
