"""Layers in an `up`: which one a new machine begins with, and which ones are made of it while its first steps run.

Those steps are carried out before the project's folders are there, so nothing of a folder is ever in a layer. What
goes wrong with a layer never keeps a machine from coming up.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from devbox import fs, paths, proc, ui
from devbox.box import store
from devbox.box.store import Blob, Image
from devbox.commands import steps
from devbox.config.model import MachineSpec, Project, StepSpec
from devbox.disk import chain, first_boot, flatten, identity, layers
from devbox.disk import record as records
from devbox.disk.layers import Layer, Link
from devbox.disk.record import Record
from devbox.errors import DevboxError
from devbox.guest import quiesce
from devbox.machine import cut
from devbox.machine.lifecycle import Observation
from devbox.machine.qmp import Qmp
from devbox.provision import apply, bind, cacheable, facts, image_facts, settings
from devbox.provision.apply import Context, Options
from devbox.provision.script import Gates
from devbox.share import ports

if TYPE_CHECKING:
    from devbox.guest.connection import Guest

_QMP_PATIENCE = 60.0  # seconds: a cut lets QEMU write out what it has


@dataclass(frozen=True, slots=True)
class Start:
    """What a machine begins with: `stack` are the blobs under its disk, the uppermost first; none for the image."""

    record: Record
    layer: Layer | None = None
    stack: tuple[Blob, ...] = ()
    fresh: bool = False  # its disk is made in this very `up`, so what its first steps make of it can be kept
    whole: bool = False  # the layer holds all that layers may hold: none will be made of this machine


@dataclass(frozen=True, slots=True)
class Prefix:
    """The steps that may be in a layer, the machine's own settings first, and the key of the layer after each."""

    specs: tuple[StepSpec, ...]
    keys: tuple[str, ...]

    def names(self, count: int) -> tuple[str, ...]:
        """Of the user's steps among the first `count`."""
        return tuple(spec.name for spec in self.specs[1:count])


def begin(project: Project, record: Record, image: Image, *, wanted: bool) -> Start:
    """The longest layer that fits a machine without a disk, its identity taken over. The caller holds its lock."""
    if os.path.lexists(record.dir.disk):
        return Start(record)
    _forget_choice(record)
    found = _fitting(project, record) if wanted and image.sha256 == record.image else None
    if found is None:
        if wanted:
            identity.begin(record)
        return Start(records.founded(record, "", ""), fresh=wanted)
    layer, stack, whole = found
    identity.begin(record, layer.folder)
    count = f"{len(layer.steps)} steps" if len(layer.steps) != 1 else "one step"
    what = f"the layer of {count}" if layer.steps else "the layer of a first boot"
    ui.note(f"Start from {what}, made {_ago(layer.age)} (saves about {ui.duration(layer.seconds)}).")
    return Start(records.founded(record, layer.sha256, layer.mac), layer, stack, fresh=True, whole=whole)


def _forget_choice(record: Record) -> None:
    """One that was made before a kill does not bind, and with it goes the identity of that layer."""
    if identity.is_provisional(record):
        record.dir.seed.unlink(missing_ok=True)  # first: it speaks of that identity
        identity.settled(record)


def _fitting(project: Project, record: Record) -> tuple[Layer, tuple[Blob, ...], bool] | None:
    stable = image_facts.recall(record.image)
    if stable is None:
        return None
    keys = prefix(project, _planned(project, record), record, stable).keys
    found = layers.longest(keys)
    return (found[1], layers.stack(found[1]), found[1].chain == keys[-1]) if found else None


def _planned(project: Project, record: Record) -> Context:
    """What templates see of a machine that does not run yet."""
    declared = project.machine.ports
    forwards = ports.plan(declared, record.id, ports.free) if any(port.name for port in declared) else ()
    taken = {forward.name: forward.host for forward in forwards if forward.name}
    return Context(project.root, project.name, project.machine, record.user, ports=taken)


def prefix(project: Project, context: Context, record: Record, stable: Mapping[str, str]) -> Prefix:
    """The steps of this file that layers of this machine may hold, by what the guest of its image is."""
    machine = project.machine
    own = settings.machine_steps(replace(machine, hostname="", proxy="none"), {})
    bound = bind.bind((*own, *machine.steps), project.root, record.user)
    count = len(own) + cacheable.prefix(bound[len(own) :], machine)[0]
    known = facts.from_lines(stable, context.names)
    links = [Link(step.digest(known), step.key, dict(step.spec.condition)) for step in bound[:count]]
    keys = layers.chain(layers.root_key(record, _first_boot(record, machine)), links)
    return Prefix(tuple(step.spec for step in bound[:count]), keys)


def _first_boot(record: Record, machine: MachineSpec) -> dict[str, object]:
    return {
        "profile": first_boot.profile(record),
        "shell": machine.user.shell,
        "groups": list(machine.user.groups),
        "network": str(machine.network),
        # This computer's own proxy does not count. One that a repository names may answer what it likes, and must not
        # do so for the steps of another.
        "proxy": machine.proxy if "://" in machine.proxy else "",
    }


def make(
    guest: "Guest",
    project: Project,
    seen: Observation,
    start: Start,
    *,
    slowdown: float,
    at_last: Callable[[], AbstractContextManager[Callable[[Qmp], None]]],
    again: bool = False,
) -> str:
    """The cacheable steps of a new machine carried out, before its folders are there, and kept as layers.

    The sha256 of the layer that its disk stands on then, "" where it is none. `at_last` surrounds the making of the
    last one, and gives what is called while the machine stands still for it. With `again` the last one is made once
    more above itself, for the memory that it lacks.
    """
    record = start.record
    if not start.fresh or not identity.is_provisional(record):
        return record.layer
    context = replace(steps.context_of(project, record, seen, slowdown=slowdown), machine=project.machine)
    if any("@" in url for url in context.proxies.values()):
        ui.note("No layer is made: the proxy's address holds a password, which a step may have written down.")
        return record.layer
    stable = image_facts.recall(record.image) or image_facts.learn(guest, record.image, context)
    found = prefix(project, context, record, stable)
    if start.layer and start.layer.chain not in found.keys:
        return record.layer  # The disk is of another size by now, or a port another: no layer can be told by its key.
    kept = _Keeper(record, found, start.layer, context)
    whole = start.layer is not None and start.layer.chain == found.keys[-1]
    if whole and not again:
        return kept.sha256
    if not whole:
        try:
            apply.provision(
                guest, found.specs, replace(context, at_gate=kept.at_gate, gates=_gates(slowdown)), Options()
            )
        except DevboxError as failed:
            if failed.id != "provision.failed":
                raise
            ui.warn(f"{failed.message} It is tried again now that the project's folders are there.")
            return kept.sha256
    with at_last() as while_stopped:
        kept.keep(len(found.keys), guest, while_stopped=while_stopped, again=whole)
    return kept.sha256


def _gates(slowdown: float) -> Gates:
    return Gates(patience=Gates().patience * max(1.0, slowdown))


class _Keeper:
    """Makes layers of one machine: a class, since each stands on the one before."""

    def __init__(self, record: Record, found: Prefix, layer: Layer | None, context: Context) -> None:
        self.sha256 = layer.sha256 if layer else ""
        self._record, self._found, self._context = record, found, context
        self._before = layer.seconds if layer else 0.0
        self._begun, self._held_up = time.monotonic(), 0.0

    def at_gate(self, index: int, guest: "Guest", go_on: Callable[[], None]) -> None:
        """Behind the step at this place, while the run waits."""
        if len(chain.parents(self._record.dir)) < layers.DEEPEST:
            begun = time.monotonic()
            self.keep(index + 1, guest, go_on=go_on)
            self._held_up += time.monotonic() - begun

    def keep(
        self,
        count: int,
        guest: "Guest",
        *,
        go_on: Callable[[], None] = lambda: None,
        while_stopped: Callable[[Qmp], None] | None = None,
        again: bool = False,
    ) -> None:
        """The layer after the first `count` steps, unless there is one (and none is wanted `again`) or can be none."""
        key, parent = self._found.keys[count - 1], chain.parents(self._record.dir)[0].name
        spent = self._before + time.monotonic() - self._begun - self._held_up
        try:
            if (layers.find(key) and not again) or not store.have(parent):
                return
            with layers.claim(key), Qmp(self._record.dir.qmp, timeout=_QMP_PATIENCE) as qmp:
                sha256 = self._frozen(qmp, guest, go_on, while_stopped)
                record = self._record
                made = layers.publish(
                    record,
                    Layer(
                        sha256=sha256,
                        chain=key,
                        parent=parent,
                        image=record.image,
                        label=record.image_label,
                        mac=record.mac,
                        steps=self._found.names(count),
                        seconds=round(spent, 1),
                        created=layers.now(),
                    ),
                    again=again,
                )
        except (DevboxError, OSError) as trouble:
            if not (isinstance(trouble, DevboxError) and trouble.id == "lock.busy"):
                ui.warn(f"No layer is made here, and the machine goes on: {trouble}")
            return
        if made:
            self.sha256 = sha256
            _flatten_later(made)
            size = ui.size(made.blob.stat().st_blocks * 512)
            ui.note(f"Kept as a layer for the next machine: {_first(made.steps)} ({size}).")
            fs.append_event(self._record.dir.log, event="layer", sha256=sha256, steps=len(made.steps))

    def _frozen(
        self,
        qmp: Qmp,
        guest: "Guest",
        go_on: Callable[[], None],
        while_stopped: Callable[[Qmp], None] | None,
    ) -> str:
        saving = (lambda: while_stopped(qmp)) if while_stopped else None
        user, slowdown = self._context.run_user, self._context.slowdown
        with quiesce.quiet(guest, user, still=saving is None, slowdown=slowdown):
            self.sha256 = ""  # Until it is in the store nothing may be kept with it, least of all a memory.
            frozen = cut.freeze(self._record, qmp, while_stopped=saving)
        go_on()  # Nobody writes to the frozen file any more: the guest need not wait for its digest.
        sha256 = fs.sha256_file(frozen)
        cut.settle(self._record, qmp, frozen, sha256)
        return sha256


def stay_within_limit() -> None:
    """What was kept just now may be too much: then layers go that no machine uses and nobody asked for lately."""
    from devbox.commands import gc

    try:
        freed = gc.collect_layers(gc.policy(), dry_run=False)
    except (DevboxError, OSError) as trouble:
        ui.warn(f"The layers could not be kept within their limit: {trouble}")
        return
    if freed.removed:
        ui.note(f"Freed {ui.size(freed.size)} of layers that nobody uses any more: `devbox layers` shows the others.")


def _flatten_later(layer: Layer) -> None:
    """In the background, by a devbox of its own: it takes as long as a copy, and nobody waits for it."""
    if not flatten.is_deep(layer):
        return
    words = ("-c", "from devbox.launch import main; main()", "layers", "flatten", layer.sha256)
    places = {"DEVBOX_CACHE_DIR": os.fspath(paths.cache_dir()), "DEVBOX_STATE_DIR": os.fspath(paths.state_dir())}
    with (paths.cache_dir() / "flatten.log").open("wb") as log:
        proc.start((sys.executable, "-P", *words), log=log, env=places)


def _first(names: Sequence[str]) -> str:
    if not names:
        return "its first boot"
    return f"its first {len(names)} steps" if len(names) > 1 else f"its first step, `{names[0]}`"


def _ago(seconds: float) -> str:
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"
