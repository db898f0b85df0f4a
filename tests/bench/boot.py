"""The bars that boot a machine: cold `up` (B1, B3, B21) against baseline R, and work on a running one (B8, B11)."""

import functools
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pycdlib

from devbox import paths
from devbox.config.model import Arch
from devbox.disk import record as records
from tests.bench import baseline
from tests.bench.measure import NotRun, Row, Sample, alternate, process_cpu, run
from tests.bench.quick import DEVBOX, IMPORT_TYPER

PLAIN = "version: 1\nbox: {recipe: debian-12}\nfolders: []\n"
STEPS = "".join(f"  - file: {{path: /etc/bench-{number}, content: '{number}'}}\n" for number in range(24))
PROVISIONED = f"{PLAIN}provision:\n{STEPS}  - run: 'true'\n"

_SAME = ("-machine", "-accel", "-cpu", "-smp", "-m")  # what makes the baseline's QEMU "the same QEMU"


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
    _build_box(folder)
    key = folder / "plain-key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    seed = _plain_seed(folder / "plain.iso", key.with_suffix(".pub").read_text())
    plain, same_seed, first = [], [], []
    for number in range(count):
        print(f"bench: cold boots, pair {number + 1} of {count}", file=sys.stderr)
        up = _cold_up(folder, f"up-{number}")
        plain.append((up.whole, _baseline(up, seed, key, "dev")))
        bare = _cold_up(folder, f"bare-{number}", "--no-provision")
        same_seed.append((bare.whole, _baseline(bare, bare.seed, bare.key, bare.user)))
        first.append((Sample(up.first_line, 0.0), run(IMPORT_TYPER)))
    yield Row("B1", "cold up, cached image", "R", "1.03 wall, then 0.90 CPU", tuple(plain), note=_accelerator(up.qemu))
    yield Row("B3", "cold up --no-provision", "R with devbox's seed", "0.3 s", tuple(same_seed), difference=True)
    yield Row(
        "B21", "up, first line of progress", "import typer", "0.1 s", tuple(first), difference=True, note="wall only"
    )


def running(folder: Path, count: int) -> Iterator[Row]:
    """B8 and B11 on one running machine with 25 steps."""
    project = _project(folder / "running", PROVISIONED)
    run([DEVBOX, "up"], cwd=project, output=folder / "log")
    try:
        config = folder / "ssh_config"
        run([DEVBOX, "ssh-config"], cwd=project, output=config)
        host = next(line.split()[1] for line in config.read_text().splitlines() if line.startswith("Host "))
        fresh: list[str | Path] = [
            "ssh",
            "-F",
            config,
            "-o",
            "ControlMaster=no",
            "-o",
            "ControlPath=none",
            host,
            "true",
        ]
        pairs = alternate(
            functools.partial(run, [DEVBOX, "provision"], cwd=project, output=folder / "log"),
            functools.partial(run, fresh),
            count=count,
        )
        yield Row("B8", "provision, 25 steps, nothing to do", "S", "2.0", pairs, note="wall; S works in the guest")
        pairs = alternate(
            functools.partial(run, [DEVBOX, "status"], cwd=project), functools.partial(run, IMPORT_TYPER), count=count
        )
        yield Row("B11", "status, running machine", "import typer", "1.5", pairs)
    finally:
        run([DEVBOX, "destroy", "--yes"], cwd=project, output=folder / "log")


def _build_box(folder: Path) -> None:
    """The image is in the store before anything is measured."""
    print("bench: building the box, if it is not in the store yet", file=sys.stderr)
    run([DEVBOX, "box", "build", "debian-12"], cwd=folder, output=folder / "log")


def _project(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "Devboxfile").write_text(text)
    return folder


def _cold_up(folder: Path, name: str, *options: str) -> Up:
    project = _project(folder / name, PLAIN)
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
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    kept = [shutil.copy2(path, folder / f"{name}.{path.name}") for path in (found.dir.seed, found.dir.login_key)]
    run([DEVBOX, "destroy", "--yes"], cwd=project, output=folder / "log")
    return Up(
        whole=whole,
        first_line=first_line,
        qemu=_same_qemu(words),
        image=paths.cache_dir() / "blobs/sha256" / found.image,
        seed=Path(kept[0]),
        key=Path(kept[1]),
        user=found.user,
        mac=found.mac,
    )


def _same_qemu(words: list[str]) -> tuple[str, ...]:
    """The program and the options that decide how fast it is; `-machine` without what names other options."""
    kept = [words[0]]
    for flag, value in zip(words[1:], words[2:], strict=False):
        if flag in _SAME:
            kept += [flag, value.partition(",")[0] if flag == "-machine" else value]
    return tuple(kept)


def _accelerator(words: tuple[str, ...]) -> str:
    return " ".join(f"{words[index]} {words[index + 1]}" for index in range(1, len(words), 2))


def _baseline(up: Up, seed: Path, key: Path, user: str) -> Sample:
    argv: list[str | Path] = [sys.executable, baseline.__file__, up.image, seed, key, user, up.mac, *up.qemu]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(done.stderr, file=sys.stderr)
        raise NotRun("baseline R did not come up")
    return Sample(**json.loads(done.stdout))


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
