"""What is decided about a verify; the real thing is in tests/guest/test_checks.py."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from devbox.commands import list as list_verb
from devbox.commands import up, verify
from devbox.config.model import Arch, Check, Firmware, MachineSpec, Port, Project, StepSpec, When
from devbox.disk import hint
from devbox.disk import record as records
from devbox.errors import DevboxError
from devbox.provision.plan import Status
from devbox.provision.report import Outcome, Report
from devbox.provision.step import Change
from tests.unit.commands.invoke import invoke
from tests.unit.disk import machines


def project(root: Path = Path("/p"), **machine: Any) -> Project:
    return Project(root, "shop", MachineSpec("default", {}, Arch.X86_64, **machine))


def test_the_machine_beside_takes_no_port_that_yours_may_have(capsys: pytest.CaptureFixture[str]) -> None:
    ports = (Port(80, 8080, name="web"), Port(53, protocol="udp"))
    made = verify.fresh(project(ports=ports)).machine
    assert (made.name, made.ports) == (verify.MACHINE, (Port(80, name="web"), Port(53, protocol="udp")))
    assert "free ones stand in for 8080." in capsys.readouterr().err
    verify.fresh(project(ports=ports[1:]))
    assert capsys.readouterr().err == ""


def test_a_step_that_changes_again_is_a_failure_unless_it_is_meant_to() -> None:
    steps = (
        StepSpec("conf", "file", {}, position="Devboxfile:4"),
        StepSpec("tick", "run", "date", when=When.ALWAYS),
        StepSpec("other", "run", "x"),
    )
    outcomes = (
        Outcome("machine settings", "settings", Status.SAME),
        Outcome("conf", "file", Status.CHANGED, 0.5, (Change("mode", "0644", "0600"),)),
        Outcome("tick", "run", Status.CHANGED),
        Outcome("other", "run", Status.SKIPPED, reason="it is for fedora"),
        Outcome("lost", "run", Status.NOT_REACHED),
    )
    cases = verify.unchanged(project(steps=steps), Report(outcomes))
    assert [(case.name, case.status) for case in cases] == [
        ("machine settings", "passed"),
        ("conf", "failed"),
        ("tick", "skipped"),
        ("other", "skipped"),
        ("lost", "failed"),
    ]
    assert cases[1].failure == "changed in the second run: mode: 0644 → 0600"
    assert (cases[1].position, cases[1].seconds) == ("Devboxfile:4", 0.5)


def test_what_does_not_come_up_leaves_the_rest_unjudged_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, image = machines.record(tmp_path)

    def broken(*_: object) -> None:
        raise DevboxError("provision.failed", "The step `a` failed.", details="why\n")

    monkeypatch.setattr(up, "reach", broken)
    asked = project(steps=(StepSpec("a", "run", "x"),), checks=(Check("c", "true"),))
    facts: Any = None
    cases = verify._prove(asked, record, image, facts)
    assert [(case.name, case.status) for case in cases] == [("up", "failed"), ("a", "skipped"), ("c", "skipped")]
    assert (cases[0].failure, cases[0].output) == ("The step `a` failed.", "why\n")
    with pytest.raises(DevboxError) as caught:
        verify._tell(asked, cases, 1.0, keep=False)
    assert caught.value.id == "verify.failed"
    assert "The step `a` failed." in caught.value.details


@pytest.fixture
def both(tmp_path: Path) -> tuple[Project, records.Record, records.Record]:
    """A project with its own machine and one beside it."""
    asked = machines.project(tmp_path / "project")
    image = machines.image(tmp_path / "store")
    own = records.ensure(asked, image, Firmware.BIOS)
    beside = records.ensure(replace(asked, machine=replace(asked.machine, name=verify.MACHINE)), image, Firmware.BIOS)
    return asked, own, beside


def test_two_machines_of_one_project_are_told_apart(both: tuple[Project, records.Record, records.Record]) -> None:
    asked, own, beside = both
    assert own.id != beside.id
    assert records.find(asked.root) == own
    assert records.find(asked.root, verify.MACHINE) == beside
    assert records.beside(asked.root) == (beside,)
    assert hint.read(asked.root) == own.id, "the hint stays with the project's own machine"


def test_a_copy_of_the_folder_lays_no_claim_to_a_machine_beside(
    both: tuple[Project, records.Record, records.Record], tmp_path: Path
) -> None:
    (tmp_path / "copy").mkdir()
    assert records.find(tmp_path / "copy", verify.MACHINE) is None
    assert records.beside(tmp_path / "copy") == ()


def test_what_an_earlier_one_left_is_destroyed_for_good(both: tuple[Project, records.Record, records.Record]) -> None:
    asked, own, beside = both
    verify._remove_left_over(asked.root)
    assert not beside.dir.folder.exists()
    assert own.dir.folder.exists()
    trash = own.dir.folder.parent.with_name("trash")
    assert list(trash.iterdir()) == []
    verify._remove_left_over(asked.root)


def test_a_verify_that_is_at_work_is_not_disturbed(both: tuple[Project, records.Record, records.Record]) -> None:
    asked, _, beside = both
    with records.locked(beside), pytest.raises(DevboxError) as caught:
        verify._remove_left_over(asked.root)
    assert caught.value.id == "lock.busy"
    assert beside.dir.folder.exists()


def test_the_verbs_tell_of_a_machine_beside(
    both: tuple[Project, records.Record, records.Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, own, beside = both
    (asked.root / "Devboxfile").write_text("version: 1\nbox: debian-12\n")
    monkeypatch.chdir(asked.root)
    rows = [list_verb._row(one) for one in records.all_records()]
    assert {(row["id"], row["machine"]) for row in rows} == {(own.id, "default"), (beside.id, "verify")}
    assert "the machine `verify` is stopped: `devbox destroy --machine verify`" in invoke("status").stdout
    refused = invoke("destroy", "--machine", "verify")
    assert (refused.status, "--yes --machine verify" in refused.stderr) == (2, True)
    assert invoke("destroy", "--machine", "verify", "--yes").status == 0
    assert records.find(asked.root, "verify") is None
    assert records.find(asked.root) == own
    gone = invoke("destroy", "--machine", "verify", "--yes")
    assert (gone.status, "does not exist" in gone.stderr) == (1, True)


@pytest.mark.parametrize(
    ("rest", "words", "id"),
    [
        ("", ["test"], "has no checks"),
        ("checks: [{name: web, run: x}]", ["test", "wen"], "Did you mean `web`?"),
        ("checks: [{name: web, run: x}]", ["test", "web", "--junit", "."], "devbox up"),
        ("checks: [{name: web, run: x}]", ["verify", "--junit", "."], "cannot be written"),
    ],
)
def test_what_is_refused_before_a_machine_is_touched(
    rest: str, words: list[str], id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "Devboxfile").write_text(f"version: 1\nbox: debian-12\n{rest}\n")
    monkeypatch.chdir(tmp_path)
    shown = invoke(*words)
    assert shown.status in {1, 2}
    assert id in shown.stderr
    assert records.all_records() == ()
