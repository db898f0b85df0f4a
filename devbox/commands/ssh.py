"""`devbox ssh`: becomes OpenSSH, with the machine's own key and pinned host key, in the matching folder.

With `--at STEP` in the place of a step: its account, folder and environment, to find out why it fails.
"""

from pathlib import Path
from typing import Annotated

import typer

from devbox import paths, proc, ui
from devbox.commands import beside, session
from devbox.commands.beside import MachineOption
from devbox.disk import record as records


def ssh(
    command: Annotated[str, typer.Option("--command", "-c", help="Run this instead of a shell.", metavar="CMD")] = "",
    plain: Annotated[bool, typer.Option("--home", help="Land in the home folder.")] = False,
    at: Annotated[
        str, typer.Option("--at", metavar="STEP", help="With this step's account, folder and environment.")
    ] = "",
    machine: MachineOption = records.MAIN,
) -> None:
    """Open a shell in the machine, in this folder."""
    open_session = session.current(machine)
    if at:
        remote = _at(at, command, machine)
    else:
        folder = None if plain else open_session.folder
        words = ("/bin/sh", "-c", command)
        remote = session.remote_script(words, folder) if command else session.login_shell(folder)
    proc.become(open_session.argv(remote, terminal=session.has_terminal() or not command))


def _at(name: str, command: str, machine: str) -> str:
    from devbox.commands import steps, target
    from devbox.config import build
    from devbox.machine import started
    from devbox.provision import bind, plan, shell

    record, seen = target.running(machine)
    project = beside.of(build.load(paths.find_project(Path.cwd())), machine)
    context = steps.context_of(project, record, seen, slowdown=1.0)
    had = started.load(record)
    bound = bind.bind(steps.all_steps(project, had.mounts, had.disks), project.root, record.user)
    (place,) = plan.select(bound, plan.Options(only=(name,)))
    step = bound[place]
    if not command:
        ui.note(f"As {step.user}{f' in {step.spec.cwd}' if step.spec.cwd else ''}, as `{name}` has it.")
    return shell.as_root(shell.at_step(context.run(), step, command), user=record.user)
