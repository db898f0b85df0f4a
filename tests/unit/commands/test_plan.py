"""What `devbox plan` says of a machine that is not there, of one that is off, and of one whose guest has been asked."""

import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from devbox.box import catalogue
from devbox.commands import outcome, plan, survey
from devbox.commands.survey import Plan
from devbox.config import build
from devbox.config.model import Arch, Firmware, Project
from devbox.disk import data
from devbox.disk import record as records
from devbox.disk.record import Record
from devbox.errors import DevboxError
from devbox.machine import argv, changes, host, started
from devbox.machine.changes import Change, Effect
from devbox.machine.lifecycle import State
from devbox.provision import bind
from devbox.provision.apply import Outcome, Report, Status
from devbox.provision.facts import Facts
from devbox.provision.step import Change as Field
from devbox.share.ports import Forward
from tests.unit.commands.invoke import invoke
from tests.unit.disk import machines
from tests.unit.machine.test_argv import LINUX

STEPS = """\
provision:
  - {name: one, run: echo one}
  - {name: two, run: echo two, needs: [one]}
  - {name: always, run: 'true', when: always}
  - {name: by hand, run: 'true', when: manual}
"""
HEAD = "version: 1\nbox: debian-12\narch: x86_64\nfolders: []\ncpus: 1\nmemory: 256MiB\n"


def edited(root: Path, text: str = STEPS) -> Project:
    (root / "Devboxfile").write_text(HEAD + text)
    return build.load(root)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(host, "probe", lambda *_, **__: LINUX)
    root = tmp_path / "project"
    root.mkdir()
    return root


@pytest.fixture
def record(root: Path, tmp_path: Path) -> Record:
    """A machine that was made from debian-12, has been started and provisioned, and is off."""
    project = edited(root)
    plain = machines.image(tmp_path / "store")
    label = catalogue.locate(project.machine.box, Arch.X86_64).traits.label
    record = records.ensure(project, replace(plain, traits=replace(plain.traits, label=label)), Firmware.BIOS)
    record.dir.disk.touch()
    record.dir.base.touch()
    started.save(record, argv.spec(record, project.machine))
    steps = bind.bind(project.machine.steps, root, "dev")
    status = {"by hand": Status.SKIPPED}
    run = [
        Outcome(step.name, "run", status.get(step.name, Status.CHANGED), digest=step.digest(Facts()), last=2.5)
        for step in steps
    ]
    outcome.remember_run(record, Report(tuple(run)), changes.settings(project.machine))
    return record


def keys(made: Plan) -> list[tuple[str, str, str]]:
    return [(one.key, str(one.effect), one.reason) for one in made.changes]


def test_a_machine_that_is_not_there_is_made_with_all_of_its_steps(root: Path) -> None:
    edited(root, "disks: [{name: db, size: 1GiB, mount: /db}]\n" + STEPS)
    shown = invoke("-C", str(root), "plan")
    assert shown.status == 10
    assert shown.stdout.splitlines() == [
        "+ machine debian-12 (x86_64), 1 CPU, 256MiB, 20GiB disk (create)",
        "+ data disk db 1GiB at /db (create)",
        "+ step `one` (run step): it has not run yet",
        "+ step `two` (run step): it has not run yet",
        "+ step `always` (run step): it has not run yet",
        "Plan: a new machine, 3 steps to run. `devbox up` carries it out.",
    ]
    assert not (root / ".devbox").exists(), "looking leaves nothing behind"


def test_nothing_to_do(root: Path, record: Record) -> None:
    shown = invoke("-C", str(record.project), "plan")
    assert (shown.status, shown.stdout) == (
        0,
        "Nothing to do: the machine is as the Devboxfile says. It is stopped; `devbox up` starts it.\n",
    )
    told = json.loads(invoke("-C", str(root), "plan", "--json").stdout)
    assert (told["state"], told["changes"], told["counts"]) == ("stopped", [], {})


def test_a_stopped_machine_goes_by_the_last_run(root: Path, record: Record) -> None:
    assert record.project == root
    text = STEPS.replace("echo one", "echo other") + "  - {name: new, run: 'true'}\n"
    edited(root, "env: {A: b}\nports: ['18080:80']\n" + text)
    (root / "Devboxfile.local").write_text("memory: 512MiB\n")
    shown = invoke("-C", str(root), "plan", "--json")
    assert shown.status == 10
    told = json.loads(shown.stdout)
    assert told["as_of"]
    assert [(one["key"], one["class"], one["old"], one["new"], one["last_seconds"]) for one in told["changes"]] == [
        ("memory", "restart", "256MiB", "512MiB", None),
        ("ports", "live", None, "18080 → 80", None),
        ("env", "live", None, "A=b", None),
        ("one", "run step", None, None, 2.5),
        ("two", "run step", None, None, 2.5),
        ("new", "run step", None, None, None),
    ]
    reasons = [one["reason"] for one in told["changes"][3:]]
    assert reasons == ["it is not what ran the last time", "it needs one", "it has not run yet"]
    assert told["counts"] == {"restart": 1, "live": 2, "run step": 3}


def test_a_step_that_failed_is_still_to_do(root: Path, record: Record) -> None:
    outcome.remember_run(record, Report((Outcome("one", "run", Status.FAILED),)), None)
    (one, two) = survey.look(build.load(root), LINUX).changes
    assert (one.key, one.reason, one.last_seconds) == ("one", "it failed the last time", 2.5)
    assert (two.key, two.reason) == ("two", "it needs one")


def test_a_machine_without_a_known_run_says_nothing_of_steps(root: Path, record: Record) -> None:
    record.dir.last_run.write_text("spoilt")
    made = survey.look(build.load(root), LINUX)
    assert (made.changes, made.steps) == ((), False)
    assert "no run of its steps is known" in "\n".join(plan.lines(made))


def test_a_data_disk_that_would_shrink_is_refused(root: Path, record: Record) -> None:
    data.ensure(record, edited(root, "disks: [{name: db, size: 128MiB, mount: /db}]\n").machine.disks)
    with pytest.raises(DevboxError, match="cannot shrink"):
        survey.look(edited(root, "disks: [{name: db, size: 64MiB, mount: /db}]\n"), LINUX)


def settings(status: Status, *fields: Field) -> Outcome:
    return Outcome("machine settings", "settings", status, changes=fields, last=1.0)


MEMORY = Change("memory", Effect.RESTART, "1GiB", "2GiB")
ENV = Change("env", Effect.LIVE, "A=1", "A=2")


def judged(project: Project, found: tuple[Change, ...], *outcomes: Outcome) -> Plan:
    return survey.with_report(State.RUNNING, found, Report(outcomes), project)


def test_the_guest_knows_best_whether_its_settings_are_so(root: Path) -> None:
    project = edited(root)
    assert judged(project, (MEMORY, ENV), settings(Status.SAME)).changes == (MEMORY,)
    env = Field("env", "a" * 64, "b" * 64)
    assert judged(project, (ENV,), settings(Status.WOULD_CHANGE, env)).changes == (ENV,)
    made = judged(project, (), settings(Status.WOULD_CHANGE, env, Field("apt_proxy", None, "c" * 64)))
    assert keys(made) == [("env", "live", "the machine differs"), ("proxy", "live", "the machine differs")]
    port = Change("ports", Effect.LIVE, None, "1 → 2 (web)")
    assert judged(project, (port,), settings(Status.WOULD_CHANGE, env)).changes == (port,), "the port's variable"


def test_steps_join_and_those_that_run_anyway_are_no_difference(root: Path) -> None:
    made = judged(
        edited(root),
        (MEMORY,),
        Outcome(
            "one", "run", Status.WOULD_CHANGE, changes=(Field("done", "a" * 64, "b" * 64),), reason="why", last=3.0
        ),
        Outcome("always", "run", Status.WOULD_CHANGE, reason="`when: always`"),
        Outcome("same", "file", Status.SAME),
        Outcome("skipped", "run", Status.SKIPPED),
        Outcome("maybe", "file", Status.UNKNOWN, reason="it depends on what an earlier step makes"),
        Outcome("f", "file", Status.WOULD_CHANGE, changes=(Field("mode", "0644", "0600"), Field("owner", None, "dev"))),
        Outcome("g", "file", Status.WOULD_CHANGE, changes=(Field("sha256", None, "a" * 64),)),
    )
    assert made.always == ("always",)
    assert made.changes == (
        MEMORY,
        Change("one", Effect.STEP, None, None, "why", 3.0),
        Change("maybe", Effect.STEP, None, None, "it depends on what an earlier step makes"),
        Change("f", Effect.STEP, "mode 0644", "mode 0600, owner dev"),
        Change("g", Effect.STEP, None, "content sha256 aaaaaaaa…"),
    )


def test_a_folder_that_waits_for_a_restart_is_told_once(root: Path) -> None:
    folder = Change("folders", Effect.RESTART, None, "/p → /src (9p)")
    mount = Outcome("folder /src", "mount", Status.WOULD_CHANGE, changes=(Field("mounted", None, "9p"),))
    assert judged(edited(root), (folder,), mount).changes == (folder,)
    assert [one.key for one in judged(edited(root), (), mount).changes] == ["folder /src"]


def test_the_words() -> None:
    made = Plan(
        State.RUNNING,
        (
            replace(MEMORY, last_seconds=12.3),
            Change("ports", Effect.LIVE, None, "8081 → 80"),
            Change("ports", Effect.LIVE, "8080 → 80", "8080 → 81"),
            Change("disks", Effect.RESTART, "old 1GiB", None, "its data stays in /x"),
            Change("box", Effect.REBUILD, "debian-12", "debian-13"),
            Change("f", Effect.STEP, "mode 0644", "mode 0600", last_seconds=0.2),
            Change("new", Effect.STEP, None, None, "it has not run yet"),
        ),
        ("tick",),
    )
    assert plan.lines(made) == [
        "~ memory 1GiB → 2GiB (restart, 12 s the last time)",
        "+ port 8081 → 80 (live)",
        "~ port 8080 → 81, now 8080 → 80 (live)",
        "- data disk old 1GiB (restart): its data stays in /x",
        "~ box debian-12 → debian-13 (rebuild)",
        "~ step `f` mode 0644 → mode 0600 (run step, 0.2 s the last time)",
        "+ step `new` (run step): it has not run yet",
        "At every `devbox up` anyway: tick.",
        "Plan: 2 live, 2 restart, 1 rebuild, 2 steps to run. "
        "`devbox up --recreate` carries it out with a new machine, `devbox up` all but the rebuild.",
    ]
    assert plan.summary(Plan(State.RUNNING)) == "Nothing to do: the machine is as the Devboxfile says."
    assert plan.summary(Plan(State.RUNNING, (MEMORY,))) == "Plan: 1 restart. `devbox up` carries it out."


def test_a_stopped_machine_s_ports_are_planned_without_asking_for_them(root: Path, record: Record) -> None:
    """That another program has one just now is no matter until the machine starts."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        (change,) = survey.look(edited(root, f"ports: ['{port}:80']\n" + STEPS), LINUX).changes
    assert change == Change("ports", Effect.LIVE, None, f"{port} → 80")
    assert record.project == root


def test_an_open_port_keeps_its_number(root: Path, record: Record) -> None:
    project = edited(root, "ports: [80]\n" + STEPS)
    started.corrected(record, forwards=(Forward("tcp", "127.0.0.1", 20000, 80),))
    assert survey.look(project, LINUX).changes == ()
