"""The local guest, once for each shell that the engine must run under."""

from pathlib import Path
from typing import Any

import pytest

from devbox.config.model import StepSpec
from devbox.provision.apply import Options, Report, provision
from tests.unit.provision.fake import SHELLS, FakeGuest, Go


@pytest.fixture(params=SHELLS)
def guest(request: pytest.FixtureRequest, tmp_path: Path) -> FakeGuest:
    return FakeGuest(tmp_path / "guest", request.param)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "project").mkdir()
    return tmp_path / "project"


@pytest.fixture
def go(guest: FakeGuest, project: Path) -> Go:
    """Provisions with these steps; keywords are the options."""

    def provision_with(*steps: StepSpec, **options: Any) -> Report:
        return provision(guest, steps, guest.context(project), Options(**options))

    return provision_with
