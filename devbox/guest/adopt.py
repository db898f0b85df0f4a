"""Sets a guest up that booted without cloud-init: in one exchange as root, by a shell text that may be repeated.

It leaves what a first boot with the seed leaves (disk/seed.py): the account, the name, the grown disk, the network of
later boots, a machine-id, no other host key. The last word is `leave`, after which root has no key any more.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from devbox.errors import DevboxError
from devbox.guest.connection import Guest

_LEAVE = "if [ -e /root/.ssh/authorized_keys ]; then : >/root/.ssh/authorized_keys; fi; sync"


@dataclass(frozen=True, slots=True)
class Setup:
    """What the guest is to become. `key` is the public line of the account's login key."""

    user: str
    uid: int
    gid: int
    shell: str
    groups: tuple[str, ...]
    key: str
    hostname: str
    mac: str


def script(setup: Setup) -> str:
    """The shell text, for root. Pure."""
    name, _, _ = setup.hostname.partition(".")
    values: Mapping[str, str] = {
        "user": setup.user,
        "uid": str(setup.uid),
        "gid": str(setup.gid),
        "shell": setup.shell,
        "groups": " ".join(setup.groups),
        "key": setup.key,
        "name": name,
        "whole_name": setup.hostname,
        "mac": setup.mac,
    }
    head = "".join(f"{variable}={quote(value)}\n" for variable, value in values.items())
    return head + Path(__file__).with_name("adopt.sh").read_text()


def adopt(guest: Guest, setup: Setup, *, timeout: float) -> None:
    """Carry it out over root's connection. All is on the guest's disk afterwards. Raises `guest.setup`."""
    done = guest.run("exec sh -s", stdin=script(setup).encode(), timeout=timeout)
    if done.status != 0:
        raise DevboxError(
            "guest.setup", f"The guest could not be set up (status {done.status}).", details=done.error_text
        )


def leave(guest: Guest, *, root: bool, timeout: float) -> None:
    """Take root's key away, over the connection of root or of the account. Raises `guest.setup`."""
    become = "" if root else "sudo -n "
    done = guest.run(f"{become}sh -c {quote(_LEAVE)}", timeout=timeout)
    if done.status != 0:
        raise DevboxError("guest.setup", "The key of the first boot could not be removed.", details=done.error_text)
