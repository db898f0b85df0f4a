"""The project's own code against real Debian: when it is asked for, forced, changed, and when it fails.

That a playbook and a task are carried out on other releases too, test_guide.py shows. One machine, one boot.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checkout import Checkout

pytestmark = pytest.mark.e2e

DEVBOXFILE = """\
version: 1
name: plays
box: {recipe: debian-12}
memory: 1GiB
disk: 6GiB
folders: []
provision:
  - name: play
    ansible: {playbook: ansible/site.yml, groups: [web], extra_vars: {word: "it's here"}}
  - name: after
    run: echo x >>~/count
    needs: [play]
  - name: task
    python: {src: tasks.py, task: setup, args: {word: hello}}
"""

PLAYBOOK = """\
- hosts: web
  become: true
  gather_facts: false
  tasks:
    - name: motd
      copy: {dest: /etc/motd, content: "{{ word }} on {{ inventory_hostname }}\\n"}
"""

TASKS = """\
from fabric import task

@task
def setup(c, word):
    if c.run("cat /tmp/word", hide=True, warn=True).stdout == word:
        return "same"
    c.run(f"printf %s {word} >/tmp/word")
    c.sudo("install -m 0644 /tmp/word /etc/word")
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, person: dict[str, str]) -> Iterator[Checkout]:
    found = shutil.which("ansible-playbook", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if found is None:
        pytest.skip("Ansible is not installed")
    env = {**person, "PATH": f"{Path(found).parent}:{person['PATH']}"}
    checkout = Checkout(tmp_path_factory.mktemp("plays"), env)
    checkout.write(DEVBOXFILE)
    (checkout.root / "ansible").mkdir()
    (checkout.root / "ansible/site.yml").write_text(PLAYBOOK)
    (checkout.root / "tasks.py").write_text(TASKS)
    yield checkout
    checkout.devbox("destroy", "--yes")


def _read(checkout: Checkout, path: str) -> str:
    return checkout.devbox("run", "--", "sh", "-c", f"cat {path}").stdout


def test_nothing_of_it_runs_before_it_is_approved(checkout: Checkout) -> None:
    refused = checkout.devbox("up")
    assert refused.returncode != 0
    assert "`ansible/site.yml` of the project runs on this computer as you (Ansible playbook)" in refused.stderr
    assert "`tasks.py` of the project runs on this computer as you (Fabric task setup)" in refused.stderr


def test_the_playbook_and_the_task_are_carried_out(checkout: Checkout) -> None:
    done = checkout.devbox("up", "--approve=all")
    assert done.returncode == 0
    assert _read(checkout, "/etc/motd").startswith("it's here on plays")
    assert _read(checkout, "/etc/word") == "hello"
    assert "PLAY RECAP" in checkout.devbox("logs", "play").stdout


def test_a_second_run_changes_nothing(checkout: Checkout) -> None:
    done = checkout.devbox("provision")
    assert done.returncode == 0
    assert "4 same, 0 changed" in done.stderr
    assert _read(checkout, "~/count") == "x\n"


def test_when_forced_ansible_itself_says_same(checkout: Checkout) -> None:
    done = checkout.devbox("provision", "--force", "play")
    assert done.returncode == 0
    assert "4 same, 0 changed" in done.stderr
    checkout.devbox("run", "--", "sudo", "rm", "/etc/motd")
    assert "2 changed" in checkout.devbox("provision", "--force", "play").stderr
    assert _read(checkout, "~/count") == "x\nx\n"


def test_code_that_changed_is_asked_again(checkout: Checkout) -> None:
    (checkout.root / "tasks.py").write_text(TASKS.replace("/etc/word", "/etc/other"))
    assert checkout.devbox("provision").returncode != 0
    assert checkout.devbox("provision", "--approve=all").returncode == 0


def test_a_failing_task_is_named(checkout: Checkout) -> None:
    (checkout.root / "ansible/site.yml").write_text(f"{PLAYBOOK}    - {{name: bad one, command: /bin/false}}\n")
    failed = checkout.devbox("provision", "--approve=all")
    assert failed.returncode == 1
    assert "the playbook failed at the task `bad one`" in failed.stderr.lower()


@pytest.mark.skipif(
    os.environ.get("DEVBOX_TEST_SLOW") != "1",
    reason="installing Ansible in an emulated machine takes minutes; DEVBOX_TEST_SLOW=1 includes it",
)
def test_the_machines_own_ansible(checkout: Checkout) -> None:
    (checkout.root / "ansible/site.yml").write_text(PLAYBOOK)
    checkout.write(
        DEVBOXFILE.partition("  - name: play\n")[0]
        + "  - {name: tool, packages: [ansible-core]}\n"
        + "  - {name: inside, ansible: {playbook: ansible/site.yml, groups: [web], extra_vars: {word: inside},"
        + " local: true}}\n"
    )
    assert checkout.devbox("provision").returncode == 0
    assert _read(checkout, "/etc/motd") == "inside on localhost\n"
    assert "3 same, 0 changed" in checkout.devbox("provision").stderr
