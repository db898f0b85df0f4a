"""One mmdebstrap call: a `Plan` in, a bootable uncompressed qcow2 out. No loop devices; root or an ordinary user.

`argv` and `archive` are pure. Everything happens in folders made for it and in the target; nothing else changes.
"""

import io
import os
import shlex
import tarfile
import tempfile
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from devbox import proc, ui
from devbox.box import mirror
from devbox.box.mirror import Entry, Mirror
from devbox.config.model import Arch
from devbox.errors import DevboxError

DEBIAN_ARCH = {Arch.X86_64: "amd64", Arch.AARCH64: "arm64"}
SCRIPTS = Path(__file__).parent / "recipes"
_GPTMBR = (Path("/usr/lib/syslinux/mbr/gptmbr.bin"), Path("/usr/lib/syslinux/bios/gptmbr.bin"))
_TAIL = 30
# The program, and Debian's package that has it.
_TOOLS = {
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "sfdisk": "fdisk",
    "mkfs.vfat": "dosfstools",
    "mcopy": "mtools",
    "qemu-img": "qemu-utils",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What is built. `files` maps a path in the guest to its mode and bytes; `script` is a shell text that is run on
    the host with the root file system as $1, after the packages and the files, before the disk is written.
    """

    title: str
    suite: str
    arch: Arch
    variant: str
    packages: tuple[str, ...]
    files: Mapping[str, tuple[int, bytes]]
    script: str
    disk_mib: int = 2048
    esp_mib: int = 256
    leave_out: tuple[str, ...] = ("/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*", "/usr/share/doc/*")
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


def make(plan: Plan, target: Path) -> None:
    """Build the plan into the file `target`, which must not exist yet.

    Raises `recipe.tools` (what must be installed first), `recipe.failed`, and what `mirror.find` raises.
    """
    check_tools(plan.arch)
    found = mirror.find(plan.suite)
    with tempfile.TemporaryDirectory(prefix="devbox-recipe-") as folder:
        Path(folder).chmod(0o755)  # noqa: S103 - a key in it is read from a user namespace; nothing here is secret
        trusted = _keep_keys(found.entries, Path(folder))
        files, sources = Path(folder) / "files.tar", Path(folder) / "sources.tar"
        files.write_bytes(archive(plan.files))
        sources.write_bytes(archive(guest_apt(found, trusted)))
        environment = {
            **plan.environment,
            "PATH": os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin")),
            "TMPDIR": os.environ.get("TMPDIR", "/var/tmp"),  # noqa: S108 - /tmp is often memory, and this takes 2 GB
            "DEVBOX_SETUP": plan.script,
            "DEVBOX_DISK": disk_script(),
            "DEVBOX_DISK_MIB": str(plan.disk_mib),
            "DEVBOX_ESP_MIB": str(plan.esp_mib),
            "DEVBOX_ARCH": plan.arch.value,
            "DEVBOX_GPTMBR": os.fspath(next((path for path in _GPTMBR if path.exists()), "")),
        }
        _run(argv(plan, found, tars=(files, sources), keys=trusted, target=target), environment, plan.title)


def disk_script() -> str:
    return (SCRIPTS / "disk.sh").read_text()


def argv(
    plan: Plan, found: Mirror, *, tars: tuple[Path, Path], keys: Mapping[str, Path], target: Path
) -> tuple[str, ...]:
    """The complete command. `tars` are the plan's files and apt's; `keys` maps a `signed_by` to its file here."""
    files, sources = (shlex.quote(os.fspath(path)) for path in tars)
    options = [f"--dpkgopt=path-exclude={pattern}" for pattern in plan.leave_out]
    options += ["--dpkgopt=path-include=/usr/share/doc/*/copyright", "--dpkgopt=force-unsafe-io"]
    options += [f"--aptopt={setting}" for setting in found.settings]
    lines = []
    for entry in found.entries:
        key = keys.get(entry.signed_by)
        flags = [f"signed-by={key}"] if key else []
        flags += ["trusted=yes"] if entry.trusted else []
        marks = f"[{' '.join(flags)}] " if flags else ""
        lines.append(f"deb {marks}{entry.uri} {entry.suite} {' '.join(entry.components)}")
    return (
        "mmdebstrap",
        f"--variant={plan.variant}",
        f"--architectures={DEBIAN_ARCH[plan.arch]}",
        "--format=null",
        "--skip=cleanup",  # it would miss what our scripts removed; the folder goes as a whole anyway
        f"--include={','.join(plan.packages)}",
        '--aptopt=Apt::Install-Recommends "false"',
        *options,
        f"--essential-hook=tar-in {files} /",  # before the kernel, which already goes by some of them
        f"--customize-hook=tar-in {sources} /",  # after the packages, whose apt would read them beside its own
        '--customize-hook=sh -c "$DEVBOX_SETUP" setup "$1"',
        '--customize-hook=sh -c "$DEVBOX_DISK" disk "$1"',
        # The special hook writes as the calling user; in a user namespace our scripts could not.
        f"--customize-hook=download /disk.qcow2 {shlex.quote(os.fspath(target))}",
        plan.suite,
        "/dev/null",
        *lines,
    )


def archive(files: Mapping[str, tuple[int, bytes]]) -> bytes:
    """A tar of the files, all root's, without their folders: those keep the modes they have."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(files):
            mode, data = files[path]
            member = tarfile.TarInfo(path.lstrip("/"))
            member.mode, member.size = mode, len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def guest_apt(found: Mirror, keys: Mapping[str, Path]) -> dict[str, tuple[int, bytes]]:
    """apt's files in the guest: the same mirror, and the keyring where it is not Debian's own."""
    files: dict[str, tuple[int, bytes]] = {}
    inside = {"": mirror.KEYRING}
    for number, (signed_by, key) in enumerate(sorted(keys.items())):
        if os.fspath(key) != mirror.KEYRING:
            inside[signed_by] = f"/etc/apt/keyrings/devbox-{number}{key.suffix}"
            files[inside[signed_by]] = (0o644, key.read_bytes())
    text = mirror.source_lines(mirror.for_guest(found.entries), inside)
    files["/etc/apt/sources.list.d/debian.sources"] = (0o644, text.encode())
    settings = ('Acquire::Languages "none";', *found.guest_settings)  # translations would double the index
    files["/etc/apt/apt.conf.d/90devbox"] = (0o644, "\n".join((*settings, "")).encode())
    return files


def _keep_keys(entries: tuple[Entry, ...], folder: Path) -> dict[str, Path]:
    """Where each `signed_by` is: at its own path, or in `folder` for a key whose text stands in apt's file."""
    keys: dict[str, Path] = {}
    for number, signed_by in enumerate(sorted({entry.signed_by for entry in entries if entry.signed_by})):
        if "BEGIN PGP" in signed_by:
            keys[signed_by] = folder / f"key-{number}.asc"
            keys[signed_by].write_text(signed_by.strip() + "\n")
        elif signed_by.startswith("/"):
            keys[signed_by] = Path(signed_by)
    return keys


def check_tools(arch: Arch) -> None:
    """Raises `recipe.tools` with everything that is missing, in one apt line, `recipe.no-apt` or `recipe.arch`."""
    mirror.apt_config()
    foreign = arch.value != os.uname().machine
    if foreign and arch is Arch.X86_64:
        raise DevboxError(
            "recipe.arch",
            "An x86_64 box can only be built on an x86_64 computer: its boot loader is not there for others.",
            hint="Use the ready image instead: `box: debian-12` without `recipe`.",
        )
    wanted = dict(_TOOLS)
    if arch is Arch.X86_64:
        wanted["syslinux"] = "syslinux"
    if os.getuid() != 0:
        wanted["newuidmap"] = "uidmap"
    if foreign:
        wanted["arch-test"] = "arch-test"
    missing = {package for program, package in wanted.items() if not _is_there(program)}
    if arch is Arch.X86_64 and not any(path.exists() for path in _GPTMBR):
        missing.add("syslinux-common")
    if not Path(mirror.KEYRING).exists():
        missing.add("debian-archive-keyring")
    if foreign and not _runs_foreign(arch):
        missing |= {"qemu-user-static", "binfmt-support"}
    if missing:
        names = " ".join(sorted(missing))
        raise DevboxError(
            "recipe.tools",
            f"Building this box needs packages that are not installed: {names}.",
            hint=f"sudo apt-get update && sudo apt-get install --no-install-recommends {names}",
        )


def _is_there(program: str) -> bool:
    try:
        proc.find_tool(program)
    except DevboxError:
        return False
    return True


def _runs_foreign(arch: Arch) -> bool:
    """Whether the kernel hands programs of that architecture to an emulator that is found from inside a chroot."""
    handler = Path("/proc/sys/fs/binfmt_misc") / f"qemu-{arch.value}"
    if not handler.exists():
        return False
    flags = next((line for line in handler.read_text().splitlines() if line.startswith("flags:")), "")
    return "F" in flags


def _run(words: tuple[str, ...], environment: Mapping[str, str], title: str) -> None:
    tail: deque[str] = deque(maxlen=_TAIL)
    with ui.step(title) as step:
        child = proc.stream((proc.find_tool(words[0]), *words[1:]), env=environment)
        assert child.stdout is not None
        try:
            for raw in child.stdout:
                line = raw.decode(errors="replace").split("\r")[-1].strip()
                if line:
                    tail.append(ui.clean(line))
                    step.update(line.removeprefix("I: "))
        finally:
            if child.poll() is None:
                child.terminate()
            status = child.wait()
            child.stdout.close()
        if status != 0:
            raise DevboxError(
                "recipe.failed",
                f"Building the box failed: mmdebstrap ended with status {status}.",
                hint="The last lines say why; most often the mirror cannot be reached, or the disk is full.",
                details="\n".join(tail),
            )
