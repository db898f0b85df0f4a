"""What `up` and `provision` share: bring the folders, carry the steps out, remember how it went, say the farewell."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from devbox import fs, ui
from devbox.commands import beside, outcome, session
from devbox.config.model import FolderType, MachineSpec, Project, StepSpec
from devbox.disk.data import Attached
from devbox.disk.record import Record
from devbox.errors import DevboxError, ExitCode
from devbox.guest import openssh
from devbox.machine import changes, lifecycle, started
from devbox.machine.lifecycle import Observation
from devbox.provision import apply, bind, rendering, secrets, settings
from devbox.provision.apply import Context, Options, Report, Status
from devbox.share import transfer
from devbox.share.folders import Mount
from devbox.share.ports import Forward

if TYPE_CHECKING:
    from devbox.guest.connection import Guest


_DONE = frozenset({Status.SAME, Status.CHANGED})


def bring_folders(project: Project, record: Record, seen: Observation, mounts: Sequence[Mount]) -> None:
    """Describe the machine to OpenSSH, and copy those folders that are copied; the others are mounted by a step."""
    agent = project.machine.forward_agent
    where = session.endpoint(record, seen)
    openssh.write_ssh_config(record.dir.ssh_config, where, record.name, record.dir.runtime, forward_agent=agent)
    transfer.push(mounts, record.dir.ssh_config)


def check(project: Project) -> None:
    """Find the mistakes that no schema sees (a missing `src`, a broken template) before a machine is touched."""
    rendering.check(project.machine.message, "`message`")
    bind.bind(project.machine.steps, project.root, project.machine.user.name)


def all_steps(
    project: Project, mounts: Sequence[Mount], disks: Sequence[Attached] | None = None
) -> tuple[StepSpec, ...]:
    """The steps of the machine's own keys, of its data disks and of its mounted folders, then the user's."""
    mounted = [mount for mount in mounts if mount.type is not FolderType.RSYNC]
    folders = {disk.name: disk.mount for disk in project.machine.disks}
    owner = project.machine.user.name
    return (
        *settings.machine_steps(project.machine, os.environ),
        *(settings.disk_step(one, folders[one.name], owner) for one in disks or () if one.name in folders),
        *(settings.mount_step(one.tag, str(one.type), one.guest, readonly=one.readonly) for one in mounted),
        *project.machine.steps,
    )


def carry_out(
    guest: "Guest",
    project: Project,
    record: Record,
    seen: Observation,
    mounts: Sequence[Mount],
    *,
    slowdown: float,
    options: Options | None = None,
    foreseen: Callable[[Report], None] | None = None,
) -> Report:
    """The steps, carried out in the guest. `slowdown` stretches time limits. Raises what `apply.provision` raises.

    `foreseen` hears what there is to do before anything is done; with `options.check` that is not printed then.
    """
    chosen = options or Options()
    disks = started.load(record).disks

    def ended(report: Report) -> None:
        applied = any(one.kind == "settings" and one.status in _DONE for one in report.outcomes)
        outcome.remember_run(record, report, changes.settings(project.machine) if applied else None)

    context = context_of(project, record, seen, slowdown=slowdown)
    context = replace(context, foreseen=foreseen, ended=None if chosen.check else ended)
    every = all_steps(replace(project, machine=context.machine), mounts, disks)
    try:
        report = apply.provision(guest, every, context, chosen)
    except DevboxError as lost:
        trouble = _told_by_the_machine(lost, record)
        if trouble.exit_code is ExitCode.FAILED and not chosen.check:
            outcome.remember(record, summary=trouble.message, ok=False)
        fs.append_event(record.dir.log, event="provision", error=trouble.id, message=trouble.message)
        openssh.drop_control(record.dir.ssh_config, openssh.host_alias(record.name))  # what was done may be new groups
        raise trouble from lost
    if not chosen.check:
        outcome.remember(record, summary=report.summary, ok=report.ok)
        fs.append_event(record.dir.log, event="provision", outcome=report.summary)
        host = openssh.host_alias(record.name)
        if report.changed or report.followed:
            # The kept connection of `run` and `ssh` has the groups and the environment of before.
            openssh.drop_control(record.dir.ssh_config, host)
        openssh.warm_control(record.dir.ssh_config, host, record.dir.runtime)
    return report


def _told_by_the_machine(trouble: DevboxError, record: Record) -> DevboxError:
    """A connection that is lost since the machine has ended is another trouble: nothing goes on in there."""
    if trouble.id != "provision.connection-lost":
        return trouble
    now = lifecycle.observe(record)
    if now.state is lifecycle.State.RUNNING:
        return trouble
    return DevboxError(
        "provision.killed",
        f"The machine has ended under the steps: it is {now.state}{f' ({now.reason})' if now.reason else ''}.",
        hint="`devbox up` starts it again and resumes where it stood.",
        details=trouble.details,
    )


def with_ports(machine: MachineSpec, ports: Mapping[str, int]) -> MachineSpec:
    """A named port is known in the machine too, by the number it has on this computer."""
    variables = {f"DEVBOX_PORT_{name.upper().replace('-', '_')}": str(number) for name, number in ports.items()}
    return replace(machine, env={**variables, **machine.env})


def context_of(project: Project, record: Record, seen: Observation, *, slowdown: float) -> Context:
    """What provisioning must know of the machine that runs."""
    ports = port_numbers(project, seen.forwards)
    where = session.endpoint(record, seen)
    return Context(
        project_root=project.root,
        project_name=project.name,
        machine=with_ports(project.machine, ports),
        run_user=record.user,
        ports=ports,
        slowdown=slowdown,
        proxies=settings.proxy_environment(project.machine.proxy, os.environ),
        connect=lambda: session.reach(record, where, slowdown=slowdown),
        endpoint=where,
        secret_key=secrets.key(record.dir.login_key) if project.machine.secrets else b"",
    )


def port_numbers(project: Project, forwards: Sequence[Forward]) -> Mapping[str, int]:
    """Name → port of this computer, of the ports that have a name; QEMU tells which it took."""
    fixed = {(port.protocol, port.host) for port in project.machine.ports}
    numbers = {}
    for port in project.machine.ports:
        for one in forwards:
            own = one.host == port.host or (port.host is None and (one.protocol, one.host) not in fixed)
            if port.name and own and (one.protocol, one.guest) == (port.protocol, port.guest):
                numbers[port.name] = one.host
    return numbers


def farewell(project: Project, seen: Observation) -> None:
    """The Devboxfile's `message`, or what to do next."""
    ssh = f"devbox ssh{beside.option(project.machine.name)}"
    if not project.machine.message:
        ui.note(f"The machine is ready: `{ssh}`.")
        return
    names = {
        "name": project.name,
        "hostname": project.machine.hostname,
        "ports": dict(port_numbers(project, seen.forwards)),
        "env": dict(project.machine.env),
        "ssh": ssh,
    }
    sys.stdout.flush()
    ui.say(rendering.render(project.machine.message, names, "message"))
