"""The synchronous face of QEMU's control protocol: the only user of the QMP library.

A `Qmp` is one connection to the control monitor, which serves one client at a time. Status questions do not come
through here but through `liveness.peek`, which needs no asyncio.
"""

import asyncio
from collections.abc import Collection, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from qemu.qmp import EventListener, ExecuteError, QMPClient, QMPError

from devbox.errors import DevboxError

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Event:
    name: str
    data: Mapping[str, Any]


class Qmp:
    """A connection, made by entering the context. Raises `machine.not-answering` when QEMU does not answer in time."""

    def __init__(self, socket: Path, *, timeout: float = 5.0) -> None:
        self._socket = socket
        self._timeout = timeout
        self._client = QMPClient("devbox")
        self._client.logger.disabled = True  # it would print a traceback when QEMU goes away, which we expect
        self._events = EventListener()
        self._client.register_listener(self._events)
        self._loop = asyncio.new_event_loop()

    def __enter__(self) -> Self:
        try:
            self._wait(self._client.connect(str(self._socket)), self._timeout)
        except DevboxError:
            self._loop.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._loop.run_until_complete(asyncio.wait_for(self._client.disconnect(), self._timeout))
        except (QMPError, OSError, EOFError, TimeoutError):
            pass  # QEMU ended first, as it does after `quit`.
        finally:
            self._loop.close()

    def execute(self, command: str, **arguments: object) -> Any:
        """The command's answer. Underscores in argument names become dashes. Raises `machine.qmp` when refused."""
        return self._execute(command, {name.replace("_", "-"): value for name, value in arguments.items()})

    def add_device(self, properties: Mapping[str, object]) -> None:
        """Plug a device in, described as in the argument list, where names keep their underscores."""
        self._execute("device_add", properties)

    def _execute(self, command: str, named: Mapping[str, object]) -> Any:
        try:
            return self._wait(self._client.execute(command, dict(named)), self._timeout)
        except ExecuteError as refused:
            raise DevboxError("machine.qmp", f"QEMU refused `{command}`: {refused}") from refused

    def pass_descriptor(self, name: str, descriptor: int) -> None:
        """Give QEMU an open file, which a later command names (`fd:<name>`)."""
        self._client.send_fd_scm(descriptor)
        self.execute("getfd", fdname=name)

    def human(self, line: str) -> str:
        """What QEMU's monitor for people answers."""
        return str(self.execute("human-monitor-command", command_line=line))

    def wait_event(self, names: Collection[str], timeout: float) -> Event | None:
        """The next event of one of these names, or None when the time is over. The others are dropped."""

        async def next_event() -> Event:
            while True:
                message = await self._events.get()
                data = message.get("data")
                if message["event"] in names:
                    return Event(str(message["event"]), data if isinstance(data, dict) else {})

        try:
            return self._loop.run_until_complete(asyncio.wait_for(next_event(), timeout))
        except TimeoutError:
            return None

    def _wait(self, work: Coroutine[Any, Any, _T], timeout: float) -> _T:
        try:
            return self._loop.run_until_complete(asyncio.wait_for(work, timeout))
        except ExecuteError:
            raise
        except (QMPError, OSError, EOFError, TimeoutError) as silent:
            raise DevboxError(
                "machine.not-answering",
                "QEMU does not answer on its control socket.",
                hint="End it with `devbox halt --force`.",
                details=f"{type(silent).__name__}: {silent}",
            ) from silent
