"""Every file and folder name that devbox uses, and the upward search for the Devboxfile.

Names only: nothing here creates, reads or writes a file, except that `runtime_root` proves who owns the folder.
"""

import os
import stat
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

from devbox.errors import DevboxError, ExitCode

DEVBOXFILE = "Devboxfile"
LOCAL_FILE = "Devboxfile.local"
LOCK_FILE = "Devboxfile.lock"
PROJECT_DIR = ".devbox"
_PLATFORM: str = sys.platform  # mypy would take the other systems' lines for unreachable


def _user_dir(variable: str, kind: str) -> Path:
    override = os.environ.get(variable)
    if override:
        return Path(override).absolute()
    if _PLATFORM == "linux":  # what platformdirs answers here, without its 25 ms import
        base = os.environ.get(f"XDG_{kind.upper()}_HOME", "")
        default = Path.home() / {"cache": ".cache", "state": ".local/state", "config": ".config"}[kind]
        return (Path(base) if base.startswith("/") else default) / "devbox"
    import platformdirs  # noqa: PLC0415

    places = {
        "cache": platformdirs.user_cache_dir,
        "state": platformdirs.user_state_dir,
        "config": platformdirs.user_config_dir,
    }
    return Path(places[kind]("devbox"))


def cache_dir() -> Path:
    """Images and downloads: can be deleted at any time, at the cost of fetching again."""
    return _user_dir("DEVBOX_CACHE_DIR", "cache")


def state_dir() -> Path:
    """Machines, their disks and their identities: deleting this loses them."""
    return _user_dir("DEVBOX_STATE_DIR", "state")


def preferences_file() -> Path:
    """The user's own configuration, for all projects; only ever read."""
    return _user_dir("DEVBOX_CONFIG_DIR", "config") / "config.yaml"


def runtime_root() -> Path:
    """Sockets and pid files; short, since a socket path is 107 bytes at most (104 on macOS), and gone after a reboot.

    Raises `runtime.unsafe` when somebody else owns the folder: whoever owns it can talk to our machines.
    """
    override = os.environ.get("DEVBOX_RUNTIME_DIR")
    if override:
        root = Path(override).absolute()
    elif os.environ.get("XDG_RUNTIME_DIR") and Path(os.environ["XDG_RUNTIME_DIR"]).is_dir():
        root = Path(os.environ["XDG_RUNTIME_DIR"]) / "devbox"
    else:
        root = Path(f"/tmp/devbox-{os.getuid()}")
    try:
        info = root.lstat()
    except FileNotFoundError:
        return root
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid():
        raise DevboxError(
            "runtime.unsafe",
            f"{root} is not a folder of yours, so the machines' sockets are not safe in it.",
            hint=f"Remove it, or set DEVBOX_RUNTIME_DIR to a folder that only you can write: {root}",
        )
    return root


def machines_dir() -> Path:
    return state_dir() / "machines"


def trash_dir() -> Path:
    return state_dir() / "trash"


def layers_dir() -> Path:
    """What belongs to each provisioned layer beside its bytes: the keys by which a fork of it is first reached."""
    return cache_dir() / "layers"


def templates_dir() -> Path:
    """The memory of machines at the instant of a layer, for warm starts."""
    return cache_dir() / "templates"


def data_dir() -> Path:
    """Data disks, which outlive the machines that they are attached to."""
    return state_dir() / "data"


def resource_dir(name: str) -> Path:
    """`schemas` or `boxes`: inside the package when installed from a wheel, beside it in a checkout."""
    packed = Path(__file__).parent / name
    return packed if packed.is_dir() else Path(__file__).parent.parent / name


@dataclass(frozen=True, slots=True)
class MachineDir:
    """The files of one machine. `folder` holds identity and disks; `runtime` holds sockets and the pid file."""

    id: str

    @property
    def folder(self) -> Path:
        return machines_dir() / self.id

    @property
    def runtime(self) -> Path:
        return runtime_root() / self.id[:8]

    @property
    def record(self) -> Path:
        return self.folder / "record.json"

    @property
    def base(self) -> Path:
        return self.folder / "base.img"

    @property
    def disk(self) -> Path:
        return self.folder / "disk.qcow2"

    def parent(self, sha256: str) -> Path:
        """A file under the overlay: the image or a layer, by its digest, as the qcow2 headers name it."""
        return self.folder / sha256

    @property
    def provisional(self) -> Path:
        """The identity that the guest was born with, until it is renewed."""
        return self.folder / "provisional"

    @property
    def memory(self) -> Path:
        """The memory of a suspended machine."""
        return self.folder / "memory.state"

    @property
    def memory_hardware(self) -> Path:
        """The machine that this memory is of. While this file is there, the memory belongs to the disk as it is."""
        return self.folder / "memory.json"

    @property
    def snapshots(self) -> Path:
        return self.folder / "snapshots"

    @property
    def seed(self) -> Path:
        return self.folder / "seed.iso"

    @property
    def first_boot(self) -> Path:
        """What the guest is told at a first boot without a seed; there until that is over."""
        return self.folder / "first_boot"

    @property
    def adopted(self) -> Path:
        """The mark of a machine that was set up without cloud-init, and needs no seed."""
        return self.folder / "adopted"

    @property
    def firmware_vars(self) -> Path:
        return self.folder / "firmware_vars.fd"

    @property
    def login_key(self) -> Path:
        return self.folder / "id_ed25519"

    @property
    def host_key(self) -> Path:
        return self.folder / "host_ed25519"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    @property
    def ssh_config(self) -> Path:
        return self.folder / "ssh_config"

    @property
    def serial_log(self) -> Path:
        return self.folder / "serial.log"

    @property
    def qemu_log(self) -> Path:
        return self.folder / "qemu.log"

    @property
    def started(self) -> Path:
        return self.folder / "started.json"

    @property
    def hardware(self) -> Path:
        """The machine as QEMU was started last."""
        return self.folder / "machine.json"

    @property
    def outcome(self) -> Path:
        return self.folder / "outcome.json"

    @property
    def last_run(self) -> Path:
        """What each step was asked to be in the last run, for `plan` while the machine is off."""
        return self.folder / "last_run.json"

    @property
    def log(self) -> Path:
        return self.folder / "log.jsonl"

    @property
    def lock(self) -> Path:
        return self.folder / "lock"

    @property
    def qmp(self) -> Path:
        return self.runtime / "qmp.sock"

    @property
    def status(self) -> Path:
        return self.runtime / "status.sock"

    @property
    def console(self) -> Path:
        return self.runtime / "console.sock"

    @property
    def pidfile(self) -> Path:
        return self.runtime / "qemu.pid"

    def socket(self, name: str) -> Path:
        """Where a forwarded socket of the guest is on this computer."""
        return self.runtime / f"{name}.fwd"

    @property
    def exports(self) -> Path:
        return self.runtime / "exports"

    def export(self, name: str) -> Path:
        """Where an exported file of the guest is on this computer."""
        return self.exports / name

    @property
    def supervise(self) -> Path:
        """What the machine's supervisor is to hold."""
        return self.folder / "supervise.json"

    @property
    def supervise_log(self) -> Path:
        return self.folder / "supervise.log"

    @property
    def supervise_lock(self) -> Path:
        """Locked by the supervisor while it lives, which is how it is known to."""
        return self.runtime / "supervise.lock"

    @property
    def supervise_state(self) -> Path:
        """What the supervisor holds, as it tells; true only while its lock is held."""
        return self.runtime / "supervise.state"

    @property
    def line(self) -> Path:
        """The control socket of the supervisor's own SSH connection."""
        return self.runtime / "line.sock"

    def virtiofs(self, tag: str) -> Path:
        return self.runtime / f"{zlib.crc32(tag.encode()):08x}.fs"


def find_project(start: Path) -> Path:
    """The nearest folder at or above `start` that holds a Devboxfile.

    Stops at the home folder's and at a file system's boundary. Raises `project.missing`.
    """
    start = start.absolute()
    home, device = Path.home(), start.stat().st_dev
    for folder in (start, *start.parents):
        if folder.stat().st_dev != device:
            break
        if (folder / DEVBOXFILE).is_file():
            return folder
        if folder == home:
            break
    raise DevboxError(
        "project.missing",
        f"There is no {DEVBOXFILE} in {start} or above it.",
        hint="Write one with `devbox init`, or go to the folder of your project.",
        exit_code=ExitCode.USAGE,
    )
