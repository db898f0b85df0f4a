"""`devbox ssh-config`: the machine as OpenSSH, scp, rsync and editors' remote modes want it described."""

from devbox import ui
from devbox.commands import session


def ssh_config() -> None:
    """Print an OpenSSH configuration for the machine."""
    ui.emit(session.current().ssh_config.read_text().rstrip())
