"""A machine beside the project's own one, of the same Devboxfile: a clone, or that of a `verify`."""

import re
from dataclasses import replace
from typing import Annotated

import typer

from devbox import ui
from devbox.config.model import Project
from devbox.disk import record as records
from devbox.errors import DevboxError, ExitCode

MachineOption = Annotated[
    str, typer.Option("--machine", metavar="NAME", help="Not the project's own machine: a clone, by its name.")
]
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
_LONGEST_HOSTNAME = 63
VERIFY = "verify"  # the name of the machine that `devbox verify` makes and destroys


def of(declared: Project, machine: str) -> Project:
    """The project as that one of its machines is run: a clone has another hostname too."""
    if machine == records.MAIN:
        return declared
    hostname = f"{declared.machine.hostname}-{machine}"[-_LONGEST_HOSTNAME:].lstrip("-")
    project = apart(declared, machine)
    return replace(project, machine=replace(project.machine, hostname=hostname))


def apart(declared: Project, name: str) -> Project:
    """The project by another machine's name, and with no port that the own machine may have."""
    machine = declared.machine
    ports = tuple(replace(port, host=None) for port in machine.ports)
    return replace(declared, machine=replace(machine, name=name, ports=ports))


def say_ports(declared: Project, machine: str) -> None:
    fixed = [str(port.host) for port in declared.machine.ports if port.host is not None]
    if fixed and machine != records.MAIN:
        ui.note(f"This computer's ports are left to your own machine; free ones stand in for {', '.join(fixed)}.")


def option(machine: str) -> str:
    """What a command line needs in order to mean that machine."""
    return "" if machine == records.MAIN else f" --machine {machine}"


def check_name(name: str) -> None:
    """Raises `clone.name`."""
    if name in {records.MAIN, VERIFY} or not _NAME.fullmatch(name):
        raise DevboxError(
            "clone.name",
            f"{name!r} is no name for a clone.",
            hint="Use small letters, digits and `-`, as in `devbox clone experiment`; "
            f"`{records.MAIN}` and `{VERIFY}` are taken.",
            exit_code=ExitCode.USAGE,
        )
