"""`make bench`: prints the table of ratios for the bars of performance. Asserts nothing and estimates nothing.

Every figure compares two commands run in turn in this very run: the median of the pairs, with the smallest and the
largest. CPU is of the whole process tree, QEMU with it, and is the column to trust under emulation.
"""

import argparse
import contextlib
import os
import platform
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from devbox import proc
from devbox.version import __version__
from tests.bench import boot, disks, provisioning, quick, starts
from tests.bench.measure import HEADER, NotRun, Row, line

Part = Callable[[Path, int], Iterator[Row]]

# The bars a part prints, the part, and whether it takes minutes, as a boot does.
PARTS: tuple[tuple[frozenset[str], Part, bool], ...] = (
    (frozenset({"B10"}), quick.start, False),
    (frozenset({"B11"}), quick.machines, False),
    (frozenset({"B13"}), quick.image_import, False),
    (frozenset({"B14"}), disks.creation, False),
    (frozenset({"B20"}), disks.further, False),
    (frozenset({"B17"}), disks.destroying, False),
    (frozenset({"P20"}), provisioning.twenty, True),
    (frozenset({"P100"}), provisioning.hundred, True),
    (frozenset({"B7", "B8", "B11"}), boot.running, False),
    (frozenset({"B1", "B3", "B21"}), boot.cold, True),
    (frozenset({"starts", "B2", "B5", "B6"}), starts.four, True),
    (frozenset({"B17"}), starts.halting, True),
    (frozenset({"B22"}), starts.mending, True),
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--only", default="", help="bars, e.g. B10,B13")
    parser.add_argument("--count", type=int, default=9, help="pairs of quick commands (default: 9)")
    parser.add_argument("--boots", type=int, default=3, help="pairs of what is slow: boots, provisioning (default: 3)")
    wanted = parser.parse_args()
    only = set(wanted.only.split(",")) - {""}
    if unknown := only - {bar for bars, _, _ in PARTS for bar in bars}:
        parser.error(f"no such bar: {', '.join(sorted(unknown))}")
    rows: list[Row] = []
    for bars, part, boots in PARTS:
        if not only or bars & only:
            print(f"bench: {', '.join(sorted(bars))}", file=sys.stderr)
            rows += _measure(bars, part, wanted.boots if boots else wanted.count)
    _print_table(rows)


def _measure(bars: frozenset[str], part: Part, count: int) -> list[Row]:
    rows: list[Row] = []
    with _places() as folder:
        try:
            for row in part(folder, count):  # one by one: what was measured before a failure is kept
                rows.append(row)
        except NotRun as reason:
            measured = {row.bar for row in rows}
            rows += [Row(bar, "", "", "", note=str(reason)) for bar in sorted(bars - measured)]
    return rows


@contextlib.contextmanager
def _places() -> Iterator[Path]:
    """Folders of the bench's own, beside the store, so that images can be hard-linked; the user's are not touched."""
    store = Path(os.environ.get("DEVBOX_TEST_CACHE", ".cache/tests")).absolute() / "devbox"  # the e2e tests' store
    store.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=store))
    runtime = Path(tempfile.mkdtemp(prefix="dbx-"))  # a socket's path is 107 bytes at most
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed devbox has its bytecode
    os.environ["DEVBOX_CACHE_DIR"] = os.fspath(store)
    os.environ["DEVBOX_STATE_DIR"] = os.fspath(folder / "state")
    os.environ["DEVBOX_RUNTIME_DIR"] = os.fspath(runtime)
    try:
        yield folder
    finally:
        for pidfile in runtime.glob("*/qemu.pid"):  # what a failed `up` left running
            with contextlib.suppress(OSError, ValueError):
                pid = int(pidfile.read_text())
                if os.fsencode(runtime) in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(runtime, ignore_errors=True)


def _print_table(rows: list[Row]) -> None:
    qemu = proc.run([proc.find_tool(f"qemu-system-{platform.machine()}"), "--version"]).text.splitlines()[0]
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"devbox {__version__}, Python {platform.python_version()}, {qemu}, {os.cpu_count()} cores, load {load}\n")
    cells = [HEADER, tuple("---" for _ in HEADER), *(line(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(HEADER))]
    for row in cells:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")


if __name__ == "__main__":
    main()
