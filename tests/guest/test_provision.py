"""The provisioning engine on a real guest over real SSH: channels, accounts, a lost connection, a power cut."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from devbox.config.model import StepSpec
from devbox.errors import DevboxError
from devbox.guest.connection import FabricGuest, connect
from devbox.guest.openssh import Endpoint
from devbox.machine import lifecycle
from devbox.provision import settings
from devbox.provision.apply import Context, Options, Report, provision
from tests.guest.conftest import Machine

pytestmark = pytest.mark.guest


@contextmanager
def reached(machine: Machine) -> Iterator[FabricGuest]:
    port = lifecycle.observe(machine.record).ssh_port
    assert port is not None
    folder = machine.record.dir
    with connect(Endpoint(port, machine.record.user, folder.login_key, folder.known_hosts), 60) as guest:
        yield guest


def go(guest: FabricGuest, machine: Machine, *steps: StepSpec, **options: Any) -> Report:
    context = Context(Path("/"), "demo", machine.spec, machine.record.user, slowdown=machine.facts.slowdown)
    return provision(guest, steps, context, Options(**options))


def statuses(report: Report) -> list[str]:
    return [str(outcome.status) for outcome in report.outcomes]


def step(kind: str, options: object, name: str, **common: Any) -> StepSpec:
    return StepSpec(name, kind, options, position="Devboxfile:1", **common)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.1)


def test_first_run_no_op_failure_and_resume(new_machine: Callable[..., Machine]) -> None:
    machine = new_machine(env={"STAGE": "it's a test"}, hosts={"db": "10.0.0.5"}, hostname="renamed")
    machine.boot()
    steps = (
        *settings.machine_steps(machine.spec, {}),
        step("user", {"name": "app", "uid": 1500, "groups": ["adm"], "shell": "/bin/sh"}, "user"),
        step("directory", {"path": "/srv/app", "owner": "app", "mode": "0750"}, "folder"),
        step("template", {"path": "/srv/app/conf", "content": "{{ hostname }} {{ os.id }}\n", "owner": "app"}, "conf"),
        step("run", 'echo "$(id -un) $HOME $PWD $STAGE $A" >whoami', "run", env={"A": "own"}),
        step("run", "id -un >/srv/app/who", "as app", user="app"),
        step("run", "test -e /tmp/flag || { echo the reason; exit 3; }", "picky"),
        step("run", "id -u >/root/last", "last", user="root", needs=("conf",)),
    )
    with reached(machine) as guest:
        with pytest.raises(DevboxError) as failure:
            go(guest, machine, *steps)
        assert "`picky` (Devboxfile:1) failed: exit status 3" in failure.value.message
        assert failure.value.details.endswith("\nthe reason")
        guest.run("touch /tmp/flag")
        before = guest.channels
        assert statuses(go(guest, machine, *steps)) == ["same"] * 6 + ["changed"] * 2
        assert guest.channels == before + 2
        assert statuses(go(guest, machine, *steps)) == ["same"] * 8
        assert guest.channels == before + 3

        def says(command: str) -> str:
            return guest.run(command).text.strip()

        user = machine.record.user
        assert says("cat whoami") == f"{user} /home/{user} /home/{user} it's a test own"
        assert says("sudo cat /srv/app/who /root/last") == "app\n0"
        assert says("sudo stat -c '%U %a' /srv/app; sudo cat /srv/app/conf") == "app 750\nrenamed debian"
        assert says("hostname; grep db /etc/hosts; . /etc/profile.d/devbox.sh; echo $STAGE") == (
            "renamed\n10.0.0.5 db\nit's a test"
        )
        assert says("id -u app; id -nG app") == "1500\napp adm"
        assert says("sudo ls /run/devbox") == "lock", "a run leaves its files"
        changed = step("template", {"path": "/srv/app/conf", "content": "new\n"}, "conf")
        edited = (*steps[:3], changed, *steps[4:])
        assert statuses(go(guest, machine, *edited)) == ["same"] * 3 + ["changed"] + ["same"] * 3 + ["changed"]


def test_a_lost_connection_and_a_power_cut(machine: Machine) -> None:
    machine.boot()
    steps = (
        step("file", {"path": "/etc/conf", "content": "1\n"}, "conf"),
        step("run", "echo x >>count; sync; until test -e gate; do sleep 0.2; done", "long"),
        step("run", "echo y >>count", "after", needs=("conf",)),
    )
    _lose(machine, steps)
    with reached(machine) as guest:
        assert go(guest, machine, *steps, check=True).preview, "a preview does not wait for the other run"
        follower = _Thread(lambda: go(guest, machine, *steps))
        machine.ssh("touch gate")
        assert statuses(follower.result()) == ["same"] * 3
        assert guest.run("cat count").text == "x\ny\n", "each ran once"
        guest.run("rm gate")

    edited = (step("file", {"path": "/etc/conf", "content": "2\n"}, "conf"), *steps[1:])
    again = (edited[0], step("run", steps[1].options + "; true", "long"), edited[2])
    _lose(machine, again)
    lifecycle.halt(machine.record, force=True)
    machine.boot()
    with reached(machine) as guest:
        guest.run("touch gate")
        # The file was changed and its receipt written before the power cut: what needs it must still run.
        assert statuses(go(guest, machine, *again)) == ["same", "changed", "changed"]
        assert guest.run("cat count").text == "x\ny\nx\nx\ny\n"
        assert statuses(go(guest, machine, *again)) == ["same"] * 3


def _lose(machine: Machine, steps: tuple[StepSpec, ...]) -> None:
    """Provisions until `long` is at work, and then kills the guest's side of the SSH connection."""
    lines = machine.ssh("cat count 2>/dev/null | wc -l")
    with reached(machine) as guest:
        session = guest.run("echo $PPID").text.strip()
        run = _Thread(lambda: go(guest, machine, *steps))
        until(lambda: machine.ssh("cat count 2>/dev/null | wc -l") != lines)
        machine.ssh(f"sudo kill -9 {session}")
        with pytest.raises(DevboxError) as lost:
            run.result()
    assert lost.value.id == "provision.connection-lost"
    assert "in the step `long`" in lost.value.message


class _Thread:
    """What the function returns or raises, once it has."""

    def __init__(self, function: Callable[[], Report]) -> None:
        self._found: Report | BaseException | None = None

        def work() -> None:
            try:
                self._found = function()
            except DevboxError as error:
                self._found = error

        self._thread = threading.Thread(target=work)
        self._thread.start()

    def result(self) -> Report:
        self._thread.join(120)
        if isinstance(self._found, BaseException):
            raise self._found
        assert self._found is not None, "it is still at work"
        return self._found
