"""Gates: a run that stops behind a step that cost much, and how it goes on."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from devbox.errors import DevboxError
from devbox.guest.connection import Guest
from devbox.provision import journal
from devbox.provision.apply import Context, Options, Report, provision
from devbox.provision.script import Gates
from tests.unit.provision.fake import FakeGuest, step

AtGate = Callable[[int, Guest, Callable[[], None]], None]
ALWAYS = Gates(after=0.0)


def gated(guest: FakeGuest, project: Path, at_gate: AtGate | None, gates: Gates) -> Context:
    return replace(guest.context(project), at_gate=at_gate, gates=gates)


def go(guest: FakeGuest, project: Path, at_gate: AtGate | None, gates: Gates = ALWAYS) -> Report:
    steps = tuple(step("run", f"echo {name} >>{guest.path('order')}", name) for name in ("one", "two", "three"))
    return provision(guest, steps, gated(guest, project, at_gate, gates), Options())


def test_the_run_waits_with_every_receipt_durable(guest: FakeGuest, project: Path) -> None:
    seen: list[tuple[int, str, list[str], list[str]]] = []
    folder = guest.path("var/lib/devbox/journal")

    def at_gate(index: int, given: Guest, go_on: Callable[[], None]) -> None:
        assert given is guest
        time.sleep(0.3)  # enough for a run that does not wait
        pending = [path.name for path in folder.glob("*.pending")]
        receipts = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        seen.append((index, guest.path("order").read_text(), receipts, pending))
        go_on()
        go_on()

    report = go(guest, project, at_gate)
    assert report.changed == 3
    one, two = journal.key("one"), journal.key("two")
    assert seen == [(0, "one\n", [one], []), (1, "one\ntwo\n", sorted([one, two]), [])]
    assert go(guest, project, at_gate).changed == 0
    assert len(seen) == 2, "a run that does nothing has no gates"


def test_it_goes_on_by_itself_when_nobody_opens(guest: FakeGuest, project: Path) -> None:
    def lost(index: int, given: Guest, go_on: Callable[[], None]) -> None:
        while "two" not in guest.path("order").read_text():
            time.sleep(0.05)

    assert go(guest, project, lost, Gates(after=0.0, patience=0.5)).changed == 3


def test_what_goes_wrong_at_a_gate_leaves_it_open(guest: FakeGuest, project: Path) -> None:
    def fails(index: int, given: Guest, go_on: Callable[[], None]) -> None:
        raise DevboxError("test.it", "It went wrong.")

    with pytest.raises(DevboxError, match="went wrong"):
        go(guest, project, fails, Gates(after=0.0, patience=600.0))
    assert go(guest, project, None).ok, "the run went on to its end, and is followed to it"
    assert guest.path("order").read_text() == "one\ntwo\nthree\n"


def test_who_follows_a_run_opens_the_gates_that_its_devbox_has_left(guest: FakeGuest, project: Path) -> None:
    guest.lose_at = b" gate 0"
    with pytest.raises(DevboxError):
        go(guest, project, lambda *_: None, Gates(after=0.0, patience=86400.0))
    guest.lose_at = b""
    assert go(guest, project, None).ok
    assert guest.path("order").read_text() == "one\ntwo\nthree\n"


def test_quick_steps_have_no_gate_and_runs_without_layers_none_at_all(guest: FakeGuest, project: Path) -> None:
    reached: list[int] = []

    def at_gate(index: int, given: Guest, go_on: Callable[[], None]) -> None:
        reached.append(index)

    steps = [step("run", f"echo {name}", name) for name in ("quick", "quick too")]
    steps += [step("run", "sleep 1", "slow"), step("run", "true", "last")]
    gates = Gates(after=1.0, written=1 << 50)
    assert provision(guest, tuple(steps), gated(guest, project, at_gate, gates), Options()).changed == 4
    assert reached == [2]
    written = Gates(after=1000.0, written=0)
    context = gated(guest, project, at_gate, written)
    provision(guest, (step("run", "true", "a"), step("run", "true", "b")), context, Options())
    assert reached == [2, 0]
