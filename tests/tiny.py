"""The tiny guest image for machine tests: Debian's cloud kernel and a few programs, from power-on to SSH in seconds.

It reads devbox's own seed (tests/tiny/seed), so devbox boots it as it boots a real box. `python -m tests.tiny` builds
it and prints its path; it is cached under `.cache/` of the checkout (or DEVBOX_TEST_CACHE), keyed by what goes into it.
"""

import hashlib
import json
import os
from pathlib import Path

from devbox import fs
from devbox.box import bootstrap
from devbox.config.model import Arch

_HERE = Path(__file__).parent / "tiny"
_PROGRAMS = {"boot", "dhcp", "seed", "power-button", "off", "initramfs-init"}
_PLAN = bootstrap.Plan(
    title="Building the tiny guest of the tests",
    suite="bookworm",
    arch=Arch.X86_64,
    variant="essential",
    packages=("busybox-static", "e2fsprogs", "kmod", "mount", "openssh-server", "passwd", "rsync", "sudo"),
    files={
        **{f"/etc/tiny/{name}": (0o755, (_HERE / name).read_bytes()) for name in _PROGRAMS},
        "/etc/inittab": (0o644, (_HERE / "inittab").read_bytes()),
    },
    script=(_HERE / "setup.sh").read_text(),
    disk_mib=1024,
    esp_mib=48,
)


def default_cache() -> Path:
    return Path(os.environ.get("DEVBOX_TEST_CACHE") or Path(__file__).parents[1] / ".cache")


def tiny_image(cache: Path) -> tuple[Path, str]:
    """The image, a qcow2, and its sha256; built if it is not in `cache` yet."""
    inputs = [_PLAN.suite, _PLAN.variant, _PLAN.packages, _PLAN.script, _PLAN.disk_mib, _PLAN.esp_mib]
    inputs += [(path, mode, data.decode()) for path, (mode, data) in sorted(_PLAN.files.items())]
    inputs.append(bootstrap.disk_script())
    key = hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:16]
    image, digest = cache / f"tiny-{key}.qcow2", cache / f"tiny-{key}.sha256"
    cache.mkdir(parents=True, exist_ok=True)
    with fs.lock(cache / "tiny.lock", wait=900):
        if not digest.exists():
            aside = cache / f".tiny-{os.getpid()}.qcow2"
            aside.unlink(missing_ok=True)
            bootstrap.make(_PLAN, aside)
            aside.chmod(0o444)
            fs.publish(aside, image)
            fs.write_atomic(digest, fs.sha256_file(image).encode())
    return image, digest.read_text()


if __name__ == "__main__":
    print(*tiny_image(default_cache()))
