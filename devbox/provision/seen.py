"""What was seen of one step while it was carried out, before anything is made of it."""

from collections import deque
from dataclasses import dataclass, field

from devbox.provision.step import State

TAIL = 30  # lines of output that a failure shows


@dataclass(slots=True)
class Seen:
    name: str = ""
    outcome: str = ""  # same, changed, failed, skipped, unmet, stale
    result: str = ""  # exit status, or timeout, differs, receipt
    seconds: float = 0.0
    before: State | None = None
    after: State | None = None
    reason: str = ""
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL))

    def add(self, data: bytes) -> None:
        """More of its output; only the last lines are kept."""
        lines = data.decode(errors="replace").split("\n")
        if self.tail and not self.tail[-1].endswith("\n"):
            lines[0] = self.tail.pop() + lines[0]
        self.tail.extend([*(f"{line}\n" for line in lines[:-1]), *([lines[-1]] if lines[-1] else [])])

    @property
    def last_line(self) -> str:
        return next((line for line in reversed(self.tail) if line.strip()), "")
