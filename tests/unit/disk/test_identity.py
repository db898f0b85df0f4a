"""Which identity a guest has, what its seed gives it, and what a kill leaves."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from devbox import fs
from devbox.commands import session, status
from devbox.config.model import MachineSpec
from devbox.disk import identity, keys, seed
from devbox.disk.record import Record
from devbox.machine import lifecycle
from devbox.machine.lifecycle import Observation, State
from tests.unit.disk import machines
from tests.unit.disk.test_seed import read_iso


class Killed(BaseException):
    """Nothing after this is done."""


@contextmanager
def killed_at(owner: object, name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, die)
        with pytest.raises(Killed):
            yield


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return machines.record(tmp_path)[0]


def spec(tmp_path: Path) -> MachineSpec:
    return machines.project(tmp_path / "project").machine


def seeded(record: Record) -> tuple[str, str, str]:
    """The login key, the host key and the instance id that the guest gets at its next boot."""
    files = read_iso(record.dir.seed)[1]
    text = files["user-data"].decode()
    login = keys.make(identity.at_boot(record).login_key)
    assert login in text
    assert identity.at_boot(record).host_line in text
    return login, identity.at_boot(record).host_line, files["meta-data"].decode().split('"')[3]


def test_a_machine_has_its_own_identity_unless_one_is_begun(record: Record, tmp_path: Path) -> None:
    seed.ensure(record, spec(tmp_path))
    assert identity.provisional(record) is None
    login, host, instance = seeded(record)
    assert host == record.host_key
    assert instance == identity.own_instance(record, login)
    begun = identity.begin(record)
    assert identity.begin(record, record.dir.folder) == begun, "it stays what it was begun as"
    seed.ensure(record, spec(tmp_path))
    other_login, other_host, other_instance = seeded(record)
    assert {login, host, instance}.isdisjoint({other_login, other_host, other_instance})
    assert other_instance == "devbox-" + hashlib.sha256(other_login.encode()).hexdigest()[:16]
    assert begun.known_hosts.read_text() == f"* {other_host}\n"
    private = [path for path in record.dir.provisional.iterdir() if path.suffix != ".pub"]
    assert {path.stat().st_mode & 0o777 for path in private} == {0o600}
    assert keys.make(begun.host_key) == other_host
    assert record.dir.login_key.exists(), "secrets are keyed by it, from the first run on"


def test_machines_from_the_same_keys_are_the_same_instance(tmp_path: Path) -> None:
    one = machines.record(tmp_path / "one")[0]
    two = machines.record(tmp_path / "two")[0]
    first = identity.begin(one)
    second = identity.begin(two, one.dir.provisional)
    assert first.instance == second.instance
    assert first.login_key.read_bytes() == second.login_key.read_bytes()
    assert first.host_line == second.host_line
    assert identity.machine_id(one) != identity.machine_id(two)


def test_a_kill_leaves_no_half_identity(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    seed.ensure(record, machines.project(record.project).machine)
    for victim in ("known_hosts", "provisional_instance"):
        with killed_at(identity, victim, monkeypatch):
            identity.begin(record)
        assert identity.provisional(record) is None
        assert not record.dir.seed.exists(), "the seed of another identity must be gone first"
    identity.begin(record)
    assert [path.name for path in record.dir.folder.glob(".provisional*")] == []
    with killed_at(fs, "fsync_dir", monkeypatch):
        identity.settled(record)
    assert identity.provisional(record) is None
    identity.settled(record)
    identity.begin(record)
    assert [path.name for path in record.dir.folder.glob(".provisional*")] == []


def test_a_renewed_machine_has_its_own_seed_in_the_file_that_qemu_has_open(record: Record, tmp_path: Path) -> None:
    identity.begin(record)
    seed.ensure(record, spec(tmp_path))
    with record.dir.seed.open("rb") as held:
        before = held.read()
        seed.take_own(record, spec(tmp_path))
        held.seek(0)
        after = held.read()
    assert len(after) == len(before) == record.dir.seed.stat().st_size
    assert after != before
    identity.settled(record)
    assert seeded(record)[2] == identity.own_instance(record, keys.make(record.dir.login_key))
    inode = record.dir.seed.stat().st_ino
    seed.ensure(record, spec(tmp_path))
    assert record.dir.seed.stat().st_ino == inode


def test_a_seed_that_a_kill_tore_is_mended_where_it_is(record: Record, tmp_path: Path) -> None:
    identity.begin(record)
    seed.ensure(record, spec(tmp_path))
    whole, inode = record.dir.seed.read_bytes(), record.dir.seed.stat().st_ino
    record.dir.seed.write_bytes(whole[:4096] + b"another" + whole[4103:])
    seed.ensure(record, spec(tmp_path))
    assert seeded(record)[1] == identity.at_boot(record).host_line
    assert record.dir.seed.stat().st_ino == inode


def test_a_login_key_that_is_lost_on_the_way_to_a_seed_is_in_the_next_one(
    record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed.ensure(record, spec(tmp_path))
    record.dir.login_key.unlink()
    with killed_at(seed, "_image", monkeypatch):
        seed.ensure(record, spec(tmp_path))
    seed.ensure(record, spec(tmp_path))
    assert seeded(record)[1] == record.host_key


def test_every_connection_knows_both_and_status_says_so(
    record: Record, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = Observation(State.RUNNING, ssh_port=2222)
    assert session.endpoint(record, seen).born is None
    begun = identity.begin(record)
    where = session.endpoint(record, seen)
    assert where.born is not None
    assert (where.key, where.born.key) == (record.dir.login_key, begun.login_key)
    monkeypatch.setattr(lifecycle, "observe", lambda _: seen)
    told = status.describe(record.project, record)
    assert (told["identity"], told["next"]) == ("provisional", "devbox up")
    clone = replace(record, machine="lab")
    assert status.describe(record.project, clone)["next"] == "devbox up --machine lab"
    identity.settled(record)
    told = status.describe(record.project, record)
    assert (told["identity"], told["next"]) == ("own", "devbox ssh")
