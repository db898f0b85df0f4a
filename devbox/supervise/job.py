"""What the supervisor keeps up for its machine, one job a thing: the contract between it and its jobs.

A job is made from the wanted state alone, and holds one thing (the sockets, the found ports, one folder, the clock)
over the line, the supervisor's own SSH connection. When the line dies every job ends, and is begun again on the next.
"""

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from devbox import proc


class Line(Protocol):
    """One SSH connection to the guest. It is up when a job gets it, and never comes back: the next one is another."""

    @property
    def lost(self) -> threading.Event:
        """Set when the connection is lost or the job is to end; a job that waits, waits on this."""

    def open(self, script: str) -> proc.Child:
        """A session in the guest that runs this piece of shell as the login user, with pipes on all three streams.

        The supervisor ends it when the line is lost.
        """

    def run(self, script: str, *, input: bytes = b"", timeout: float = 60.0) -> proc.Completed:
        """A piece of shell in the guest, carried out to its end. Raises `supervise.line-lost` when it cannot be."""

    def forward(self, host: str, guest: str) -> None:
        """Let what connects to `host` on this computer reach `guest` in there; each is a socket's path, or
        `address:port`. Raises `supervise.forward` where this computer or the guest refuses.
        """

    def cancel(self, host: str, guest: str) -> None:
        """End a forward. Says nothing where there is none."""


class Teller(Protocol):
    """What a job says of itself, for `status`."""

    def holds(self, things: Sequence[Mapping[str, Any]]) -> None:
        """All that it holds now, as JSON values, each with a `what` for people."""

    def trouble(self, sentence: str) -> None:
        """What goes wrong, and goes on being tried. It is kept with its time, also after it is over."""


class Job(Protocol):
    @property
    def title(self) -> str:
        """How people read of it: "sockets", "folder /workspace". No two jobs of a machine have the same."""

    def hold(self, line: Line, tell: Teller) -> None:
        """Hold it until `line.lost` is set; then return at once, with nothing of it left on this computer.

        What it raises (`DevboxError`, `OSError`) is told as its trouble, and it is begun again after a while.
        """
