"""The pytest plug-in: `devbox_machine` is the project's machine as a testinfra host, brought up when a test first asks.

Loaded into every pytest run of an environment that holds devbox, so nothing is imported or done before that.
"""

import functools
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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
        host, shut_down = _bring_up(_project(pytestconfig), keep=keep)
    yield host
    if shut_down is not None:
        with _told():
            shut_down()


def _project(config: pytest.Config) -> Path:
    given = config.getoption("--devbox-project")
    if given:
        return config.invocation_params.dir / str(given)
    return config.rootpath / str(config.getini("devbox_project"))


def _bring_up(folder: Path, *, keep: bool) -> tuple[Any, Callable[[], None] | None]:
    """The host, and what shuts its machine down again; None where it ran before, or is to be kept."""
    from devbox import paths
    from devbox.commands.up import bring_up
    from devbox.disk import record as records
    from devbox.errors import DevboxError
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
    shut_down = functools.partial(_shut_down, root) if was_down and not keep else None
    try:
        bring_up(root)
        record = records.find(root)
        assert record is not None
        # `up` has warmed a connection that is shared by our ssh_config; testinfra would make one more of its own.
        host = testinfra.get_host(
            f"ssh://{openssh.host_alias(record.name)}",
            ssh_config=os.fspath(record.dir.ssh_config),
            controlpersist=0,
            timeout=60,
        )
    except BaseException:
        if shut_down is not None:
            with suppress(DevboxError):  # the first trouble is what is to be told
                shut_down()
        raise
    return host, shut_down


def _shut_down(root: Path) -> None:
    """There may be no machine, or it may not have started."""
    from devbox.commands import session
    from devbox.disk import record as records
    from devbox.machine import lifecycle

    record = records.find(root)
    if record is None:
        return
    with records.locked(record):
        lifecycle.halt(record, guest_poweroff=functools.partial(session.power_off, record))


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
