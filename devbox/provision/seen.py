"""What was seen of one step while it was carried out, before anything is made of it."""

import codecs
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
    _decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace")
    )

    def add(self, data: bytes) -> str:
        """More of its output, as text: a letter may come in two pieces. Only the last lines are kept."""
        text = self._decoder.decode(data)
        lines = text.split("\n")
        if self.tail and not self.tail[-1].endswith("\n"):
            lines[0] = self.tail.pop() + lines[0]
        self.tail.extend([*(f"{line}\n" for line in lines[:-1]), *([lines[-1]] if lines[-1] else [])])
        return text

    @property
    def last_line(self) -> str:
        return next((line for line in reversed(self.tail) if line.strip()), "")
