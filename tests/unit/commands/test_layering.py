"""Which layer fits a file: what counts for its keys and what does not; and a layer that could not be kept."""

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from devbox.box import store
from devbox.commands import layering, warm
from devbox.config import build, values
from devbox.config.model import Arch, Firmware, FolderType, Project
from devbox.disk import chain, identity, layers
from devbox.disk import record as records
from devbox.disk.record import Record
from devbox.errors import DevboxError
from devbox.guest import quiesce
from devbox.machine import argv, cut, suspend, template
from devbox.machine.lifecycle import Observation, State
from devbox.provision import image_facts
from devbox.provision.context import Context
from devbox.share.folders import Mount
from tests.unit.disk import machines
from tests.unit.machine.test_argv import LINUX

FACTS = {"os": "debian", "version": "12", "codename": "bookworm", "arch": "x86_64", "init": "systemd", "manager": "apt"}
TEXT = """\
version: 1
name: demo
box: debian-12
arch: x86_64
hostname: one
timezone: Europe/Paris
env: {STAGE: dev}
ports: [{guest: 80, host: 8080, name: web}]
provision:
  - packages: [git]
  - name: build
    run: make world
    refresh: v1
  - template: {path: /etc/motd, content: "{{ os.codename }} {{ env.STAGE }}"}
  - run: ls /workspace
"""


@pytest.fixture
def record(tmp_path: Path) -> Record:
    made = machines.image(tmp_path / "store")
    return records.ensure(machines.project(tmp_path / "made"), made, Firmware.BIOS)


def project(folder: Path, text: str = TEXT) -> Project:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Devboxfile").write_text(text)
    return build.load(folder, replace(values.this_host(), machine="x86_64"))


def keys(folder: Path, record: Record, text: str = TEXT, **ports: int) -> tuple[str, ...]:
    made = project(folder, text)
    context = Context(made.root, made.name, made.machine, record.user, ports=ports)
    return layering.prefix(made, context, record, FACTS).keys


def test_the_prefix_ends_at_the_synced_folder(tmp_path: Path, record: Record) -> None:
    made = project(tmp_path / "p")
    context = Context(made.root, made.name, made.machine, record.user)
    found = layering.prefix(made, context, record, FACTS)
    assert [spec.kind for spec in found.specs] == ["settings", "packages", "run", "template"]
    assert found.names(4) == ("packages:git", "build", "template:/etc/motd")
    assert len(found.keys) == 4


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("hostname: one", "hostname: two"),
        ("name: demo", "name: other"),
        ("host: 8080", "host: 9090"),
        ("run: ls /workspace", "run: ls /workspace/x"),
        ("version: 1", "version: 1\nmemory: 1GiB\ncpus: 1\nproxy: none"),
        ("version: 1", "version: 1\nmessage: hello"),
    ],
)
def test_what_is_ones_own_does_not_count(tmp_path: Path, record: Record, old: str, new: str) -> None:
    assert keys(tmp_path / "elsewhere", record, TEXT.replace(old, new)) == keys(tmp_path / "p", record)


@pytest.mark.parametrize(
    ("old", "new", "kept"),
    [
        ("Europe/Paris", "Europe/Rome", 0),
        ("STAGE: dev", "STAGE: prod", 0),
        ("version: 1", "version: 1\nhosts: {db: 10.0.0.5}", 0),
        ("version: 1", "version: 1\ndns: [10.0.0.1]", 0),
        ("version: 1", "version: 1\nuser: {groups: [adm]}", 0),
        ("version: 1", "version: 1\nnetwork: none", 0),
        ("version: 1", "version: 1\nproxy: http://proxy.test:3128", 0),
        ("[git]", "[git, jq]", 1),
        ("make world", "make all", 2),
        ("refresh: v1", "refresh: v2", 2),
        ("name: build", "name: compile", 2),
        ("run: make world", "run: make world\n    if: {test: 'true'}", 2),
        ("os.codename", "os.version", 3),
    ],
)
def test_what_counts_and_from_where(tmp_path: Path, record: Record, old: str, new: str, kept: int) -> None:
    before, after = keys(tmp_path / "p", record), keys(tmp_path / "q", record, TEXT.replace(old, new))
    assert len(after) == len(before)
    assert [one == two for one, two in zip(before, after, strict=True)] == [at < kept for at in range(len(before))]


def test_a_template_with_a_port_counts_by_its_number(tmp_path: Path, record: Record) -> None:
    text = TEXT.replace("os.codename", "ports.web")
    one, two = (keys(tmp_path / "p", record, text, web=number) for number in (1, 2))
    assert one[:3] == two[:3]
    assert one[3] != two[3]


def test_a_choice_before_a_kill_does_not_bind(tmp_path: Path, record: Record) -> None:
    made = project(tmp_path / "p")
    identity.begin(record)
    record.dir.seed.touch()
    chosen = records.founded(record, "c" * 64, "52:54:00:00:00:09")
    started = layering.begin(made, chosen, machines.image(tmp_path / "store"), wanted=False)
    assert (started.record.layer, started.fresh, started.stack) == ("", False, ())
    assert not identity.is_provisional(record)
    assert not record.dir.seed.exists()
    again = layering.begin(made, started.record, machines.image(tmp_path / "store"), wanted=True)
    assert again.fresh
    assert identity.is_provisional(record)
    record.dir.disk.touch()
    assert layering.begin(made, again.record, machines.image(tmp_path / "store"), wanted=True).fresh is False


def test_nothing_is_kept_with_a_layer_that_came_too_late(
    tmp_path: Path, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another devbox was faster: the machine stands on bytes of its own, and its memory fits no layer of the store."""
    machine = project(tmp_path / "p").machine
    context = Context(tmp_path, "demo", machine, record.user)
    earlier = layers.Layer(
        sha256="e" * 64, chain="k0", parent="", image=record.image, label="", mac="", steps=(), seconds=1.0, created=""
    )
    keeper = layering._Keeper(record, layering.Prefix((), ("k0", "k1")), earlier, context)
    saved: list[Any] = []

    def freeze(record: Record, qmp: Any, *, while_stopped: Any) -> Path:
        while_stopped()
        return record.dir.record

    monkeypatch.setattr(layering, "Qmp", lambda *_, **__: nullcontext("qmp"))
    monkeypatch.setattr(chain, "parents", lambda files: (Path("e" * 64),))
    monkeypatch.setattr(store, "have", lambda sha256: True)
    monkeypatch.setattr(quiesce, "quiet", lambda *_, **__: nullcontext())
    monkeypatch.setattr(cut, "freeze", freeze)
    monkeypatch.setattr(cut, "settle", lambda *_: None)
    monkeypatch.setattr(layers, "publish", lambda record, made, **named: None)
    keeper.keep(2, None, while_stopped=saved.append)  # type: ignore[arg-type]
    assert saved == ["qmp"]
    assert keeper.sha256 == ""


def test_an_architecture_counts(tmp_path: Path, record: Record) -> None:
    assert keys(tmp_path / "p", replace(record, arch=Arch.AARCH64))[0] != keys(tmp_path / "p", record)[0]


def test_nothing_is_made_on_a_layer_whose_key_is_another_by_now(tmp_path: Path, record: Record) -> None:
    """As where the port that a template names was taken before QEMU could have it."""
    identity.begin(record)
    layer = layers.Layer(
        sha256="e" * 64, chain="k0", parent="", image=record.image, label="", mac="", steps=(), seconds=1.0, created=""
    )
    image_facts._file(record.image).parent.mkdir(parents=True)
    image_facts._file(record.image).write_text(json.dumps(FACTS))
    start = layering.Start(replace(record, layer=layer.sha256), layer, fresh=True)
    seen = Observation(State.RUNNING, ssh_port=22)
    made = project(tmp_path / "p")
    kept = layering.make(None, made, seen, start, slowdown=1.0, at_last=nullcontext)  # type: ignore[arg-type]
    assert kept == layer.sha256


def test_a_guest_that_keeps_a_folder_costs_the_memory_alone(
    tmp_path: Path, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    def held(record: Record) -> None:
        raise DevboxError("machine.unplug", "The guest does not let go.")

    plugged: list[Record] = []
    monkeypatch.setattr(suspend, "pull_folders", held)
    monkeypatch.setattr(suspend, "plug_folders", lambda record, vm, facts: plugged.append(record))
    mount = Mount("one", tmp_path, PurePosixPath("/one"), FolderType.NINEP)
    vm = argv.spec(record, project(tmp_path / "p").machine, mounts=(mount,))
    birth = warm.Birth(layering.Start(record, fresh=True), vm, LINUX, None, None)
    with birth.at_last() as while_stopped:
        while_stopped(None)  # type: ignore[arg-type]
    birth.keep("e" * 64)
    assert plugged == [record]
    assert template.entries() == ()
