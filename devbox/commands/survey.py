"""What `up` would change: the Devboxfile and its lock against the machine and its journal → a `Plan`. Changes nothing.

The machine's own differences are pure (`machine/changes`). Those of the steps come from a probe run in the guest, or,
where nothing runs, from the host's copy of the last run.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from devbox.commands import outcome, rebuild, session, steps
from devbox.commands.outcome import LastRun
from devbox.config import trust, values
from devbox.config.model import MachineSpec, Project, When
from devbox.disk import data
from devbox.disk import record as records
from devbox.disk.record import Record
from devbox.guest import openssh
from devbox.machine import changes, lifecycle, started
from devbox.machine.changes import Change, Effect, Have, Wanted
from devbox.machine.host import HostFacts
from devbox.machine.lifecycle import Observation, State
from devbox.provision import bind, facts, report
from devbox.provision.apply import Context, Options, Outcome, Report, Status
from devbox.provision.plan import ACTS
from devbox.share import folders, ports
from devbox.share.folders import FolderSupport, Mount
from devbox.share.ports import Forward

_CONNECT = 60.0  # seconds
_SLOWEST = 10.0  # time limits for a machine that is emulated: here nothing tells whether it is
_ALIVE = frozenset({State.RUNNING, State.PAUSED})
_SHARED = {"mount": "folders", "disk": "disks"}  # kind of an internal step → key that it belongs to
# A field of the settings' state → the keys of the Devboxfile whose difference shows in it, the first one foremost.
_FIELDS = {"env": ("env", "proxy", "ports"), "apt_proxy": ("proxy",)}
_ENDED_WELL = frozenset({Status.SAME, Status.CHANGED, Status.SKIPPED})


@dataclass(frozen=True, slots=True)
class Plan:
    """`changes` are all differences, `always` the steps that run each time anyway. `as_of` is set where the steps'
    part is by the last run; `steps` False: nothing is known of them.
    """

    state: State
    changes: tuple[Change, ...] = ()
    always: tuple[str, ...] = ()
    as_of: str = ""
    steps: bool = True

    def of(self, *effects: Effect) -> tuple[Change, ...]:
        return tuple(change for change in self.changes if change.effect in effects)


def there(project: Project) -> Record | None:
    """The record of the project's machine, if that has been made."""
    record = records.find(project.root, project.machine.name)
    return record if record and record.dir.disk.exists() else None


def look(project: Project, host: HostFacts, *, patience: float = _CONNECT) -> Plan:
    """The whole plan. Raises what `wanted` and, for a running machine, a probe run raise."""
    record = there(project)
    if record is None:
        return creation(project)
    seen = lifecycle.observe(record)
    want = wanted(project, record, host, seen)
    found = of_machine(project, record, want, seen)
    if seen.state is State.RUNNING and seen.ssh_port:
        return with_report(seen.state, found, probed(project, record, want, seen, patience=patience), project)
    last = outcome.last_run(record)
    if last is None:
        return Plan(seen.state, found, steps=False)
    return Plan(seen.state, (*found, *_remembered(project, record, want, last)), as_of=last.at)


def shares(
    machine: MachineSpec, record: Record, host: HostFacts, seen: Observation, *, bound: bool
) -> tuple[tuple[Forward, ...], tuple[Mount, ...]]:
    """Ports and folders, planned for this computer. `bound`: the ports must be free, or the machine's own, as far as
    it can be asked which those are.

    Raises `port.taken` and `folder.impossible`.
    """
    alive = seen.state in _ALIVE
    own = {(one.bind, one.host, one.protocol) for one in seen.forwards}
    forwards = ports.plan(
        machine.ports,
        record.id,
        lambda *port: not bound or seen.state is State.NOT_ANSWERING or port in own or ports.free(*port),
        kept=seen.forwards if alive else started.load(record).forwards,
    )
    support = FolderSupport(host.virtiofsd, host.virtiofsd_unprivileged, host.ninep, host.uid)
    return forwards, folders.plan(machine, record.lacks, support)


def wanted(project: Project, record: Record, host: HostFacts, seen: Observation) -> Wanted:
    """What the file asks for. Raises what `shares` raises, and `port.taken` for a machine that runs only."""
    machine = rebuild.kept(project, record).machine
    forwards, mounts = shares(machine, record, host, seen, bound=seen.state in _ALIVE)
    return Wanted(project.machine, rebuild.asked_box(project), forwards, mounts)


def of_machine(project: Project, record: Record, want: Wanted, seen: Observation) -> tuple[Change, ...]:
    """The differences that need no look into the guest. Raises `disk.shrink` for a data disk."""
    data.refuse_to_shrink(record, project.machine.disks)
    had, last = started.load(record), outcome.last_run(record)
    settings = last.settings if last else None
    if settings is not None and record.dir.ssh_config.exists():
        settings = {**settings, "forward_agent": "ForwardAgent yes" in record.dir.ssh_config.read_text()}
    forwards = started.named(record, seen.forwards) if seen.state in _ALIVE else had.forwards
    return changes.between(want, Have(record, had, forwards, settings))


def probed(project: Project, record: Record, want: Wanted, seen: Observation, *, patience: float) -> Report:
    """What the steps would do in the running guest, as it would be with the wanted ports and folders."""
    from devbox.commands import approval

    if any(one.id.startswith("secret:") for one in trust.missing(project)):
        approval.require(project, "")  # or the probe run would read what nobody has allowed
    endpoint = session.endpoint(record, seen)
    door = openssh.knock(endpoint)
    from devbox.guest import connection

    with connection.connect(endpoint, patience, via=door) as guest:
        return steps.carry_out(
            guest,
            rebuild.kept(project, record),
            record,
            replace(seen, forwards=want.forwards),
            want.mounts,
            slowdown=_SLOWEST,
            options=Options(check=True),
            foreseen=lambda _: None,
        )


def with_report(state: State, found: Sequence[Change], made: Report, project: Project) -> Plan:
    """The machine's own differences and those that a probe run has told, as one plan."""
    every_time = {step.name for step in project.machine.steps if step.when is When.ALWAYS}
    waiting = {change.key for change in found if change.effect is Effect.RESTART}
    rows, always = list(found), []
    for one in made.outcomes:
        if one.kind == "settings":
            rows = _settled(rows, one)
        elif one.status not in ACTS or _SHARED.get(one.kind) in waiting:
            continue
        elif one.name in every_time and not one.changes and one.status is Status.WOULD_CHANGE:
            always.append(one.name)
        else:
            rows.append(_of_step(one))
    return Plan(state, tuple(rows), tuple(always))


def _settled(rows: list[Change], own: Outcome) -> list[Change]:
    """The guest itself knows best whether its settings are as they should be; what they were, the host's copy tells."""
    if own.status is Status.SAME:
        return [row for row in rows if row.key not in changes.GUEST_SETTINGS]
    known = {row.key for row in rows}
    more = [
        Change(keys[0], Effect.LIVE, _short(change.old), _short(change.new), "the machine differs", own.last)
        for change in own.changes
        for keys in [_FIELDS.get(change.field, (change.field,))]
        if not known & set(keys)
    ]
    return [*rows, *more]


def _of_step(one: Outcome) -> Change:
    """Of an action, which has no state, the reason says enough."""
    fields = [change for change in one.changes if change.field != "done"]
    old, new = (
        ", ".join(f"{report.called(name)} {_short(value)}" for name, value in pairs if value is not None) or None
        for pairs in (
            [(change.field, change.old) for change in fields],
            [(change.field, change.new) for change in fields],
        )
    )
    return Change(one.name, Effect.STEP, old, new, one.reason, one.last)


def _short(value: str | None) -> str | None:
    return None if value is None else report.shown(value)


def _remembered(project: Project, record: Record, want: Wanted, last: LastRun) -> Iterator[Change]:
    """The steps that are not as the last run left them, by what it was asked for. The guest itself may know better."""
    kept = rebuild.kept(project, record)
    numbers = steps.port_numbers(kept, want.forwards)
    machine = steps.with_ports(kept.machine, numbers)
    names = Context(kept.root, kept.name, machine, record.user, numbers).names
    known = facts.from_lines(last.facts, names)
    acting: set[str] = set()
    for step in bind.bind(kept.machine.steps, kept.root, record.user):
        before = last.steps.get(step.name)
        needed = next((name for name in step.spec.needs if name in acting), "") if step.restarts else ""
        if step.spec.when is When.MANUAL or (step.spec.when is When.ONCE and before and before.status in _ENDED_WELL):
            continue
        if before is None:
            reason = "it has not run yet"
        elif before.status not in _ENDED_WELL:
            reason = (
                f"it was {before.status} in the last run" if before.status != "failed" else "it failed the last time"
            )
        elif before.digest != step.digest(known):
            reason = "it is not what ran the last time"
        elif needed:
            reason = f"it needs {needed}"
        else:
            continue
        acting.add(step.name)
        yield Change(step.name, Effect.STEP, None, None, reason, before.seconds if before else None)


def creation(project: Project) -> Plan:
    machine = project.machine
    cpus = f"{machine.cpus} CPU{'' if machine.cpus == 1 else 's'}"
    size = f"{cpus}, {values.size_text(machine.memory)}, {values.size_text(machine.disk)} disk"
    box = rebuild.asked_box(project)
    rows = [Change("machine", Effect.CREATE, None, f"{box.label} ({machine.arch}), {size}")]
    there_already = {one.name: one for one in data.of(project.root, machine.name)}
    for disk in machine.disks:
        reason = "with the data that it has" if disk.name in there_already else ""
        new = f"{disk.name} {values.size_text(disk.size)} at {disk.mount}"
        rows.append(Change("disks", Effect.CREATE, None, new, reason))
    bound = bind.bind(machine.steps, project.root, machine.user.name)
    rows += [
        Change(step.name, Effect.STEP, None, None, "it has not run yet")
        for step in bound
        if step.spec.when is not When.MANUAL
    ]
    return Plan(State.MISSING, tuple(rows))
