"""Whether devbox may use the network now: `up --offline` says no, and every door to the network asks here first."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from devbox.errors import DevboxError

_FORBIDDEN: ContextVar[bool] = ContextVar("offline", default=False)


@contextmanager
def forbidden(*, when: bool) -> Iterator[None]:
    """Keep devbox off the network for the duration of the block, `when` that is asked for."""
    before = _FORBIDDEN.set(when or _FORBIDDEN.get())
    try:
        yield
    finally:
        _FORBIDDEN.reset(before)


def is_forbidden() -> bool:
    return _FORBIDDEN.get()


def require(what: str) -> None:
    """Raises `download.offline` where the network may not be used; `what` is to be fetched."""
    if is_forbidden():
        raise DevboxError(
            "download.offline",
            f"{what} is not on this computer, and `--offline` forbids to fetch it.",
            hint="Run it once without `--offline`.",
        )
