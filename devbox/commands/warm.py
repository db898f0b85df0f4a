"""Warm starts in an `up`: a new machine goes on from the memory that goes with its layer, or leaves one for the next.

What goes wrong with a memory never keeps a machine from coming up: then the layer's disk boots.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from devbox import fs, ui
from devbox.commands.layering import Start
from devbox.errors import DevboxError
from devbox.machine import lifecycle, ram, suspend, template
from devbox.machine import start as starting
from devbox.machine.accelerator import Accelerator
from devbox.machine.argv import VmSpec
from devbox.machine.host import HostFacts
from devbox.machine.lifecycle import Running
from devbox.machine.qmp import Qmp
from devbox.machine.ram import RamFile
from devbox.machine.template import Template

_PATIENCE = 60.0  # seconds for QEMU to read or write what it is asked to


class Birth:
    """How a machine begins to run. A class, since its memory is a file without a name, open until it was saved."""

    def __init__(
        self,
        start: Start,
        vm: VmSpec,
        facts: HostFacts,
        found: Template | None,
        memory: RamFile | None,
        *,
        keeps: bool = True,
    ) -> None:
        self.vm = replace(vm, ram=memory.ram if memory else None)
        self._record, self._facts = start.record, facts
        self._template, self._memory, self._whole = found, memory, start.whole
        self._keeps = keeps
        self._aside: Path | None = None

    @property
    def title(self) -> str:
        return "Go on from the memory of its layer, in" if self._template else "Start"

    @property
    def remakes(self) -> bool:
        """Whether the layer holds all that one may, and lacks a memory for this kind of machine."""
        return self._keeps and self._whole and self._template is None

    def start(self) -> Running:
        """The machine runs: it goes on from a memory, or boots, or does so already."""
        if self._template and lifecycle.observe(self._record).state is lifecycle.State.STOPPED:
            try:
                self._go_on(self._template)
            except DevboxError as trouble:
                ui.warn(f"The disk of the layer boots instead, since its memory could not be used: {trouble.message}")
                lifecycle.halt(self._record, force=True)
                if trouble.id == "machine.memory-load" or "backing store" in trouble.details:
                    template.drop(self._template.folder)  # it is spoilt, and would be for every machine
                self._template = None
        # A QEMU that is given a kernel is soon changed for another one: that one gets the file.
        vm = replace(self.vm, ram=None) if self.vm.direct else self.vm
        return lifecycle.ensure_running(self._record, vm, self._facts)

    def _go_on(self, found: Template) -> None:
        starting.start(template.mapped(found, self.vm, self._memory), self._facts)
        with Qmp(self._record.dir.qmp, timeout=_PATIENCE) as qmp:
            template.load(qmp, found)
            qmp.execute("cont")
        fs.append_event(self._record.dir.log, event="warm start", template=found.folder.name)
        if self.vm.plugged:
            suspend.plug_folders(self._record, self.vm, self._facts)

    @contextmanager
    def at_last(self) -> Iterator[Callable[[Qmp], None]]:
        """Around the making of the last layer: what is given keeps the memory, which must hold no folder device."""
        if not self._keeps:
            yield lambda qmp: None
            return
        try:
            if self.vm.plugged:
                suspend.pull_folders(self._record)
        except DevboxError as trouble:
            ui.warn(f"The memory is not kept, so the next machine boots from the layer's disk: {trouble}")
            suspend.plug_folders(self._record, self.vm, self._facts)
            yield lambda qmp: None
            return
        try:
            yield self._save
        finally:
            if self.vm.plugged:
                suspend.plug_folders(self._record, self.vm, self._facts)

    def _save(self, qmp: Qmp) -> None:
        try:
            self._aside = template.save(qmp, self._memory)
        except (DevboxError, OSError) as trouble:
            ui.warn(f"The memory is not kept, so the next machine boots from the layer's disk: {trouble}")

    def keep(self, layer: str) -> None:
        """Give the memory that was saved its name, once its layer is in the store; without one it is of no use."""
        aside, self._aside = self._aside, None
        if aside is None:
            return
        if not layer:
            template.drop(aside)
            return
        try:
            template.publish(aside, layer, template.kind(self.vm, self._facts), label=self.vm.name)
        except (DevboxError, OSError) as trouble:
            template.drop(aside)
            ui.warn(f"The memory of the layer is not kept: {trouble}")

    def drop(self) -> None:
        if self._aside:
            template.drop(self._aside)


@contextmanager
def birth(start: Start, vm: VmSpec, facts: HostFacts) -> Iterator[Birth]:
    """How the machine begins: by the memory of its layer where there is a fitting one. Says why where there is not."""
    # The content of data disks is in no layer, and what the guest has in memory of them would be wrong. By hvf it was
    # not tried yet.
    if vm.disks or facts.accelerator is Accelerator.HVF:
        yield Birth(start, vm, facts, None, None, keeps=False)
        return
    found = _fitting(start, vm, facts)
    # Its own memory, as a file, is for what maps it beside QEMU: a folder's helper, and the next template.
    makes_one = start.fresh and not (start.whole and found)
    with ram.fresh(vm.memory if makes_one or (found and vm.virtiofs) else None) as memory:
        if found and vm.virtiofs and not memory:
            found = None
        begun = Birth(start, vm, facts, found, memory)
        try:
            yield begun
        finally:
            begun.drop()


def _fitting(start: Start, vm: VmSpec, facts: HostFacts) -> Template | None:
    if not start.fresh or start.layer is None:
        return None
    wanted = template.kind(vm, facts)
    found = template.find(start.layer.sha256, wanted)
    if found is None and (why := template.why_none(start.layer.sha256, wanted)):
        ui.note(f"The memory kept with that layer does not fit ({why}), so its disk boots.")
    return found
