"""Large files on their way into the guest: never in memory as a whole, on its disk, readable, and gone afterwards."""

import io
import os
import tarfile
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from devbox.config.model import StepSpec
from devbox.errors import DevboxError
from devbox.provision import script, shell, wire
from devbox.provision.facts import Facts
from devbox.provision.payload import Payload
from devbox.provision.script import Planned
from devbox.provision.shell import Run
from devbox.provision.step import Action, Kind, Step
from tests.unit.provision.fake import FakeGuest

NONCE = "00112233445566778899aabbccddeeff"
Go = Callable[..., list[str]]


def acting(text: str, incoming: Mapping[str, Path], name: str = "big", **spec: object) -> Step[None]:
    """A step that acts until the file `out` is in the root of the guest."""
    kind: Kind[None] = Kind(
        parse=lambda raw, source: None,  # noqa: ARG005
        probe=lambda options: '[ ! -e "$state/../out" ] || field there yes',  # noqa: ARG005
        desired=lambda options, facts: (("there", "yes"),),  # noqa: ARG005
        apply=lambda options, facts: Action(text.encode(), incoming=incoming),  # noqa: ARG005
    )
    return Step(StepSpec(name, "file", {}, position="Devboxfile:3", **spec), kind, None, "root")  # type: ignore[arg-type]


@pytest.fixture
def run(guest: FakeGuest, project: Path) -> Run:
    return replace(guest.context(project).run(), id=NONCE)


@pytest.fixture
def go(guest: FakeGuest, run: Run) -> Go:
    """Carries out the steps; the frames that tell how they ended."""

    def apply(*planned: Planned, id: str = NONCE) -> list[str]:
        said: list[bytes] = []
        own = replace(run, id=id)
        keys = {one.step.name: one.step.key for one in planned}
        payload = script.payload(own, planned, Facts(), keys)
        wire.apply(guest, own, payload, user="root", on_data=said.append)
        lines = [line for line in b"".join(said).decode().splitlines() if line.startswith(own.id)]
        return [" ".join(line.split()[1:4]) for line in lines if line.split()[1] in {"end", "done", "busy"}]

    return apply


COPY = 'cat "$incoming/a b" "$incoming/folder/c" >"$state/../out"\n'


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Path]:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"one")
    second.write_bytes(b"two\n" * 1000)
    return {"a b": first, "folder/c": second}


@pytest.mark.parametrize("timeout", [None, 60.0])
def test_they_lie_on_the_disk_while_the_step_runs_and_are_gone_afterwards(
    guest: FakeGuest, go: Go, sources: dict[str, Path], timeout: float | None
) -> None:
    text = f'{COPY}ls -ld "$state" "$state/incoming" "${{incoming%/*}}" "$incoming" >"$state/../modes"\n'
    assert go(Planned(4, acting(text, sources, timeout=timeout), force=False)) == ["end 4 changed", "done"]
    assert guest.path("var/lib/out").read_bytes() == b"one" + b"two\n" * 1000
    modes = [line.split()[0] for line in guest.path("var/lib/modes").read_text().splitlines()]
    assert modes == ["drwx--x--x", "drwx--x--x", "drwx--x--x", "drwx------"]
    assert list(guest.path("var/lib/devbox/incoming").iterdir()) == []
    assert list(guest.path("run/devbox").glob("*/")) == []


def test_a_program_stays_one(guest: FakeGuest, go: Go, tmp_path: Path) -> None:
    (tmp_path / "tool").write_text("#!/bin/sh\n")
    (tmp_path / "tool").chmod(0o755)
    text = 'cp -p "$incoming/tool" "$state/../out"\n'
    assert go(Planned(0, acting(text, {"tool": tmp_path / "tool"}), force=False)) == ["end 0 changed", "done"]
    assert guest.path("var/lib/out").stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_the_account_of_the_step_reads_its_own_and_no_other(
    guest: FakeGuest, run: Run, go: Go, sources: dict[str, Path]
) -> None:
    for folder in (guest.root, *guest.root.parents):
        folder.chmod(folder.stat().st_mode | 0o011)
    guest.path("var/lib").chmod(0o777)
    text = f'{COPY}! cat "{run.incoming}/1/a b" 2>/dev/null\n! ls "{run.incoming}" 2>/dev/null\n'
    mine = replace(acting(text, sources), user="nobody")
    other = acting("", sources, "other")
    assert go(Planned(0, mine, force=False), Planned(1, other, force=False)) == ["end 0 changed", "end 1 same", "done"]
    assert guest.path("var/lib/out").read_bytes().startswith(b"onetwo")


def test_a_step_that_needs_what_was_not_sent_ends_the_run(guest: FakeGuest, go: Go, sources: dict[str, Path]) -> None:
    text = f'[ -e "$incoming/a b" ] || stale\n{COPY}'
    step, after = acting(text, sources, retries=3), acting("", {}, "after")
    assert go(Planned(0, step, force=False, incoming=False), Planned(1, after, force=False)) == ["end 0 stale", "done"]
    assert not guest.path("var/lib/devbox/incoming").exists()
    assert list(guest.path("var/lib/devbox/journal").iterdir()) == [], "it counts as begun"
    assert go(Planned(0, step, force=False), Planned(1, after, force=False), id="f" * 32) == [
        "end 0 changed",
        "end 1 same",
        "done",
    ]


def test_only_our_own_scripts_can_be_stale(go: Go) -> None:
    step = acting("", {})
    raw = replace(step.kind, apply=lambda options, facts: Action(b"exit 75\n", prelude=False))  # noqa: ARG005
    assert go(Planned(0, replace(step, kind=raw), force=False)) == ["end 0 failed", "done"]


def test_what_a_killed_run_left_goes_and_what_is_on_its_way_stays(
    guest: FakeGuest, go: Go, sources: dict[str, Path]
) -> None:
    places = {}
    for name, sender in (("a" * 32, os.getpid()), ("b" * 32, 2**22 + 1), ("c" * 32, None)):
        places[name] = [guest.path(f"{folder}/{name}") for folder in ("run/devbox", "var/lib/devbox/incoming")]
        for place in places[name]:
            place.mkdir(parents=True)
        if sender:
            (places[name][0] / "sender").write_text(f"{sender}\n")
    go(Planned(0, acting(COPY, sources), force=False))
    assert [[place.exists() for place in pair] for pair in places.values()] == [[True] * 2, [False] * 2, [False] * 2]


def test_a_broken_off_transfer_leaves_nothing(guest: FakeGuest, run: Run, sources: dict[str, Path]) -> None:
    payload = script.payload(run, [Planned(0, acting(COPY, sources), force=False)], Facts(), {})
    whole = b"".join(payload)
    command = shell.as_root(script.unpack_and_start(run, incoming=True), user="root")
    assert guest.run(command, stdin=whole[:-4000]).status != 0
    assert list(guest.path("run/devbox").iterdir()) == []
    assert list(guest.path("var/lib/devbox/incoming").iterdir()) == []


def test_a_file_that_becomes_shorter_meanwhile_is_told(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 20))
    pieces = iter(Payload({}, {"/x": path}))
    for _ in range(3):
        next(pieces)
    os.truncate(path, 1000)
    with pytest.raises(DevboxError) as short:
        list(pieces)
    assert short.value.id == "provision.input"
    path.unlink()
    with pytest.raises(DevboxError) as gone:
        list(Payload({}, {"/x": path}))
    assert gone.value.id == "provision.input"


def test_the_tar_is_one_that_others_read(sources: dict[str, Path]) -> None:
    long = "x" * 120
    payload = Payload({f"/r/{NONCE}/main": b"m", f"/r/{NONCE}/3/ä\n": b""}, {f"/s/{long}/{long}": sources["a b"]})
    with tarfile.open(fileobj=io.BytesIO(b"".join(payload))) as tar:
        found = {member.name: (member.mode, member.isdir()) for member in tar.getmembers()}
        assert found == {
            f"r/{NONCE}/3": (0o700, True),
            f"r/{NONCE}/main": (0o600, False),
            f"r/{NONCE}/3/ä\n": (0o600, False),
            f"s/{long}/{long}": (0o600, False),
        }
        assert tar.extractfile(f"s/{long}/{long}").read() == b"one"  # type: ignore[union-attr]


def test_a_large_file_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    size = 200 << 20
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(size)
    guest = FakeGuest(tmp_path / "guest", "dash")
    run = guest.context(tmp_path).run()
    step = acting('wc -c <"$incoming/big" >"$state/../out"\n', {"big": path})
    payload = script.payload(run, [Planned(0, step, force=False)], Facts(), {})
    tracemalloc.start()
    wire.apply(guest, run, payload, user="root", on_data=lambda data: None)  # noqa: ARG005
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert guest.path("var/lib/out").read_text().strip() == str(size)
    assert peak < 4 << 20
