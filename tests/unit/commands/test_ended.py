"""When to stop waiting for a guest: only when its QEMU has ended or stands still, not when it is slow to answer."""

from dataclasses import dataclass

import pytest

from devbox.commands import session
from devbox.machine import lifecycle
from devbox.machine.lifecycle import Observation, State


@dataclass
class AnyRecord:
    id: str = "0123456789ab"


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (Observation(State.RUNNING), None),
        (Observation(State.NOT_ANSWERING, "QEMU runs, but does not answer"), None),
        (Observation(State.PAUSED, "host disk full"), "paused host disk full"),
        (Observation(State.STOPPED), "stopped"),
        (Observation(State.MISSING), "not created"),
    ],
)
def test_only_an_end_ends_the_wait(monkeypatch: pytest.MonkeyPatch, seen: Observation, words: str | None) -> None:
    monkeypatch.setattr(lifecycle, "observe", lambda record: seen)
    assert session.ended(AnyRecord()) == words  # type: ignore[arg-type]
