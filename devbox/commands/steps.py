"""What `up` and `provision` share: bring the folders, carry the steps out, remember how it went, say the farewell."""

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from devbox import fs, ui
from devbox.commands import outcome, session
from devbox.config.model import FolderType, Project, StepSpec
from devbox.disk.record import Record
from devbox.errors import DevboxError, ExitCode
from devbox.guest import openssh
from devbox.guest.openssh import Endpoint
from devbox.machine import lifecycle
from devbox.machine.lifecycle import Observation
from devbox.provision import apply, bind, rendering, secrets, settings
from devbox.provision.apply import Context, Options, Report
from devbox.share import transfer
from devbox.share.folders import Mount

if TYPE_CHECKING:
    from devbox.guest.connection import Guest


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


def all_steps(project: Project, mounts: Sequence[Mount]) -> tuple[StepSpec, ...]:
    """The steps of the machine's own keys and of its mounted folders, then the user's."""
    mounted = [mount for mount in mounts if mount.type is not FolderType.RSYNC]
    return (
        *settings.machine_steps(project.machine, os.environ),
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
) -> Report:
    """The steps, carried out in the guest. `slowdown` stretches time limits. Raises what `apply.provision` raises."""
    chosen = options or Options()
    context = context_of(project, record, seen, slowdown=slowdown)
    try:
        report = apply.provision(guest, all_steps(replace(project, machine=context.machine), mounts), context, chosen)
    except DevboxError as lost:
        trouble = _told_by_the_machine(lost, record)
        if trouble.exit_code is ExitCode.FAILED:
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


def context_of(project: Project, record: Record, seen: Observation, *, slowdown: float) -> Context:
    """What provisioning must know of the machine that runs."""
    ports = port_numbers(project, seen)
    # A named port is known in the machine too, by the number it has on this computer.
    variables = {f"DEVBOX_PORT_{name.upper().replace('-', '_')}": str(number) for name, number in ports.items()}
    where = session.endpoint(record, seen)
    return Context(
        project_root=project.root,
        project_name=project.name,
        machine=replace(project.machine, env={**variables, **project.machine.env}),
        run_user=record.user,
        ports=ports,
        slowdown=slowdown,
        proxies=settings.proxy_environment(project.machine.proxy, os.environ),
        connect=lambda: _connect_again(where, record, slowdown),
        endpoint=where,
        secret_key=secrets.key(record.dir.login_key) if project.machine.secrets else b"",
    )


def _connect_again(where: Endpoint, record: Record, slowdown: float) -> "Guest":
    """A further connection, whatever the guest is doing: it may be starting again just now."""
    from devbox.guest import connection, ready

    with suppress(DevboxError):
        return connection.connect(where, 5.0)
    return ready.wait(where, slowdown=slowdown, serial_log=record.dir.serial_log, alive=lambda: session.ended(record))


def port_numbers(project: Project, seen: Observation) -> Mapping[str, int]:
    """Name → port of this computer, of the ports that have a name; QEMU tells which it took."""
    taken = {(forward.protocol, forward.guest): forward.host for forward in seen.forwards}
    return {
        port.name: taken[port.protocol, port.guest]
        for port in project.machine.ports
        if port.name and (port.protocol, port.guest) in taken
    }


def farewell(project: Project, seen: Observation) -> None:
    """The Devboxfile's `message`, or what to do next."""
    if not project.machine.message:
        ui.note("The machine is ready: `devbox ssh`.")
        return
    names = {
        "name": project.name,
        "hostname": project.machine.hostname,
        "ports": dict(port_numbers(project, seen)),
        "env": dict(project.machine.env),
        "ssh": "devbox ssh",
    }
    sys.stdout.flush()
    ui.say(rendering.render(project.machine.message, names, "message"))
