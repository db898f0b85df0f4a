"""The installed `devbox` command, used as a person would, on the real Debian image that the recipe builds."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checkout import a_person


@pytest.fixture(scope="session")
def person() -> Iterator[dict[str, str]]:
    """One person for the whole session. Their cache may outlive it, so that the box is built once."""
    kept = os.environ.get("DEVBOX_TEST_CACHE")
    with a_person(Path(kept) / "devbox" if kept else None) as env:
        yield env
