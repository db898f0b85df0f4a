"""Who a guest is: the key that logs in to it, the host key it answers with, and cloud-init's instance id.

A machine that becomes or comes from a layer, template or clone is born with a *provisional* identity, in a folder of
its own until the guest has been renewed (guest/renew.py). The folder appears and goes whole: while it is there the
guest may hold either identity, afterwards only its own. Whichever host key answers, its login key is let in.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from devbox import fs
from devbox.disk import keys
from devbox.disk.record import Record
from devbox.errors import DevboxError

LOGIN_KEY, HOST_KEY, KNOWN_HOSTS, INSTANCE = "id_ed25519", "host_ed25519", "known_hosts", "instance"


@dataclass(frozen=True, slots=True)
class Identity:
    """Where its private keys and its known_hosts lie, and the public line of its host key."""

    login_key: Path
    host_key: Path
    known_hosts: Path
    host_line: str
    instance: str = ""  # "": it follows from the login key, as in `own_instance`


def own(record: Record) -> Identity:
    """The machine's own identity, for good. `seed.ensure` makes what is missing of its files."""
    files = record.dir
    return Identity(files.login_key, files.host_key, files.known_hosts, record.host_key)


def is_provisional(record: Record) -> bool:
    return record.dir.provisional.is_dir()


def provisional(record: Record) -> Identity | None:
    """The identity that the guest was born with, as long as it may still hold it."""
    folder = record.dir.provisional
    try:
        host_line = (folder / f"{HOST_KEY}.pub").read_text().strip()
        instance = (folder / INSTANCE).read_text().strip()
    except FileNotFoundError:
        return None
    return Identity(folder / LOGIN_KEY, folder / HOST_KEY, folder / KNOWN_HOSTS, host_line, instance)


def at_boot(record: Record) -> Identity:
    """The identity that the seed gives the guest at its next boot."""
    return provisional(record) or own(record)


def begin(record: Record, keys_from: Path | None = None, *, instance: str = "") -> Identity:
    """Give the machine, which has not booted yet, a provisional identity; the one it has already stays.

    `keys_from` is a folder with the keys that the disk knows (a layer's in the store, a parent machine's), else they
    are made. `instance` is cloud-init's id on that disk, where it does not follow from the login key. The caller holds
    the machine's lock.
    """
    if known := provisional(record):
        return known
    record.dir.seed.unlink(missing_ok=True)  # first: a seed that is there is taken for right
    place(record.dir.folder, keys_from, instance=instance)
    return at_boot(record)


def place(folder: Path, keys_from: Path | None, *, instance: str = "") -> None:
    """Make `provisional/` in a machine's folder, whole or not at all."""
    _sweep(folder)
    aside = fs.make_private_dir(folder / f".provisional-{os.urandom(4).hex()}")
    if keys_from is not None:
        for name in (LOGIN_KEY, HOST_KEY):
            fs.write_atomic(aside / name, (keys_from / name).read_bytes())
    login, host = keys.make(aside / LOGIN_KEY), keys.make(aside / HOST_KEY)
    fs.write_atomic(aside / f"{HOST_KEY}.pub", f"{host}\n".encode())
    fs.write_atomic(aside / KNOWN_HOSTS, known_hosts(host))
    fs.write_atomic(aside / INSTANCE, f"{instance or provisional_instance(login)}\n".encode())
    aside.rename(folder / "provisional")
    fs.fsync_dir(folder)


def settled(record: Record) -> None:
    """The guest holds its own identity alone, and its seed says so too: forget the provisional one."""
    folder = record.dir.folder
    gone = folder / f".provisional-{os.urandom(4).hex()}"
    try:
        record.dir.provisional.rename(gone)
    except FileNotFoundError:
        return
    fs.fsync_dir(folder)
    _sweep(folder)


def private_key(path: Path) -> str:
    """The text of a guest's private host key. Raises `seed.host-key-lost`."""
    try:
        return path.read_text()
    except FileNotFoundError as lost:
        raise DevboxError(
            "seed.host-key-lost",
            f"The guest's host key is gone, and with it the proof that the guest is ours: {path}",
            hint="Begin anew with `devbox destroy`, then `devbox up`.",
        ) from lost


def known_hosts(host_line: str) -> bytes:
    """The one line of a known_hosts file. It serves one machine, which is on another port at every start."""
    return f"* {host_line}\n".encode()


def own_instance(record: Record, login_line: str) -> str:
    """It changes with the login key alone, so that a guest whose key was lost takes the new one."""
    return f"{record.uuid}-{_digest(login_line)[:8]}"


def provisional_instance(login_line: str) -> str:
    """The same for each machine that is born with these keys, so that a fork of a layer does not set up anew."""
    return f"devbox-{_digest(login_line)[:16]}"


def machine_id(record: Record) -> str:
    """The guest's /etc/machine-id: its random UUID, which systemd itself would take under KVM."""
    return record.uuid.replace("-", "")


def random_bytes() -> bytes:
    """As many as systemd keeps in its seed file."""
    return os.urandom(512)


def _digest(text: str) -> str:
    import hashlib  # noqa: PLC0415

    return hashlib.sha256(text.encode()).hexdigest()


def _sweep(folder: Path) -> None:
    for left in folder.glob(".provisional-*"):
        shutil.rmtree(left, ignore_errors=True)
