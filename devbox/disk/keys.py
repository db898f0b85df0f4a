"""ed25519 key pairs made by ssh-keygen: the private file appears whole or not at all; the public line is returned."""

import errno
import os
import tempfile
from pathlib import Path

from devbox import fs, proc
from devbox.errors import DevboxError

_HINT = "Install the OpenSSH client (Debian, Ubuntu: `apt install openssh-client`)."


def make(path: Path) -> str:
    """The public line ("ssh-ed25519 AAAA…") of the private key in `path` (0600), which is made if it is missing."""
    tool = proc.find_tool("ssh-keygen", hint=_HINT)
    if not path.exists():
        with tempfile.TemporaryDirectory(prefix=".key-", dir=path.parent) as aside:
            made = Path(aside) / path.name
            _checked(proc.run([tool, "-q", "-t", "ed25519", "-N", "", "-C", "devbox", "-f", made], timeout=60))
            fs.publish(made, path)
    shown = _checked(proc.run([tool, "-y", "-f", path], timeout=60))
    return " ".join(shown.text.split()[:2])


def _checked(done: proc.Completed) -> proc.Completed:
    if done.status != 0 and "No space left" in done.error_text:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # which is told as for any other file
    if done.status != 0:
        raise DevboxError(
            "disk.key-failed",
            "ssh-keygen could not make or read a key of the machine.",
            details=done.error_text,
        )
    return done
