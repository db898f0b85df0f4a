"""`devbox test`, the pytest fixture and `devbox verify` on the tiny guest: one machine of a person's own, which keeps
its port and its process through all of it, and the machines that a verify makes beside it.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as xml

import pytest

from tests.checkout import Checkout
from tests.guest.test_lifecycle import free_port
from tests.guest.test_verbs import qemus
from tests.tiny import default_cache, tiny_image
from tests.unit.test_pytest_plugin import PLUGIN

pytestmark = pytest.mark.guest

HEAD = """\
version: 1
name: proof
box: {path: "IMAGE", sha256: SHA256}
cpus: 1
memory: 256MiB
disk: 2GiB
env: {STAGE: it's a test}
ports: [{guest: 8080, host: PORT, name: web}]
provision:
  - name: count
    run: echo run >> ~/count
  - name: tick
    run: echo tick >> ~/ticks
    when: always
"""
CHECKS = """\
checks:
  - {name: counted once, run: 'test "$(cat count)" = run'}
  - {name: knows its port, run: 'echo "$STAGE: $DEVBOX_PORT_WEB as $(id -un) in $PWD"'}
  - {name: root reads the journal, run: ls /var/lib/devbox/journal, as: root}
"""
BAD = """\
  - {name: fails, run: "echo out; echo err >&2; exit 3"}
  - {name: hangs, run: "echo begun; sleep 1000", timeout: 8s}
"""
RESTLESS = """\
  - name: restless
    run: {run: date, unless: "false"}
"""
USES_THE_FIXTURE = """
def test_state(devbox_machine):
    assert devbox_machine.file("/home/dev/count").content_string == "run\\n"
    assert devbox_machine.package("openssh-server").is_installed
    assert devbox_machine.user("dev").uid == 1000

def test_commands(devbox_machine):
    assert devbox_machine.run("exit 3").rc == 3
    with devbox_machine.sudo():
        assert devbox_machine.check_output("id -u") == "0"
"""


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, person: dict[str, str], port: int) -> Iterator[Checkout]:
    root = tmp_path_factory.mktemp("checks") / 'it\'s "one" 50%'
    root.mkdir()
    checkout = Checkout(root, person)
    describe(checkout, port)
    assert checkout.devbox("up", "--approve=all").returncode == 0
    yield checkout
    checkout.devbox("destroy", "--yes")


def describe(checkout: Checkout, port: int, *, steps: str = "", bad: bool = False) -> None:
    image, sha256 = tiny_image(default_cache())
    head = HEAD.replace("IMAGE", str(image)).replace("SHA256", sha256).replace("PORT", str(port))
    checkout.write(head + steps + CHECKS + (BAD if bad else ""))


def listed(checkout: Checkout) -> dict[str, dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(checkout.devbox("list", "--json").stdout)
    return {row["machine"]: row for row in rows}


def results(shown: str) -> dict[str, dict[str, Any]]:
    return {result["name"]: result for result in json.loads(shown)["results"]}


def alone(checkout: Checkout, port: int, pid: int) -> None:
    """Nothing is left beside the person's own machine, and that one runs as it did."""
    assert listed(checkout).keys() == {"default"}
    assert qemus(checkout.env) == [pid]
    seen = json.loads(checkout.devbox("status", "--json").stdout)
    assert (seen["state"], seen["ports"][0]["host"], seen["beside"]) == ("running", port, [])
    state = Path(checkout.env["DEVBOX_STATE_DIR"])
    assert [entry.name for entry in (state / "trash").iterdir()] == []
    assert [entry.name for entry in (state / "machines").iterdir() if entry.name[0] != "."] == [seen["id"]]


def until_it_runs_beside(checkout: Checkout, verify: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 120
    while listed(checkout).get("verify", {}).get("state") != "running":
        assert verify.poll() is None, "it has ended already"
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.2)


def test_checks_pass_fail_and_time_out(one: Checkout, port: int) -> None:
    passed = one.devbox("test", "--json", "--junit", "out/report.xml")
    assert passed.returncode == 0
    assert "✓ Checks: 3 passed" in passed.stderr
    said = results(passed.stdout)["knows its port"]["output"]
    assert said == f"it's a test: {port} as dev in /home/dev"
    assert xml.parse(one.root / "out/report.xml").getroot().get("failures") == "0"

    describe(one, port, bad=True)
    assert one.devbox("test", "counted once").returncode == 0
    failed = one.devbox("test", "--json", "--junit", "out/report.xml")
    assert failed.returncode == 1
    found = results(failed.stdout)
    assert [result["status"] for result in found.values()] == ["passed"] * 3 + ["failed"] * 2
    assert (found["fails"]["reason"], found["fails"]["output"]) == ("exit status 3", "out\nerr")
    assert found["hangs"]["reason"] == "it was stopped after its time limit of 8.0 s"
    assert "    begun\n" in failed.stderr
    assert "Checks: 3 passed, 2 failed" in failed.stderr
    assert xml.parse(one.root / "out/report.xml").getroot().get("failures") == "2"
    assert one.devbox("run", "--", "pgrep", "-f", "sleep 100[0]").returncode == 1, "what was late is ended"

    unknown = one.devbox("test", "count once")
    assert (unknown.returncode, "Did you mean `counted once`?" in unknown.stderr) == (2, True)
    describe(one, port)


def test_the_pytest_fixture(one: Checkout, tmp_path: Path) -> None:
    (tmp_path / "test_machine.py").write_text(USES_THE_FIXTURE)
    strict = ("-W", "error", "--strict-config", "-p", "no:cacheprovider", *PLUGIN)
    words = [sys.executable, "-m", "pytest", "-q", *strict, "--devbox-project", str(one.root), str(tmp_path)]
    env = {**one.env, "PYTHONPATH": str(Path(__file__).parent.parent.parent)}
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr)
    assert (done.returncode, "2 passed" in done.stdout) == (0, True)
    assert listed(one)["default"]["state"] == "running", "it ran before, so it goes on"


def test_a_killed_verify_is_cleaned_up_by_the_next(one: Checkout, person: dict[str, str], port: int) -> None:
    (own,) = qemus(person)
    with one.start("verify") as running:
        until_it_runs_beside(one, running)
        running.send_signal(signal.SIGKILL)
        running.communicate()
    left = listed(one)
    assert {row["state"] for row in left.values()} == {"running"}
    assert "devbox destroy --machine verify" in one.devbox("status").stdout
    assert len(qemus(person)) == 2

    done = one.devbox("verify", "--json", "--junit", "verify.xml")
    assert done.returncode == 0
    assert "Destroy the machine that an earlier verify left" in done.stderr
    found = results(done.stdout)
    assert {name: result["status"] for name, result in found.items() if result["status"] != "passed"} == {
        "tick": "skipped"
    }
    assert found.keys() >= {"up", "machine settings", "count", "counted once"}
    said = found["knows its port"]["output"].split()
    assert said[3].isdigit()
    assert said[3] != str(port), "its own port, by the same name"
    root = xml.parse(one.root / "verify.xml").getroot()
    assert (root.get("tests"), root.get("failures")) == (str(len(found)), "0")
    alone(one, port, own)


def test_a_step_that_changes_again_is_named(one: Checkout, person: dict[str, str], port: int) -> None:
    (own,) = qemus(person)
    describe(one, port, steps=RESTLESS)
    done = one.devbox("verify", "--junit", "verify.xml")
    assert done.returncode == 1
    assert "restless (Devboxfile:15): changed in the second run" in done.stderr
    assert "✓ Verify" not in done.stderr
    failed = [
        case.get("name") for case in xml.parse(one.root / "verify.xml").iter("testcase") if len(case.findall("failure"))
    ]
    assert failed == ["idempotent: restless"]
    alone(one, port, own)
    describe(one, port)


def test_an_interrupted_verify_leaves_nothing(one: Checkout, person: dict[str, str], port: int) -> None:
    (own,) = qemus(person)
    with one.start("verify", "--junit", "verify.xml") as running:
        until_it_runs_beside(one, running)
        running.send_signal(signal.SIGINT)
        said = running.communicate()[1].decode()
    assert running.returncode == 130, said
    assert "Verify:" not in said
    assert not os.path.lexists(one.root / "verify.xml"), "no report of an earlier run is left to be read"
    alone(one, port, own)
