"""`devbox ssh`: becomes OpenSSH, with the machine's own key and pinned host key, in the matching folder."""

from typing import Annotated

import typer

from devbox import proc
from devbox.commands import session


def ssh(
    command: Annotated[str, typer.Option("--command", "-c", help="Run this instead of a shell.", metavar="CMD")] = "",
    plain: Annotated[bool, typer.Option("--home", help="Land in the home folder.")] = False,
) -> None:
    """Open a shell in the machine, in this folder."""
    open_session = session.current()
    folder = None if plain else open_session.folder
    words = ("/bin/sh", "-c", command)
    remote = session.remote_script(words, folder) if command else session.login_shell(folder)
    proc.become(open_session.argv(remote, terminal=session.has_terminal() or not command))
