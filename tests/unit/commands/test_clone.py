"""A stopped machine cloned by the command line; running ones are in tests/guest/test_clone.py."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from devbox.commands import beside
from devbox.config.model import Arch, MachineSpec, Port, Project
from devbox.disk import identity, overlay, seed
from devbox.disk import record as records
from devbox.disk.record import Record
from devbox.errors import DevboxError
from tests.unit.commands.invoke import Shown, invoke
from tests.unit.disk import machines


@pytest.fixture
def parent(tmp_path: Path) -> Record:
    record, image = machines.record(tmp_path)
    overlay.ensure(record, image)
    seed.ensure(record, machines.project(record.project).machine)
    (record.project / "Devboxfile").write_text("version: 1\nbox: debian-12\n")
    return record


def typed(record: Record, *words: str) -> Shown:
    return invoke("-C", os.fspath(record.project), *words)


def told(record: Record, *words: str) -> Any:
    return json.loads(typed(record, *words, "--json").stdout)


def test_a_clone_is_listed_told_destroyed_and_taken_back(parent: Record) -> None:
    done = typed(parent, "clone", "lab")
    assert done.status == 0, done.stderr
    assert "devbox up --machine lab" in done.stderr
    assert {row["machine"]: row["state"] for row in told(parent, "list")} == {"default": "stopped", "lab": "stopped"}
    assert [one["machine"] for one in told(parent, "status")["beside"]] == ["lab"]
    seen = told(parent, "status", "--machine", "lab")
    assert (seen["machine"], seen["identity"], seen["next"]) == ("lab", "provisional", "devbox up --machine lab")
    assert "still that of" in typed(parent, "status", "--machine", "lab").stdout
    for verb in ("ssh", "ssh-config", "ports", "suspend"):
        assert "devbox up --machine lab" in typed(parent, verb, "--machine", "lab").stderr
    assert typed(parent, "logs", "--machine", "lab").status == 0
    assert typed(parent, "destroy", "--yes", "--machine", "lab").status == 0
    assert records.find(parent.project) == parent
    assert typed(parent, "undo").status == 0
    assert records.find(parent.project, "lab") is not None


def test_what_is_no_clone_is_said(parent: Record) -> None:
    assert "devbox clone lab" in typed(parent, "up", "--machine", "lab").stderr
    for name in ("default", "verify", "Lab", "-x", "a/b", ""):
        assert typed(parent, "clone", "--", name).status == 2
    assert typed(parent, "clone", "lab").status == 0
    before = sorted(path.name for path in parent.dir.folder.iterdir())
    refused = typed(parent, "clone", "lab")
    assert refused.status == 1
    assert "already" in refused.stderr
    assert sorted(path.name for path in parent.dir.folder.iterdir()) == before, "nothing was frozen for it"


def test_a_machine_that_is_not_its_own_yet_is_not_cloned(parent: Record) -> None:
    identity.begin(parent)
    assert "devbox up" in typed(parent, "clone", "lab").stderr
    assert records.find(parent.project, "lab") is None


def test_a_clone_has_another_hostname_and_ports_of_its_own() -> None:
    spec = MachineSpec("default", {}, Arch.X86_64, hostname="h" * 60, ports=(Port(80, 8080, name="web"),))
    declared = Project(Path("/p"), "shop", spec)
    assert beside.of(declared, records.MAIN) == declared
    machine = beside.of(declared, "lab").machine
    assert (machine.name, machine.ports) == ("lab", (Port(80, name="web"),))
    assert machine.hostname.endswith("h-lab")
    assert len(machine.hostname) == 63
    with pytest.raises(DevboxError) as caught:
        beside.check_name("Not This")
    assert caught.value.id == "clone.name"
