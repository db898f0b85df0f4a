"""The bars that boot a machine: cold `up` (B1, B3, B21) against baseline R, and work on a running one (B7, B8, B11)."""

import functools
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pycdlib

from devbox import paths
from devbox.config.model import Arch
from devbox.disk import record as records
from devbox.disk.record import Record
from tests.bench import baseline
from tests.bench.measure import NotRun, Row, Sample, alternate, process_cpu, run
from tests.bench.quick import DEVBOX, IMPORT_TYPER

PLAIN = "version: 1\nbox: {recipe: debian-12}\nfolders: []\n"
STEPS = "".join(f"  - file: {{path: /etc/bench-{number}, content: '{number}'}}\n" for number in range(24))
PROVISIONED = f"{PLAIN}provision:\n{STEPS}  - run: 'true'\n"

_WIDE = {**os.environ, "COLUMNS": "200"}
_SAME = ("-machine", "-accel", "-cpu", "-smp", "-m")  # what makes the baseline's QEMU "the same QEMU"


@dataclass(frozen=True)
class Start:
    """An `up`: what it took, QEMU's with it, and how QEMU was started."""

    whole: Sample
    first_line: float  # seconds until the first byte of progress
    words: tuple[str, ...]
    record: Record


@dataclass(frozen=True)
class Up:
    """A cold `up`: what it took, and what a baseline needs to boot the same image in the same QEMU."""

    whole: Sample
    first_line: float  # seconds until the first byte of progress
    qemu: tuple[str, ...]
    image: Path
    seed: Path
    key: Path
    user: str
    mac: str


def cold(folder: Path, count: int) -> Iterator[Row]:
    """B1, B3 and B21, out of the same boots."""
    if os.uname().sysname != "Linux" or os.uname().machine != Arch.X86_64:
        raise NotRun("baseline R reads /proc and boots by BIOS: Linux on x86_64 only")
    build_box(folder)
    seed, key = plain_identity(folder)
    plain, same_seed, first = [], [], []
    for number in range(count):
        print(f"bench: cold boots, pair {number + 1} of {count}", file=sys.stderr)
        up = _cold_up(folder, f"up-{number}")
        plain.append((up.whole, baseline_boot(up.qemu, up.image, seed, key, "dev", up.mac)))
        bare = _cold_up(folder, f"bare-{number}", "--no-provision")
        own = (bare.seed, bare.key, bare.user, bare.mac)
        same_seed.append((bare.whole, baseline_boot(bare.qemu, bare.image, *own)))
        first.append((Sample(up.first_line, 0.0), run(IMPORT_TYPER)))
    yield Row("B1", "cold up, cached image", "R", "1.03 wall, then 0.90 CPU", tuple(plain), note=accelerator(up.qemu))
    yield Row("B3", "cold up --no-provision", "R with devbox's seed", "0.3 s", tuple(same_seed), difference=True)
    yield Row(
        "B21", "up, first line of progress", "import typer", "0.1 s", tuple(first), difference=True, note="wall only"
    )


def running(folder: Path, count: int) -> Iterator[Row]:
    """B7, B8 and B11 on one running machine with 25 steps."""
    project = make_project(folder / "running", PROVISIONED)
    run([DEVBOX, "up"], cwd=project, output=folder / "log")
    try:
        fresh = fresh_ssh(project, folder / "ssh_config")
        pairs = alternate(
            functools.partial(run, [DEVBOX, "provision"], cwd=project, output=folder / "log"),
            functools.partial(run, fresh),
            count=count,
        )
        yield Row("B8", "provision, 25 steps, nothing to do", "S", "2.0", pairs, note="wall; S works in the guest")
        pairs = alternate(
            functools.partial(run, [DEVBOX, "up"], cwd=project, output=folder / "log"),
            functools.partial(run, fresh),
            count=count,
        )
        yield Row("B7", "up, running machine, nothing to do", "S", "1.2", pairs, note="wall; S works in the guest")
        pairs = alternate(
            functools.partial(run, [DEVBOX, "status"], cwd=project), functools.partial(run, IMPORT_TYPER), count=count
        )
        yield Row("B11", "status, running machine", "import typer", "1.5", pairs)
    finally:
        run([DEVBOX, "destroy", "--yes"], cwd=project, output=folder / "log")


def build_box(folder: Path) -> None:
    """The image is in the store before anything is measured."""
    print("bench: building the box, if it is not in the store yet", file=sys.stderr)
    run([DEVBOX, "box", "build", "debian-12"], cwd=folder, output=folder / "log")


def make_project(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "Devboxfile").write_text(text)
    return folder


def fresh_ssh(project: Path, config: Path) -> list[str | Path]:
    """S: a command of one's own into the machine, by a connection of its own."""
    run([DEVBOX, "ssh-config"], cwd=project, output=config)
    host = next(line.split()[1] for line in config.read_text().splitlines() if line.startswith("Host "))
    return ["ssh", "-F", config, "-o", "ControlMaster=no", "-o", "ControlPath=none", host, "true"]


@functools.cache
def without_layers() -> tuple[str, ...]:
    """What makes an `up` a cold one; nothing where there are no layers yet."""
    said = subprocess.run([DEVBOX, "up", "--help"], capture_output=True, text=True, check=True, env=_WIDE).stdout
    return ("--no-layers",) if "--no-layers" in said else ()


@functools.cache
def plain_profile(folder: Path) -> str:
    """The line of a Devboxfile that insists on a boot by firmware with a seed; nothing where there is no other yet."""
    with tempfile.TemporaryDirectory(dir=folder) as project:
        (Path(project) / "Devboxfile").write_text(f"{PLAIN}boot: firmware\n")
        known = subprocess.run([DEVBOX, "validate"], cwd=project, capture_output=True, check=False).returncode == 0
    return "boot: firmware\n" if known else ""


def start(project: Path, *options: str) -> Start:
    """`devbox up` in the project, measured until it ends, which is when the machine is ready."""
    started = time.monotonic()
    child = subprocess.Popen(
        [DEVBOX, "up", *options],
        cwd=project,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert child.stderr is not None
    said = os.read(child.stderr.fileno(), 1 << 16)
    first_line = time.monotonic() - started
    while chunk := os.read(child.stderr.fileno(), 1 << 16):
        said += chunk
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.monotonic() - started
    child.returncode = os.waitstatus_to_exitcode(status)
    child.stderr.close()
    if child.returncode != 0:
        print(said.decode(errors="replace"), file=sys.stderr)
        raise NotRun(f"`devbox up` ended with {child.returncode}")
    found = records.find(project)
    assert found is not None
    pid = int(found.dir.pidfile.read_text())
    whole = Sample(wall, usage.ru_utime + usage.ru_stime + process_cpu(pid))  # QEMU is nobody's child by now
    return Start(whole, first_line, tuple(Path(f"/proc/{pid}/cmdline").read_text().split("\0")), found)


def destroy(project: Path) -> None:
    run([DEVBOX, "destroy", "--yes"], cwd=project, output=project / "log")


def _cold_up(folder: Path, name: str, *options: str) -> Up:
    project = make_project(folder / name, PLAIN + plain_profile(folder))
    up = start(project, *without_layers(), *options)
    files = up.record.dir
    kept = [shutil.copy2(path, folder / f"{name}.{path.name}") for path in (files.seed, files.login_key)]
    destroy(project)
    return Up(
        whole=up.whole,
        first_line=up.first_line,
        qemu=same_qemu(up.words),
        image=image_of(up.record),
        seed=Path(kept[0]),
        key=Path(kept[1]),
        user=up.record.user,
        mac=up.record.mac,
    )


def image_of(record: Record) -> Path:
    return paths.cache_dir() / "blobs/sha256" / record.image


def same_qemu(words: Sequence[str]) -> tuple[str, ...]:
    """The program and the options that decide how fast it is; `-machine` without what names other options."""
    kept = [words[0]]
    for flag, value in zip(words[1:], words[2:], strict=False):
        if flag in _SAME:
            kept += [flag, value.partition(",")[0] if flag == "-machine" else value]
    return tuple(kept)


def accelerator(words: tuple[str, ...]) -> str:
    return " ".join(f"{words[index]} {words[index + 1]}" for index in range(1, len(words), 2))


def baseline_boot(qemu: Sequence[str], image: Path, seed: Path, key: Path, user: str, mac: str) -> Sample:
    """R: the same QEMU by a short script of one's own, on the same image."""
    argv: list[str | Path] = [sys.executable, baseline.__file__, image, seed, key, user, mac, *qemu]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(done.stderr, file=sys.stderr)
        raise NotRun("baseline R did not come up")
    return Sample(**json.loads(done.stdout))


def plain_identity(folder: Path) -> tuple[Path, Path]:
    """A plain seed and the key of its account `dev`."""
    key = folder / "plain-key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    return _plain_seed(folder / "plain.iso", key.with_suffix(".pub").read_text()), key


def _plain_seed(path: Path, public_key: str) -> Path:
    """What the manual of cloud-init shows: one account and its key."""
    account = {
        "name": "dev",
        "sudo": "ALL=(ALL) NOPASSWD:ALL",
        "shell": "/bin/bash",
        "ssh_authorized_keys": [public_key.strip()],
    }
    texts = {"user-data": "#cloud-config\n" + json.dumps({"users": [account]}), "meta-data": '{"instance-id": "plain"}'}
    image = pycdlib.PyCdlib()
    image.new(interchange_level=3, vol_ident="cidata", rock_ridge="1.09", joliet=3)
    for name, text in texts.items():
        data = text.encode()
        short = name.upper().replace("-", "")
        image.add_fp(io.BytesIO(data), len(data), f"/{short}.;1", rr_name=name, joliet_path=f"/{name}")
    image.write(os.fspath(path))
    image.close()
    return path
