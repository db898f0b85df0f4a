"""The local guest, once for each shell that the engine must run under."""

from pathlib import Path

import pytest

from tests.unit.provision.fake import SHELLS, FakeGuest


@pytest.fixture(params=SHELLS)
def guest(request: pytest.FixtureRequest, tmp_path: Path) -> FakeGuest:
    return FakeGuest(tmp_path / "guest", request.param)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "project").mkdir()
    return tmp_path / "project"
