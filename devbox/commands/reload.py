"""`devbox reload`: a shutdown and a start, so that restart-class edits of the Devboxfile take effect."""

import functools
from pathlib import Path
from typing import Annotated

import typer

from devbox import paths, ui
from devbox.commands import session, target
from devbox.commands.up import bring_up
from devbox.disk import record as records
from devbox.machine import lifecycle
from devbox.machine.lifecycle import State


def reload(
    provision: Annotated[bool, typer.Option(help="Run the provisioning steps as well.")] = True,
    approve: Annotated[str, typer.Option(metavar="HASH|all", help="Approve what the Devboxfile asks for.")] = "",
) -> None:
    """Restart the machine as the Devboxfile now says."""
    from devbox.config import build

    build.load(paths.find_project(Path.cwd()))  # A mistake in the file must not cost the running machine.
    record = target.existing()
    with records.locked(record):
        if lifecycle.observe(record).state is not State.STOPPED:
            with ui.step("Shut the machine down"):
                lifecycle.halt(record, guest_poweroff=functools.partial(session.power_off, record))
    bring_up(Path.cwd(), provision=provision, approve=approve)
