"""`devbox ssh-config`: the machine as OpenSSH, scp, rsync and editors' remote modes want it described."""

from devbox import ui
from devbox.commands import session
from devbox.commands.beside import MachineOption
from devbox.disk import record as records


def ssh_config(machine: MachineOption = records.MAIN) -> None:
    """Print an OpenSSH configuration for the machine."""
    ui.emit(session.current(machine).ssh_config.read_text().rstrip())
