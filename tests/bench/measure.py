"""Wall and CPU seconds of a command with all its children, and the comparison of two commands run in turn."""

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


class NotRun(Exception):
    """Why a bar could not be measured here: printed as it is, never replaced by an estimate."""


@dataclass(frozen=True)
class Sample:
    wall: float  # seconds
    cpu: float  # seconds, user and system


@dataclass(frozen=True)
class Row:
    bar: str
    what: str
    against: str
    limit: str
    pairs: tuple[tuple[Sample, Sample], ...] = ()  # candidate, baseline
    difference: bool = False  # the bar is in seconds more, not a ratio
    note: str = ""
    figure: str = ""  # what was measured, where it is no time


def run(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | Path = "/",
    output: Path | None = None,
) -> Sample:
    """Run to its end; what it prints goes to `output`. Raises `NotRun` when it fails."""
    log = output or Path(os.devnull)
    with log.open("wb") as file:
        started = time.monotonic()
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env={**os.environ, **(env or {})}, cwd=cwd
        )
        # wait4 gives the use of resources of this child and of all that it waited for, and of nobody else.
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.monotonic() - started
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        said = log.read_text(errors="replace")[-2000:] if output else "(run it by hand to see its output)"
        print(f"bench: {' '.join(str(word) for word in argv)}\n{said}", file=sys.stderr)
        raise NotRun(f"`{Path(argv[0]).name} {argv[1]}` ended with {child.returncode}")
    return Sample(wall, usage.ru_utime + usage.ru_stime)


def here(action: Callable[[], object]) -> Sample:
    """What `action` takes in this process and in the children that it waits for."""
    started, used = time.monotonic(), _used()
    action()
    return Sample(time.monotonic() - started, _used() - used)


def _used() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def together(*samples: Sample) -> Sample:
    """One after the other."""
    return Sample(sum(sample.wall for sample in samples), sum(sample.cpu for sample in samples))


def alternate(
    candidate: Callable[[], Sample], baseline: Callable[[], Sample], *, count: int, warm: bool = True
) -> tuple[tuple[Sample, Sample], ...]:
    """`count` pairs, one of each in turn, so that a machine that grows slow is slow for both."""
    if warm:
        candidate()
        baseline()
    return tuple((candidate(), baseline()) for _ in range(count))


def spread(values: Sequence[float], unit: str = "") -> str:
    """The median, with the smallest and the largest."""
    digits = 3 if unit and max(values) < 1 else 2
    low, middle, high = (f"{value:.{digits}f}" for value in (min(values), statistics.median(values), max(values)))
    return f"{middle}{unit} ({low}–{high})"


def line(row: Row) -> tuple[str, ...]:
    """A row's cells."""
    if row.figure:
        return (row.bar, row.what, row.against, row.limit, row.figure, "", "", "", row.note)
    if not row.pairs:
        return (row.bar, row.what, row.against, row.limit, "not run", "", "", "", row.note)
    compared = []
    for read in (_wall, _cpu):
        if row.difference:
            compared.append(spread([read(one) - read(other) for one, other in row.pairs], " s"))
        else:
            compared.append(spread([read(one) / read(other) for one, other in row.pairs]))
    medians = (
        f"{statistics.median(_wall(one) for one in side):.2f} / {statistics.median(_cpu(one) for one in side):.2f} s"
        for side in zip(*row.pairs, strict=True)
    )
    return (row.bar, row.what, row.against, row.limit, *compared, *medians, row.note)


HEADER = ("Bar", "What", "Against", "At most", "Wall", "CPU", "Candidate wall / CPU", "Baseline wall / CPU", "Note")


def _wall(sample: Sample) -> float:
    return sample.wall


def _cpu(sample: Sample) -> float:
    return max(sample.cpu, 0.001)  # rusage counts in milliseconds at best


def process_cpu(pid: int) -> float:
    """CPU seconds that a live process has used so far; Linux only."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
