"""What a guest is told at a first boot without a seed: a credential of systemd's, which makes its first files.

With it sshd has this machine's host key and lets root in with its login key, as soon as it starts. The file holds a
private key, so it is 0600, goes to QEMU by its name and is removed when the first boot is over. While it is there, the
guest is not set up yet, or the QEMU of that boot may still run; the mark `adopted` beside it says that it is set up.
"""

import base64

from devbox import fs
from devbox.disk import identity, keys
from devbox.disk.record import Record
from devbox.paths import MachineDir

# Part of what a layer's chain begins with: disks that were set up in different ways are different.
PLAIN, FAST = "plain-1", "fast-1"
_CREDENTIAL = "io.systemd.credential.binary:tmpfiles.extra="


def text(*, host_key: str, host_line: str, login_line: str) -> str:
    """The SMBIOS string. `host_key` is a private key's text, the others are public key lines. Pure."""
    files = (
        ("/etc/ssh/ssh_host_ed25519_key", "0600", host_key),
        ("/etc/ssh/ssh_host_ed25519_key.pub", "0644", f"{host_line}\n"),
        ("/root/.ssh/authorized_keys", "0600", f"{login_line}\n"),
    )
    lines = ["d /root/.ssh 0700 root root -"]
    lines += [f"f+~ {path} {mode} root root - {_base64(content)}" for path, mode, content in files]
    return _CREDENTIAL + _base64("".join(f"{line}\n" for line in lines))


def begin(record: Record) -> None:
    """Let the next boot be such a first boot. The caller holds the machine's lock, and the disk is new."""
    born = identity.at_boot(record)
    content = text(
        host_key=identity.private_key(born.host_key),
        host_line=born.host_line,
        login_line=keys.make(born.login_key),
    ).encode()
    file = record.dir.first_boot
    if not file.exists() or file.read_bytes() != content:
        fs.write_atomic(file, content)


def forget(record: Record) -> None:
    """There is no disk: what was decided about an earlier one does not bind."""
    record.dir.adopted.unlink(missing_ok=True)
    record.dir.first_boot.unlink(missing_ok=True)


def is_under_way(record: Record) -> bool:
    return record.dir.first_boot.exists()


def is_adopted(record: Record) -> bool:
    """Whether the guest was set up without cloud-init; a fork of its disk is, too."""
    return record.dir.adopted.exists()


def adopted(record: Record) -> None:
    """The guest is set up, and never needs the seed."""
    mark(record.dir)


def mark(files: MachineDir) -> None:
    fs.write_atomic(files.adopted, f"{FAST}\n".encode())


def over(record: Record) -> None:
    """No QEMU runs any more that was started with the credential; or the first boot is given up."""
    record.dir.first_boot.unlink(missing_ok=True)
    fs.fsync_dir(record.dir.folder)


def profile(record: Record) -> str:
    """How the machine's disk was set up, as a layer's chain takes it."""
    return FAST if is_under_way(record) or is_adopted(record) else PLAIN


def _base64(content: str) -> str:
    return base64.b64encode(content.encode()).decode()
