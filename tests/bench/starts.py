"""The ways to a ready machine, side by side: cold by the plain and the fast profile (B1, B2), from a layer's disk, from
a template's memory (B6), out of suspension (B5); and those that end and mend one: halt (B17), a killed `up` (B22).

How a machine was started is read from QEMU's own command line, so that no row shows something else than it says.
"""

import os
import select
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from devbox import cli, paths
from devbox.config.model import Arch
from devbox.disk import record as records
from tests.bench import boot, disks
from tests.bench.boot import PLAIN, Start
from tests.bench.measure import NotRun, Row, Sample, run, together
from tests.bench.quick import DEVBOX

STEP = "provision:\n  - file: {path: /etc/bench, content: '1'}\n"

Pairs = list[tuple[Sample, Sample]]


@dataclass(frozen=True)
class _Way:
    """A way to start: `fits` says whether a start was of this way."""

    bar: str
    what: str
    limit: str
    go: "Callable[[_Place, str], Start]"
    fits: Callable[[Start], bool]
    needs: "Callable[[_Place], str]"  # why it cannot be measured here, "" where it can


@dataclass(frozen=True)
class _Place:
    """A store of the bench's own beside the tests' one, with its images and nothing else, and the Devboxfiles."""

    folder: Path
    firmware: str  # the line that insists on the plain profile, "" where there is no other

    @property
    def text(self) -> str:
        return PLAIN + STEP

    def up(self, name: str, *options: str, firmware: str = "") -> Start:
        return boot.start(boot.make_project(self.folder / name, PLAIN + firmware + STEP), *options)

    def has_layer(self) -> bool:
        return any((paths.cache_dir() / "index").glob("layer-*.json"))

    def has_template(self) -> bool:
        return any(paths.templates_dir().glob("[!.]*"))


def four(folder: Path, count: int) -> Iterator[Row]:
    """The four starts and the resume, one of each in every round, R first."""
    if os.uname().sysname != "Linux" or os.uname().machine != Arch.X86_64:
        raise NotRun("baseline R reads /proc and boots by BIOS: Linux on x86_64 only")
    boot.build_box(folder)
    place = _own_store(folder)
    seed, key = boot.plain_identity(folder)
    first = place.up("first")  # makes the layer and the template, where there are such things
    plain = first if not place.firmware else place.up("plain", *boot.without_layers(), firmware=place.firmware)
    qemu, image, mac = boot.same_qemu(plain.words), boot.image_of(first.record), first.record.mac
    for project in {first.record.project, plain.record.project}:
        boot.destroy(project)
    missing = {way: way.needs(place) for way in WAYS}
    pairs: dict[_Way, Pairs] = {way: [] for way in WAYS}
    suspended = _Suspended(folder, place)
    for number in range(count):
        print(f"bench: starts, round {number + 1} of {count}", file=sys.stderr)
        r = boot.baseline_boot(qemu, image, seed, key, "dev", mac)
        for way in WAYS:
            if not missing[way]:
                missing[way] = _measure(way, place, f"{number}-{way.bar}-{len(way.what)}", r, pairs[way])
        suspended.measure()
    for way in WAYS:
        note = missing[way] or (boot.accelerator(qemu) if way is WAYS[0] else "")
        yield Row(way.bar, way.what, "R", way.limit, () if missing[way] else tuple(pairs[way]), note=note)
    yield suspended.row()


def _measure(way: _Way, place: _Place, name: str, baseline: Sample, pairs: Pairs) -> str:
    """Adds a pair; else why it could not be measured."""
    try:
        start = way.go(place, name)
    except NotRun as reason:
        return str(reason)
    boot.destroy(start.record.project)
    if not way.fits(start):
        return "`devbox up` took another way"
    pairs.append((start.whole, baseline))
    return ""


def _plain(place: _Place, name: str) -> Start:
    return place.up(name, *boot.without_layers(), firmware=place.firmware)


def _fast(place: _Place, name: str) -> Start:
    return place.up(name, *boot.without_layers())


def _layer(place: _Place, name: str) -> Start:
    """With the templates out of the way, and none kept that this start makes."""
    templates, aside = paths.templates_dir(), place.folder / "templates-aside"
    templates.rename(aside) if templates.exists() else aside.mkdir()
    try:
        return place.up(name)
    finally:
        shutil.rmtree(templates, ignore_errors=True)
        aside.rename(templates)


def _template(place: _Place, name: str) -> Start:
    return place.up(name)


def _from_memory(start: Start) -> bool:
    return any(os.fspath(paths.templates_dir()) in word for word in start.words)


def _by_kernel(start: Start) -> bool:
    """The first boot's QEMU had the kernel; the one that goes on took over from it."""
    return "-kernel" in start.words or ("-incoming" in start.words and not _from_memory(start))


def _on_layer(start: Start) -> bool:
    return bool(start.record.layer)


WAYS = (
    _Way(
        "starts", "start: cold, plain profile", "1.03 wall, then 0.90 CPU", _plain,
        lambda start: not _by_kernel(start) and not _from_memory(start) and not _on_layer(start), lambda _place: "",
    ),
    _Way(
        "B2", "start: cold, fast profile", "0.40 CPU", _fast,
        lambda start: _by_kernel(start) and not _on_layer(start),
        lambda place: "" if place.firmware else "no fast profile in this devbox",
    ),
    _Way(
        "starts", "start: a layer's disk", "-", _layer,
        lambda start: _on_layer(start) and not _from_memory(start),
        lambda place: "" if place.has_layer() else "the first `up` left no layer",
    ),
    _Way(
        "B6", "start: a template's memory", "0.08", _template, _from_memory,
        lambda place: "" if place.has_template() else "the first `up` left no template",
    ),
)  # fmt: skip


class _Suspended:
    """One machine that is suspended and resumed in each round, against a command in it: B5."""

    def __init__(self, folder: Path, place: _Place) -> None:
        self._log = folder / "log"
        self._config = folder / "suspended_config"
        self._pairs: Pairs = []
        self._project: Path | None = None
        self._missing = "" if "suspend" in cli.VERBS else "no `devbox suspend` in this devbox"
        self._place = place

    def measure(self) -> None:
        if self._missing:
            return
        try:
            if self._project is None:
                self._project = self._place.up("suspended").record.project
            self._pairs.append(self._pair(self._project))
        except NotRun as reason:
            self._missing = str(reason)

    def _pair(self, project: Path) -> tuple[Sample, Sample]:
        run([DEVBOX, "suspend"], cwd=project, output=self._log)
        resumed = run([DEVBOX, "resume"], cwd=project, output=self._log)
        ssh = boot.fresh_ssh(project, self._config)  # its port may be another; not measured
        first = run(ssh, output=self._log)
        return together(resumed, first), run(ssh, output=self._log)

    def row(self) -> Row:
        if self._project:
            boot.destroy(self._project)
        note = self._missing or "wall; QEMU's CPU is not in it"
        pairs = () if self._missing else tuple(self._pairs)
        return Row("B5", "resume, to the first command", "S", "1.6", pairs, note=note)


def halting(folder: Path, count: int) -> Iterator[Row]:
    """B17: `halt` against the guest's own power-off, on one machine that is started again in between."""
    if sys.platform != "linux":
        raise NotRun("the baseline waits for QEMU's end by a Linux call")
    boot.build_box(folder)
    project = boot.make_project(folder / "halted", PLAIN)
    pairs: Pairs = []
    boot.start(project)
    try:
        for number in range(count):
            print(f"bench: halts, pair {number + 1} of {count}", file=sys.stderr)
            if number:
                boot.start(project)
            halted = run([DEVBOX, "halt"], cwd=project, output=folder / "log")
            boot.start(project)
            pairs.append((halted, _power_off(project, folder)))
    finally:
        boot.destroy(project)
    note = "wall; QEMU's CPU is not in it"
    yield Row("B17", "halt", "the guest's own power-off", "1.1", tuple(pairs), note=note)


def _power_off(project: Path, folder: Path) -> Sample:
    found = records.find(project)
    assert found is not None
    ssh = boot.fresh_ssh(project, folder / "ssh_config")
    watched = os.pidfd_open(int(found.dir.pidfile.read_text()))
    started = time.monotonic()
    # The connection ends with the guest, so the command's own status tells nothing.
    asked = run(["sh", "-c", '"$@" || :', "sh", *ssh[:-1], "sudo poweroff"], output=folder / "log")
    if not select.select([watched], [], [], 300)[0]:
        raise NotRun("the guest did not power off")
    os.close(watched)
    return Sample(time.monotonic() - started, asked.cpu)


def mending(folder: Path, count: int) -> Iterator[Row]:
    """B22: an `up` that is killed when its QEMU runs and the `up` after it, together, against an undisturbed one."""
    boot.build_box(folder)
    pairs: Pairs = []
    for number in range(count):
        print(f"bench: killed starts, pair {number + 1} of {count}", file=sys.stderr)
        text = PLAIN + boot.plain_profile(folder)
        broken = boot.make_project(folder / f"killed-{number}", text)
        started = time.monotonic()
        disks.begin(broken, folder / "log")
        again = boot.start(broken, *boot.without_layers())
        whole = Sample(time.monotonic() - started, again.whole.cpu)
        boot.destroy(broken)
        plain = boot.start(boot.make_project(folder / f"whole-{number}", text), *boot.without_layers())
        boot.destroy(plain.record.project)
        pairs.append((whole, plain.whole))
    note = "CPU without the killed command's own"
    yield Row("B22", "up, killed when QEMU runs, and up again", "up", "1.2", tuple(pairs), note=note)


def _own_store(folder: Path) -> _Place:
    """The images of the tests' store by hard links, with what is known of them; no layers, no templates."""
    shared, own = paths.cache_dir(), folder / "cache"
    for name in ("blobs/sha256", "records", "index"):
        (own / name).mkdir(parents=True, mode=0o700)
        for path in (shared / name).glob("[!.]*"):
            if not path.name.startswith("layer-"):
                os.link(path, own / name / path.name)
    os.environ["DEVBOX_CACHE_DIR"] = os.fspath(own)
    return _Place(folder, boot.plain_profile(folder))
