"""`devbox reload`: a shutdown and a start, so that restart-class edits of the Devboxfile take effect."""

import functools
from pathlib import Path
from typing import Annotated

import typer

from devbox import paths, ui
from devbox.commands import session, target
from devbox.commands.agreement import Asked
from devbox.commands.beside import MachineOption
from devbox.commands.up import bring_up
from devbox.disk import record as records
from devbox.machine import lifecycle
from devbox.machine.lifecycle import State


def reload(
    provision: Annotated[bool, typer.Option(help="Run the provisioning steps as well.")] = True,
    approve: Annotated[str, typer.Option(metavar="HASH|all", help="Approve what the Devboxfile asks for.")] = "",
    accel: Annotated[str, typer.Option(help="auto, kvm, hvf or tcg (emulation).")] = "auto",
    locked: Annotated[
        bool | None, typer.Option("--locked/--no-locked", help="Refuse what Devboxfile.lock lacks; set where CI is.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Use what is on this computer, no network.")] = False,
    machine: MachineOption = records.MAIN,
) -> None:
    """Restart the machine as the Devboxfile now says."""
    from devbox.box import online
    from devbox.commands import approval, locking, rebuild, sleeping, steps
    from devbox.config import build
    from devbox.disk import data, overlay
    from devbox.machine import host

    # What `up` would refuse must be found before it costs the running machine.
    declared = build.load(paths.find_project(Path.cwd()))
    project = rebuild.as_made(declared, record := target.existing(machine), quiet=True)
    approval.require(project, approve)
    with online.forbidden(when=offline):
        locking.require(project, record, locked=locked, provision=provision)
    steps.check(project)
    data.refuse_to_shrink(record, project.machine.disks)
    if record.dir.disk.exists():
        overlay.held_image(record)
    host.probe(project.machine.arch, accel=accel)
    with records.locked(record):
        sleeping.shut_down_first(record, force=False)
        if lifecycle.observe(record).state is not State.STOPPED:
            with ui.step("Shut the machine down"):
                lifecycle.halt(record, guest_poweroff=functools.partial(session.power_off, record))
    with online.forbidden(when=offline):
        bring_up(Path.cwd(), Asked(provision, approve, accel, locked=locked), machine=machine)
