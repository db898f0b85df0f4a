"""The whole engine over a local shell: channels, outcomes, resuming, triggers, crashes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from devbox.config.model import StepSpec
from devbox.provision.apply import Options, Report, provision
from devbox.provision.plan import Status
from tests.unit.provision.fake import SHELLS, FakeGuest, step


@pytest.fixture(params=SHELLS)
def guest(request: pytest.FixtureRequest, tmp_path: Path) -> FakeGuest:
    return FakeGuest(tmp_path / "guest", request.param)


def statuses(report: Report) -> list[str]:
    return [str(outcome.status) for outcome in report.outcomes]


def test_a_no_op_is_one_channel_and_a_change_two(guest: FakeGuest, tmp_path: Path) -> None:
    target = guest.root / "etc/motd"
    steps = (step("file", {"path": str(target), "content": "hello\n", "mode": "0640"}),)
    context = guest.context(tmp_path)
    first = provision(guest, steps, context, Options())
    assert statuses(first) == ["changed"]
    assert guest.channels == 2
    assert target.read_text() == "hello\n"
    assert target.stat().st_mode & 0o7777 == 0o640
    second = provision(guest, steps, context, Options())
    assert statuses(second) == ["same"]
    assert guest.channels == 3
