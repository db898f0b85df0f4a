"""The words that a Devboxfile chooses from. Apart from the model, so that `status` need not build all of that."""

from enum import StrEnum


class Arch(StrEnum):
    X86_64 = "x86_64"
    AARCH64 = "aarch64"


class Firmware(StrEnum):
    AUTO = "auto"
    BIOS = "bios"
    UEFI = "uefi"


class Boot(StrEnum):
    AUTO = "auto"
    FIRMWARE = "firmware"


class Network(StrEnum):
    INTERNET = "internet"
    NONE = "none"
    HOST = "host"


class FolderType(StrEnum):
    AUTO = "auto"
    VIRTIOFS = "virtiofs"
    NINEP = "9p"
    SSHFS = "sshfs"
    RSYNC = "rsync"


class SyncMode(StrEnum):
    """Which way a folder of type rsync is kept the same."""

    PUSH = "push"
    PULL = "pull"
    BOTH = "both"


class When(StrEnum):
    CHANGED = "changed"
    ALWAYS = "always"
    BOOT = "boot"
    ONCE = "once"
    MANUAL = "manual"
