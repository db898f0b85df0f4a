from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.guest import sshd
from tests.unit.guest.sshd import Server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One sshd for the tests of a module that only talk to it."""
    with sshd.serve(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """An sshd for a test that breaks it."""
    with sshd.serve(tmp_path / "sshd") as running:
        yield running
