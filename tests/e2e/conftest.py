"""The installed `devbox` command, used as a person would, on the real Debian image that the recipe builds."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checkout import a_person


def pytest_sessionstart(session: pytest.Session) -> None:
    """Once, and not in each of the processes in which tests run side by side."""
    kept = os.environ.get("DEVBOX_TEST_CACHE")
    if kept and not hasattr(session.config, "workerinput"):
        _forget_layers(Path(kept) / "devbox")


@pytest.fixture(scope="session")
def person() -> Iterator[dict[str, str]]:
    """One person for the whole session. Their cache may outlive it, so that the box is built once."""
    kept = os.environ.get("DEVBOX_TEST_CACHE")
    with a_person(Path(kept) / "devbox" if kept else None) as env:
        yield env


def _forget_layers(cache: Path) -> None:
    """What machines of an earlier session have left would make the first machine of this one a later one."""
    for layer in (cache / "layers").glob("*"):
        (cache / "blobs/sha256" / layer.name).unlink(missing_ok=True)
        (cache / "records" / f"{layer.name}.json").unlink(missing_ok=True)
    for index in (cache / "index").glob("layer-*"):
        index.unlink()
    for name in ("layers", "templates", "facts"):
        shutil.rmtree(cache / name, ignore_errors=True)
