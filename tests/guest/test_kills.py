"""kill -9 of devbox, of the guest's sshd and of QEMU, at every boundary between steps and inside of each.

Afterwards `devbox up` must complete, and no step whose end was told may have run a second time. Then a restart that a
step asks for, steps of each boot, and a session in the place of a step. One machine for all of it.
"""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.checkout import DEVBOX, Checkout
from tests.guest.test_verbs import qemus
from tests.tiny import default_cache, tiny_image

pytestmark = pytest.mark.guest

HEAD = """\
version: 1
name: kills
box: {path: "IMAGE", sha256: SHA256}
cpus: 1
memory: 256MiB
disk: 2GiB
provision:
"""
STEPS = """\
  - name: conf
    file: {path: /etc/conf, content: "ROUND\\n"}
  - name: a
    run: {run: "echo a+ >>ledger.ROUND; sleep 0.4; echo a- >>ledger.ROUND"}
  - name: b
    run: {run: "echo b+ >>ledger.ROUND; sleep 0.4; echo b- >>ledger.ROUND"}
    needs: [conf]
    as: root
    cwd: /home/dev
  - name: c
    run: {run: "echo c+ >>ledger.ROUND; sleep 0.4; echo c- >>ledger.ROUND"}
"""


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, person: dict[str, str]) -> Iterator[Checkout]:
    checkout = Checkout(tmp_path_factory.mktemp("kills"), person)
    describe(checkout, STEPS.replace("ROUND", "0"))
    assert checkout.devbox("up", "--approve=all").returncode == 0
    yield checkout
    checkout.devbox("destroy", "--yes")


def describe(checkout: Checkout, steps: str) -> None:
    image, sha256 = tiny_image(default_cache())
    checkout.write(HEAD.replace("IMAGE", str(image)).replace("SHA256", sha256) + steps)


def events(checkout: Checkout, *arguments: str) -> list[dict[str, Any]]:
    done = checkout.devbox("provision", "--json", *arguments)
    assert done.returncode == 0
    return [json.loads(line) for line in done.stdout.splitlines()]


def kill_at(checkout: Checkout, moment: tuple[str, str], kill: Callable[[int], None]) -> set[str]:
    """Provisions until the event is told, and kills then; the steps whose end had been told."""
    ended: set[str] = set()
    with checkout.start("provision", "--json") as running:
        assert running.stdout is not None
        for line in running.stdout:
            event = json.loads(line)
            if event["event"] == "step-end" and event["status"] == "changed":
                ended.add(event["step"])
            if (event["event"], event.get("step")) == moment:
                kill(running.pid)
                break
        else:
            raise AssertionError(f"{moment} was never told")
        running.communicate()
    return ended


def devbox_dies(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


MOMENTS = [("step-end", name) for name in ("conf", "a", "b", "c")] + [("step-start", name) for name in ("a", "b", "c")]


@pytest.mark.parametrize("victim", ["devbox", "sshd", "qemu"])
def test_kill_at_every_boundary_and_inside_every_step(one: Checkout, person: dict[str, str], victim: str) -> None:
    def sshd_dies(pid: int) -> None:  # noqa: ARG001
        one.devbox("ssh", "-c", "sudo kill -9 $(pidof sshd)")

    def qemu_dies(pid: int) -> None:  # noqa: ARG001
        (qemu,) = qemus(person)
        os.kill(qemu, signal.SIGKILL)

    kill = {"devbox": devbox_dies, "sshd": sshd_dies, "qemu": qemu_dies}[victim]
    for number, moment in enumerate(MOMENTS):
        mark = f"{victim}{number}"
        describe(one, STEPS.replace("ROUND", mark))
        ended = kill_at(one, moment, kill)
        if moment[0] == "step-end":
            assert moment[1] in ended
        assert one.devbox("up").returncode == 0
        ledger = one.devbox("run", "--", "cat", f"/home/dev/ledger.{mark}").stdout.split()
        for name in ("a", "b", "c"):
            assert ledger.count(f"{name}-") >= 1, "it did not complete"
            if name in ended or victim != "qemu":  # what only loses its watcher goes on in the guest
                assert ledger.count(f"{name}+") == 1, f"{name} had ended, and ran again after {victim} died at {moment}"
        told = events(one)
        assert {event["status"] for event in told if event["event"] == "step-end"} == {"same"}
        assert one.devbox("run", "--", "cat", "/etc/conf").stdout == f"{mark}\n"


def test_a_restart_parts_the_run_and_steps_of_each_boot_follow_it(one: Checkout) -> None:
    boot_id = ["run", "--", "cat", "/proc/sys/kernel/random/boot_id"]
    before = one.devbox(*boot_id).stdout
    describe(
        one,
        """\
  - name: first
    run: cat /proc/sys/kernel/random/boot_id >boots; sudo touch /run/please
  - name: restart
    reboot: {if: "test -e /run/please"}
  - name: second
    run: cat /proc/sys/kernel/random/boot_id >>boots
    needs: [restart]
  - name: boot
    run: echo x >>each-boot
    when: boot
""",
    )
    done = one.devbox("provision")
    assert done.returncode == 0
    assert "4 changed" in done.stderr
    boots = one.devbox("run", "--", "cat", "/home/dev/boots").stdout.split()
    assert boots[0] == before.strip() != boots[1]
    assert one.devbox(*boot_id).stdout.strip() == boots[1]
    assert "0 changed" in one.devbox("provision").stderr
    assert one.devbox("reload").returncode == 0
    assert one.devbox("run", "--", "cat", "/home/dev/each-boot").stdout == "x\nx\n"
    assert one.devbox("logs", "restart").stdout == "restarting\nthe guest has started anew\n"


def test_a_session_in_the_place_of_a_step(one: Checkout) -> None:
    describe(
        one,
        """\
  - name: broken
    run: {run: "echo \\"it is $STAGE\\"; exit 3"}
    as: root
    cwd: /var/log
    env: {STAGE: "a 'test'"}
""",
    )
    failed = one.devbox("provision")
    assert failed.returncode == 1
    assert "The step `broken` (Devboxfile:8) failed: exit status 3." in failed.stderr
    assert "it is a 'test'" in failed.stderr
    assert "devbox ssh --at broken" in failed.stderr
    there = one.devbox("ssh", "--at", "broken", "-c", 'echo "$(id -un) $PWD $STAGE $HOME"')
    assert there.stdout == "root /var/log a 'test' /root\n"
    shell = subprocess.run(
        [DEVBOX, "ssh", "--at", "broken"],
        cwd=one.root,
        env=one.env,
        input="pwd; exit 5\n",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "/var/log" in shell.stdout
    assert shell.returncode == 5
    wrong = one.devbox("ssh", "--at", "brokn")
    assert wrong.returncode == 2
    assert "Did you mean `broken`?" in wrong.stderr
