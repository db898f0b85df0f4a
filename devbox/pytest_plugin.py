"""The pytest plug-in: `devbox_machine` is the project's machine as a testinfra host, brought up when a test first asks.

Loaded into every pytest run of an environment that holds devbox, so nothing is imported or done before that.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("devbox", "the project's machine (devbox)")
    group.addoption(
        "--devbox-project",
        metavar="DIR",
        default=None,
        help="The folder whose machine `devbox_machine` is, or one inside it. Default: devbox_project, then rootdir.",
    )
    group.addoption(
        "--devbox-keep",
        action="store_true",
        default=False,
        help="Leave the machine running, also where it was down before.",
    )
    parser.addini("devbox_project", "The folder whose machine `devbox_machine` is, relative to rootdir.", default="")


@pytest.fixture(scope="session")
def devbox_machine(pytestconfig: pytest.Config) -> Iterator[Any]:
    """The project's machine, provisioned and running, as a testinfra host: `.service`, `.file`, `.package`, `.run`, …

    One that was down before is shut down afterwards, unless by `--devbox-keep`, or where pytest-xdist shares it out.
    """
    keep = pytestconfig.getoption("--devbox-keep") or "PYTEST_XDIST_WORKER" in os.environ
    with _told():
        host, shut_down = _bring_up(_project(pytestconfig))
    yield host
    if shut_down is not None and not keep:
        with _told():
            shut_down()


def _project(config: pytest.Config) -> Path:
    given = config.getoption("--devbox-project")
    if given:
        return config.invocation_params.dir / str(given)
    return config.rootpath / str(config.getini("devbox_project"))


def _bring_up(folder: Path) -> tuple[Any, Any]:
    """The host, and what shuts its machine down again; None where it ran before."""
    import functools

    from devbox import paths
    from devbox.commands import session
    from devbox.commands.up import bring_up
    from devbox.disk import record as records
    from devbox.guest import openssh
    from devbox.machine import lifecycle
    from devbox.machine.lifecycle import State

    try:
        import testinfra
    except ImportError:
        pytest.fail("`devbox_machine` needs testinfra: pip install 'devboxfile[pytest]'", pytrace=False)
    root = paths.find_project(folder)
    before = records.find(root)
    was_down = before is None or lifecycle.observe(before).state in {State.STOPPED, State.MISSING}
    bring_up(root)
    record = records.find(root)
    assert record is not None

    def shut_down() -> None:
        with records.locked(record):
            lifecycle.halt(record, guest_poweroff=functools.partial(session.power_off, record))

    # `up` has warmed a connection that is shared by our ssh_config; testinfra would make one more of its own.
    host = testinfra.get_host(
        f"ssh://{openssh.host_alias(record.name)}",
        ssh_config=os.fspath(record.dir.ssh_config),
        controlpersist=0,
        timeout=60,
    )
    return host, shut_down if was_down else None


@contextmanager
def _told() -> Iterator[None]:
    """Trouble in words instead of a traceback; and what our libraries warn of is no matter of the user's tests."""
    from devbox.errors import DevboxError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except DevboxError as trouble:
            words = (trouble.message, trouble.hint, trouble.details.rstrip())
            pytest.fail("\n".join(word for word in words if word), pytrace=False)
