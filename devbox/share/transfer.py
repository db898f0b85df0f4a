"""One folder's one-way copy into the guest, over OpenSSH: rsync where both sides have it, else a tar stream.

Nothing is deleted in the guest and nothing newer there is overwritten. Both ways begin with the same piece of shell:
the guest's folder, made and owned by the login user, becomes the working folder, so no path needs quoting by rsync.
"""

import os
import re
import shlex
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from devbox import proc, ui
from devbox.config.choices import FolderType
from devbox.errors import DevboxError
from devbox.share.folders import Mount

ALWAYS_LEFT_OUT = "/.devbox/"
_NO_RSYNC = "devbox: no rsync here"
_PARTIAL, _VANISHED = 23, 24  # rsync's exit codes: some files could not be read; some were deleted meanwhile
_HINT = "Install the OpenSSH client (Debian, Ubuntu: `apt install openssh-client`)."


def push(mounts: Sequence[Mount], ssh_config: Path) -> None:
    """Copy the rsync folders into the guest that `ssh_config` describes; the other types need none.

    Raises `folder.missing` and `folder.copy-failed`.
    """
    for mount in mounts:
        if mount.type is not FolderType.RSYNC:
            continue
        if not mount.host.is_dir():
            raise DevboxError(
                "folder.missing",
                f"The folder {mount.host} does not exist.",
                hint=f"Make it, or take it out of `folders` in the Devboxfile (it goes to {mount.guest}).",
            )
        with ui.step(f"Copy {mount.host} to {mount.guest}"):
            copy(mount.host, mount.guest, mount.ignore, ssh_config)


def copy(host: Path, guest: PurePosixPath, ignore: Sequence[str], ssh_config: Path) -> None:
    """Copy what is in `host` into `guest`. `ignore` are rsync's patterns. Raises `folder.copy-failed`."""
    ssh = proc.find_tool("ssh", hint=_HINT)
    leave_out = (ALWAYS_LEFT_OUT, *ignore)
    try:
        rsync = proc.find_tool("rsync")
    except DevboxError:
        _copy_by_tar(host, guest, leave_out, ssh_argv(ssh, ssh_config))
        return
    done = proc.run(rsync_argv(rsync, host, guest, leave_out, ssh_argv(ssh, ssh_config)))
    if _NO_RSYNC in done.error_text:
        _copy_by_tar(host, guest, leave_out, ssh_argv(ssh, ssh_config))
    elif done.status == _PARTIAL:
        ui.warn(f"Not everything in {host} could be copied: {_last_lines(done.error_text)}")
    elif done.status not in {0, _VANISHED}:
        raise _failed(host, guest, done)


def ssh_argv(ssh: Path, ssh_config: Path) -> tuple[str, ...]:
    """OpenSSH and the host that the machine's ssh_config describes, as options and words. It uses the control
    connection that is there, and starts none.
    """
    host = ssh_config.read_text().split(maxsplit=2)[1]
    return (os.fspath(ssh), "-F", os.fspath(ssh_config), "-T", host)


def rsync_argv(
    rsync: Path, host: Path, guest: PurePosixPath, leave_out: Sequence[str], ssh: Sequence[str]
) -> tuple[str, ...]:
    """The command line of rsync. Pure."""
    *carrier, name = ssh
    there = f"{enter(guest)} && {{ command -v rsync >/dev/null || {{ echo {shlex.quote(_NO_RSYNC)} >&2; exit 1; }}; }}"
    return (
        os.fspath(rsync),
        "--recursive",
        "--links",
        "--perms",
        "--times",
        "--update",
        f"--rsh={' '.join(_rsync_quoted(word) for word in carrier)}",
        f"--rsync-path={there} && rsync",
        *(f"--exclude={pattern}" for pattern in leave_out),
        f"{host}/",
        f"{name}:./",
    )


def enter(guest: PurePosixPath) -> str:
    """Shell text: make the folder if need be, owned by the login user, and go there. Pure."""
    folder = shlex.quote(os.fspath(guest))
    mine = f"{{ mkdir -p {folder} && test -w {folder}; }} 2>/dev/null"
    made = f'sudo -n install -d -o "$(id -u)" -g "$(id -g)" {folder}'
    return f"{{ {mine} || {made}; }} && cd {folder}"


def is_left_out(path: PurePosixPath, leave_out: Sequence[str], *, folder: bool) -> bool:
    """Whether rsync would leave this path, relative to the copied folder, out. Pure."""
    return any(_matches(path, pattern, folder=folder) for pattern in leave_out)


def _matches(path: PurePosixPath, pattern: str, *, folder: bool) -> bool:
    if pattern.endswith("/") and not folder:
        return False
    body = pattern.strip("/")
    text = os.fspath(path) if "/" in pattern.rstrip("/") or "**" in pattern else path.name
    start = "" if pattern.startswith("/") else "(.*/)?"
    return re.fullmatch(start + _regex(body), text, re.DOTALL) is not None


def _regex(pattern: str) -> str:
    """rsync's wildcards: `*` and `?` stay within a folder, `**` does not, `[…]` is a set."""
    tokens = re.findall(r"\*\*|\[!?\^?\]?[^\]]*\]|.", pattern, re.DOTALL)
    meanings = {"**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(
        meanings.get(token) or (token.replace("[!", "[^") if len(token) > 2 else re.escape(token)) for token in tokens
    )


def _copy_by_tar(host: Path, guest: PurePosixPath, leave_out: Sequence[str], ssh: Sequence[str]) -> None:
    # Unpacked aside first: BusyBox's tar knows no way to keep newer files, but every `cp -u` does.
    unpack = 'tar -xof - -C "$aside" && cp -au "$aside/." .'
    there = f'{enter(guest)} && aside=$(mktemp -d ./.devbox.XXXXXX) && {{ {unpack}; s=$?; rm -rf "$aside"; exit $s; }}'
    with tempfile.TemporaryFile() as archive:
        unread = _pack(host, leave_out, archive)
        archive.seek(0)
        done = proc.run([*ssh, "--", there], input=archive)
    if done.status != 0:
        raise _failed(host, guest, done)
    if unread:
        ui.warn(f"Not everything in {host} could be copied: {', '.join(unread[:3])} cannot be read")


def _pack(host: Path, leave_out: Sequence[str], target: IO[bytes]) -> list[str]:
    """Write the folder's files, folders and links as a tar archive; returns what could not be read."""
    unread = []
    # Not the POSIX format: BusyBox prints a warning about each of its headers.
    with tarfile.open(fileobj=target, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path in _walk(host, leave_out):
            name = os.fspath(path.relative_to(host))
            try:
                info = archive.gettarinfo(path, name)
                if info is None or not (info.isreg() or info.isdir() or info.issym() or info.islnk()):
                    continue
                if info.isreg():
                    with path.open("rb") as file:
                        archive.addfile(info, file)
                else:
                    archive.addfile(info)
            except (PermissionError, FileNotFoundError):
                unread.append(name)
    return unread


def _walk(host: Path, leave_out: Sequence[str]) -> Iterator[Path]:
    for at, folders, files in os.walk(host):
        here = Path(at)

        def kept(name: str, here: Path = here, *, folder: bool) -> bool:
            inside = PurePosixPath((here / name).relative_to(host))
            return not is_left_out(inside, leave_out, folder=folder)

        folders[:] = sorted(name for name in folders if kept(name, folder=not (here / name).is_symlink()))
        yield from (here / name for name in folders)
        yield from (here / name for name in sorted(files) if kept(name, folder=False))


def _rsync_quoted(word: str) -> str:
    # rsync splits --rsh at spaces; within single quotes only a doubled quote is special.
    return "'" + word.replace("'", "''") + "'"


def _failed(host: Path, guest: PurePosixPath, done: proc.Completed) -> DevboxError:
    return DevboxError(
        "folder.copy-failed",
        f"{host} could not be copied to {guest} in the guest.",
        hint="See whether the guest still runs and has room: `devbox run -- df -h`.",
        details=done.error_text,
    )


def _last_lines(text: str) -> str:
    return "; ".join(text.strip().splitlines()[-3:])
