"""What `up` does about a machine that is there already and is not as the Devboxfile says: tell, ask, and make room.

Afterwards the machine runs or stands still as what it is, and `up`'s own lines bring it to the rest: a stopped one is
started as the file says, a running one gets what can be had live.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace

from devbox import ui
from devbox.commands import asking, plan, rebuild, session, sleeping, survey
from devbox.commands.survey import Plan
from devbox.config import preferences
from devbox.config.model import Firmware, Project
from devbox.disk import overlay, trash
from devbox.disk import record as records
from devbox.disk.record import Record
from devbox.errors import DevboxError, ExitCode
from devbox.machine import argv, changes, lifecycle, live, started
from devbox.machine.argv import VmSpec
from devbox.machine.changes import Change, Effect
from devbox.machine.host import HostFacts
from devbox.machine.lifecycle import Running, State
from devbox.provision.apply import Report

_GOES_ON = frozenset({State.RUNNING, State.PAUSED, State.SUSPENDED})  # with what it was started with
_PATIENCE = 10.0  # seconds for a guest that should answer; one that boots is waited for later


class Converging:
    """A class, since what has been told once is not told again when the steps begin."""

    def __init__(self, declared: Project, host: HostFacts, *, yes: bool, recreate: bool) -> None:
        self._declared, self._host, self._yes, self._recreate = declared, host, yes, recreate
        self._told = False

    def settle(self, ready: Callable[[], object], *, steps: bool) -> Project:
        """The project as the machine can be had now. `ready` brings what a new machine needs, before the old one goes.

        Restarts and rebuilds are made possible here, after asking: the machine is shut down, or goes into the trash.
        """
        declared = self._declared
        record = survey.there(declared)
        if record is None:
            self._told = True  # All of it is new, which `up` says as it goes.
            return declared
        unwell = lifecycle.observe(record).state in {State.NOT_ANSWERING, State.DAMAGED}  # which `up` will say
        found = () if unwell else self._differences(record)
        if not found:
            return rebuild.as_made(declared, record)
        made = self._plan(record, found, steps=steps)
        if made.of(Effect.LIVE, Effect.RESTART, Effect.STEP) or (made.changes and self._recreate):
            self._tell(made)
        if self._recreate and made.of(Effect.REBUILD):
            self._remove(record, made.of(Effect.REBUILD), ready)
            return declared
        project = rebuild.as_made(declared, record)
        if made.of(Effect.RESTART) and lifecycle.observe(record).state in _GOES_ON:
            self._restart(record, project, made.of(Effect.RESTART))
        return project

    def foreseen(self, report: Report) -> None:
        """Hears what there is to do for the steps, where that has not been told yet."""
        if self._told:
            return
        made = survey.with_report(State.RUNNING, (), report, self._declared)
        if made.changes:
            self._tell(made)

    def _differences(self, record: Record) -> tuple[Change, ...]:
        seen = lifecycle.observe(record)
        want = survey.wanted(self._declared, record, self._host, seen)
        return survey.of_machine(self._declared, record, want, seen)

    def _plan(self, record: Record, found: Sequence[Change], *, steps: bool) -> Plan:
        """With the steps, where they can be seen; a guest that does not answer (yet) is no reason to stop."""
        only_rebuild = all(change.effect is Effect.REBUILD for change in found) and not self._recreate
        if steps and not only_rebuild:
            try:
                return survey.look(self._declared, self._host, patience=_PATIENCE)
            except DevboxError as trouble:
                if not trouble.id.startswith("guest."):
                    raise
        return Plan(lifecycle.observe(record).state, tuple(found), steps=False)

    def _tell(self, made: Plan) -> None:
        self._told = made.steps and not made.as_of
        told = [plan.line(one) for one in made.changes]
        ui.say("\n".join((*(f"  {line}" for line in told), f"  {plan.summary(made).partition('. ')[0]}.")))

    def _remove(self, record: Record, why: Sequence[Change], ready: Callable[[], object]) -> None:
        days = preferences.load().trash_days  # a mistake in them is told before
        asked = " and ".join(map(rebuild.words, why))
        if not self._yes:
            asking.require_yes(
                f"Make the machine anew, for {asked}? What is on its own disk goes, data disks are kept.",
                unasked=DevboxError(
                    "destroy.unconfirmed",
                    f"This would make the machine anew, for {asked}, and there is no terminal to ask on.",
                    hint="Say it with `devbox up --recreate --yes`.",
                    exit_code=ExitCode.USAGE,
                ),
            )
        ready()
        with records.locked(record), ui.step("Destroy the old machine; its data disks are kept"):
            lifecycle.destroy(record)
        trash.collect(days)

    def _restart(self, record: Record, project: Project, why: Sequence[Change]) -> None:
        named = ", ".join(dict.fromkeys(change.key for change in why))
        paused = lifecycle.observe(record).state is State.PAUSED  # it could not shut down in good order
        if paused or (not self._yes and not ui.confirm(f"Restart the machine now, for {named}?")):
            ui.warn(f"Only a restart applies {named}: `devbox up --yes`, or `devbox reload`. The rest is done now.")
            return
        self._refuse_early(record, project)
        with records.locked(record):
            # Another `up` may have done it while this one waited for the person or the lock.
            if not [one for one in self._differences(record) if one.effect is Effect.RESTART]:
                return
            sleeping.shut_down_first(record, force=False)
            with ui.step(f"Shut the machine down, to change {named}"):
                lifecycle.halt(record, guest_poweroff=functools.partial(session.power_off, record))

    def _refuse_early(self, record: Record, project: Project) -> None:
        """What would keep the machine from starting again is found before it is shut down."""
        overlay.held_image(record)
        forwards, mounts = survey.shares(project.machine, record, self._host, lifecycle.observe(record), bound=True)
        asked = project.machine.firmware
        fitted = record if asked is Firmware.AUTO else replace(record, firmware=asked)
        argv.build(argv.spec(fitted, project.machine, forwards=forwards, mounts=mounts), self._host)


def refit(record: Record, firmware: Firmware) -> Record:
    """The record of a machine that is about to start, with the firmware that the Devboxfile names by now."""
    return record if firmware in {Firmware.AUTO, record.firmware} else records.refitted(record, firmware)


def apply_live(running: Running, vm: VmSpec) -> Running:
    """Ports and copied folders of a machine that ran already, as they are wanted by now."""
    record, had = running.record, running.observation.forwards
    forwards = changes.live_forwards(vm.forwards, had)
    # One whose change has to wait for a restart stays as it is until then.
    if live.forward(record, had, forwards):
        seen = lifecycle.observe(record)
        running = replace(running, observation=seen)
    mounts = changes.merged_mounts(started.load(record).mounts, vm.mounts)
    started.corrected(record, forwards=forwards, mounts=mounts)
    return running
