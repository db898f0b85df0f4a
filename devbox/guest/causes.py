"""What a guest's serial log says about why it does not come up: a table of patterns, and the search in it. Pure."""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cause:
    """`final`: a guest that said this and then falls silent will not come up any more, so nobody needs to wait."""

    pattern: re.Pattern[str]
    text: str
    hint: str
    final: bool = False


def _cause(pattern: str, text: str, hint: str, *, final: bool = False) -> Cause:
    return Cause(re.compile(pattern, re.IGNORECASE), text, hint, final)


_OTHER_FIRMWARE = "Try the other `firmware` in the Devboxfile: bios or uefi."
_ANEW = "Make the machine anew: `devbox destroy`, then `devbox up`."
_LOOK = "See the whole log with `devbox logs --serial`."

# The more telling ones first: an emergency shell is often the consequence of a full or broken disk named before it.
CAUSES = (
    _cause(
        r"CPU does not support x86-64-v\d|trap invalid opcode|illegal instruction",
        "The box needs a newer CPU model than it was given.",
        "Report it with the name of the box; a box's CPU model is in boxes/.",
    ),
    _cause(
        r"No space left on device|filesystem full|no space left",
        "The guest's disk is full.",
        "Make it larger: raise `disk` in the Devboxfile, then `devbox reload`.",
    ),
    _cause(
        r"Out of memory: Kill|oom-kill:|System is deadlocked on memory",
        "The guest ran out of memory.",
        "Raise `memory` in the Devboxfile, then `devbox reload`.",
    ),
    _cause(
        r"VFS: Unable to mount root fs|ALERT!.*does not exist|dracut-initqueue.*(timeout|could not boot)",
        "The guest's kernel did not find its root file system.",
        _ANEW,
        final=True,
    ),
    _cause(r"Kernel panic - not syncing", "The guest's kernel panicked.", _LOOK, final=True),
    _cause(
        r"EXT4-fs error|XFS .*corruption|UNEXPECTED INCONSISTENCY|BTRFS error|I/O error, dev vd",
        "The guest's file system is damaged, or its disk cannot be read.",
        _ANEW,
    ),
    _cause(
        r"Give root password for maintenance|You are in (emergency|rescue) mode|the root account is locked"
        r"|Entering emergency mode|\(initramfs\)\s*$",
        "The guest went into emergency mode, mostly over a file system that it could not mount.",
        _LOOK,
        final=True,
    ),
    _cause(
        r"No bootable device|Boot failed: not a bootable disk|Operating system not found|Missing operating system",
        "The firmware found nothing to boot on the disk.",
        _OTHER_FIRMWARE,
        final=True,
    ),
    _cause(
        r"UEFI Interactive Shell|BdsDxe: (failed to load|No bootable option)",
        "The UEFI firmware found no boot loader on the disk.",
        _OTHER_FIRMWARE,
        final=True,
    ),
    _cause(
        r"grub rescue>|Minimal BASH-like line editing is supported",
        "The boot loader GRUB did not find its files.",
        _ANEW,
        final=True,
    ),
    _cause(
        r"Used fallback datasource|DataSourceNone|No 'init' modules to run|Datasource .* not found",
        "cloud-init did not find the seed, so there is no account to log in to.",
        _ANEW,
    ),
    _cause(
        r"Failed to start.*cloud-init|cloud-init.*(Traceback|CRITICAL|Failed to (create user|set)|failed to run)"
        r"|Failed Units?.*cloud-init",
        "cloud-init failed, and it sets up the account and the network.",
        _LOOK,
    ),
    _cause(
        r"Failed to start.*(ssh|OpenBSD Secure Shell)|sshd.*fatal:|sshd: no hostkeys available",
        "The guest's SSH server does not start.",
        _LOOK,
    ),
    _cause(
        r"(Timed out|timeout) waiting for network|Failed to start.*(network|Network).*|No DHCPOFFERS received",
        "The guest has no network.",
        _LOOK,
    ),
)


def likely(log: str) -> Cause | None:
    """The most telling cause that the log names."""
    return next((cause for cause in CAUSES if cause.pattern.search(log)), None)


def hopeless(log: str) -> Cause | None:
    """The cause after which a silent guest is not worth waiting for."""
    return likely(log) if any(cause.final and cause.pattern.search(log) for cause in CAUSES) else None
