"""Starts the helpers that serve folders to a guest by virtiofs: before QEMU, since its sandbox may start nothing.

Each helper listens on a socket that we made, so QEMU can connect at once; it ends by itself when QEMU goes away.
"""

import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from devbox import proc
from devbox.errors import DevboxError
from devbox.machine.argv import VmSpec
from devbox.machine.host import HostFacts
from devbox.share.folders import Mount


def start(vm: VmSpec, facts: HostFacts, log: Path) -> tuple[int, ...]:
    """Start one helper for each virtiofs folder, and return their pids. They are children of ours."""
    # One that waits for its memory has no folder yet: they are plugged in when the guest goes on.
    return (
        ()
        if vm.folders_later
        else tuple(start_one(mount, vm.dir.virtiofs(mount.tag), facts, log) for mount in vm.virtiofs)
    )


def start_one(mount: Mount, path: Path, facts: HostFacts, log: Path) -> int:
    """Start the helper of one folder, which serves the next connection to the socket `path`; its pid."""
    if facts.virtiofsd is None:
        raise DevboxError(
            "machine.virtiofsd",
            "A folder is to be shared by virtiofs, but virtiofsd is not installed here.",
            hint="Install the package virtiofsd, or write `type: rsync` at the folder.",
        )
    path.unlink(missing_ok=True)
    with log.open("ab") as output, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(os.fspath(path))
        listener.listen(1)
        return proc.start(argv(mount, facts, listener.fileno()), log=output, pass_fds=[listener.fileno()])


def end_leftovers(runtime: Path) -> None:
    """End helpers that wait for a QEMU that never came, as devbox was killed in between.

    A helper serves one connection and then ends, so it is enough to connect and to hang up.
    """
    for path in runtime.glob("*.fs"):
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            line.settimeout(1.0)
            line.connect(os.fspath(path))


def argv(mount: Mount, facts: HostFacts, fd: int) -> Sequence[str]:
    """Pure: the helper's argument list. Raises `machine.virtiofsd` where it cannot do what the folder asks."""
    assert facts.virtiofsd is not None
    helper, folder = os.fspath(facts.virtiofsd), os.fspath(mount.host)
    if mount.readonly:
        # The C helper has no such option, and the Rust one only since 1.11; a mount option in the guest is a promise
        # of the guest's, not a limit. The planner takes another type for such a folder unless this one is insisted on.
        raise DevboxError(
            "machine.virtiofsd",
            f"virtiofs cannot keep the guest from writing to {folder}.",
            hint="Write `type: 9p` or `type: rsync` at the read-only folder.",
        )
    if facts.virtiofsd_unprivileged:
        # Without root it can only act as its own user: no sandbox of its own, which would need subordinate ids.
        sandbox = "namespace" if facts.uid == 0 else "none"
        return [helper, "--fd", str(fd), "--shared-dir", folder, "--sandbox", sandbox, "--announce-submounts"]
    escaped = folder.replace("\\", "\\\\").replace(",", "\\,")
    return [helper, f"--fd={fd}", "-f", "-o", f"source={escaped}", "-o", "sandbox=namespace,announce_submounts"]
