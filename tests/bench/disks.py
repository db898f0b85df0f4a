"""The bars of a machine's files: making its disk (B14), what one more machine takes (B20), and destroying one (B17).

Nothing here waits for a guest: what is destroyed is a QEMU that has only just begun to boot.
"""

import functools
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from devbox import fs, ui
from devbox.box.store import Image
from devbox.box.traits import Traits
from devbox.config.model import Arch, BoxRef, Firmware, MachineSpec, Project
from devbox.disk import overlay, seed
from devbox.disk import record as records
from devbox.disk.record import Record
from tests.bench import boot
from tests.bench.measure import NotRun, Row, Sample, alternate, here, run, spread
from tests.bench.quick import DEVBOX

DISK = 20 << 30
KILL_AND_UNLINK = """
import os, select, shutil, signal, sys
import typer
pid = int(sys.argv[1])
watched = os.pidfd_open(pid)
os.kill(pid, signal.SIGKILL)
select.select([watched], [], [])
shutil.rmtree(sys.argv[2])
"""


def creation(folder: Path, count: int) -> Iterator[Row]:
    """B14: the stage's function against the tool that it calls; devbox also makes the disk durable."""
    image = _image(folder)
    numbers = iter(range(10_000))

    def candidate() -> Sample:
        record = _record(folder, image, next(numbers))
        return here(lambda: overlay.ensure(record, image))

    def baseline() -> Sample:
        disk = folder / f"plain-{next(numbers)}.qcow2"
        words = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", image.path, disk, str(DISK)]
        return here(functools.partial(subprocess.run, words, check=True))

    pairs = alternate(candidate, baseline, count=count)
    yield Row(
        "B14", "disk of a new machine", "qemu-img create -b", "1.3", pairs, note="devbox also syncs it to the disk"
    )


def further(folder: Path, count: int) -> Iterator[Row]:
    """B20: what the disk gives for one more machine on an image that is there, before its first boot."""
    image, taken = _image(folder), []
    for number in range(count):
        record = _record(folder, image, number)
        overlay.ensure(record, image)
        seed.ensure(record, _spec(number))
        taken.append(fs.allocated(record.dir.folder) / 1024)
    note = f"linked to an image of {ui.size(image.path.stat().st_size)}"
    yield Row("B20", "one more machine, before its boot", "-", "512 KiB", figure=spread(taken, " KiB"), note=note)


def destroying(folder: Path, count: int) -> Iterator[Row]:
    """B17: `destroy` of a running machine against the plug and an unlink, by a Python that has read a command line."""
    if sys.platform != "linux":
        raise NotRun("the baseline waits for QEMU's end by a Linux call")
    boot.build_box(folder)
    numbers = iter(range(10_000))

    def candidate() -> Sample:
        project, _ = _begun(folder, next(numbers))
        return run([DEVBOX, "destroy", "--yes"], cwd=project, output=folder / "log")

    def baseline() -> Sample:
        project, record = _begun(folder, next(numbers))
        pid = record.dir.pidfile.read_text().strip()
        return run([sys.executable, "-c", KILL_AND_UNLINK, pid, record.dir.folder], cwd=project, output=folder / "log")

    pairs = alternate(candidate, baseline, count=count)
    yield Row("B17", "destroy, running machine", "kill, unlink, import typer", "1.5", pairs)


def _begun(folder: Path, number: int) -> tuple[Path, Record]:
    """A machine whose QEMU was started a moment ago; the `up` that did so is gone."""
    project = boot.make_project(folder / f"begun-{number}", boot.PLAIN + boot.plain_profile(folder))
    return project, begin(project, folder / "log")


def begin(project: Path, log: Path) -> Record:
    """Start an `up`, and kill it as soon as its QEMU runs."""
    with log.open("wb") as output:
        child = subprocess.Popen(
            [DEVBOX, "up", *boot.without_layers()], cwd=project, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and child.poll() is None:
        record = records.find(project)
        if record and record.dir.status.exists() and _runs(record):
            child.send_signal(signal.SIGKILL)
            child.wait()
            return record
        time.sleep(0.02)
    child.kill()
    child.wait()
    raise NotRun(f"`devbox up` started no QEMU: {log.read_text(errors='replace')[-500:]}")


def _runs(record: Record) -> bool:
    try:
        return Path(f"/proc/{int(record.dir.pidfile.read_text())}").exists()
    except (OSError, ValueError):
        return False


def _image(folder: Path) -> Image:
    path = folder / "image.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "2G"], check=True)
    subprocess.run(["qemu-io", "-c", "write -P 1 0 64M", path], check=True, stdout=subprocess.DEVNULL)
    path.chmod(0o444)
    arch = Arch.X86_64
    traits = Traits("bench", arch, os="debian", user="dev", firmware=(Firmware.BIOS,), lacks=frozenset(), cpu="max")
    return Image(sha256=fs.sha256_file(path), path=path, format="qcow2", virtual_size=2 << 30, traits=traits)


def _spec(number: int) -> MachineSpec:
    arch = Arch.X86_64
    return replace(
        MachineSpec("default", {arch: BoxRef(name="debian-12")}, arch), disk=DISK, hostname=f"bench-{number}"
    )


def _record(folder: Path, image: Image, number: int) -> Record:
    root = folder / f"project-{number}"
    root.mkdir()
    return records.ensure(Project(root, f"bench-{number}", _spec(number)), image, Firmware.BIOS)
