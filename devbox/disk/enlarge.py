"""A larger disk: its file system follows inside. Light, since `status` looks at data disks."""

from pathlib import Path

from devbox import proc, ui
from devbox.errors import DevboxError

QEMU_IMG_HINT = "Install it (Debian, Ubuntu: `apt install qemu-utils`; macOS: `brew install qemu`)."


def enlarge(disk: Path, size: int, what: str) -> None:
    """Make a disk that no machine runs on `size` bytes large. Raises `disk.grow-failed`."""
    tool = proc.find_tool("qemu-img", hint=QEMU_IMG_HINT)
    done = proc.run([tool, "resize", "-q", "-f", "qcow2", disk, str(size)], timeout=120)
    if done.status != 0:
        raise DevboxError(
            "disk.grow-failed",
            f"{what} could not grow to {ui.size(size)}.",
            hint="Stop the machine with `devbox halt` and try again.",
            details=done.error_text,
        )
