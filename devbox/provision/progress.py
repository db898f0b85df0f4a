"""Follows the events of an apply run: shows each step while it runs, and keeps what became of it."""

import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from devbox import ui
from devbox.errors import DevboxError
from devbox.provision.step import State, parse_state
from devbox.provision.wire import Frame, Frames

_TAIL = 30  # lines of output that a failure shows
_SILENCE = 300.0  # seconds without output after which a step is said to be silent


@dataclass(slots=True)
class Seen:
    """What the guest said of one step."""

    name: str = ""
    outcome: str = ""  # same, changed, failed, skipped, unmet
    result: str = ""  # exit status, or timeout, differs, receipt
    seconds: float = 0.0
    before: State | None = None
    after: State | None = None
    reason: str = ""
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=_TAIL))


class Progress:
    """`feed` takes the bytes of the channel. A class, since a step's display has a lifetime."""

    def __init__(self, nonce: str, finished: Callable[[int, Seen], None] | None = None) -> None:
        self.steps: dict[int, Seen] = {}
        self.done = False
        self.busy = False
        self.lost = ""  # what the run itself said when it was killed
        self.current: int | None = None
        self._frames = Frames(nonce)
        self._finished = finished
        self._section: tuple[str, ...] = ()
        self._text = b""
        self._display: tuple[AbstractContextManager[ui.Step], ui.Step] | None = None
        self._heard, self._warned = 0.0, False

    def feed(self, data: bytes) -> None:
        for item in self._frames.feed(data):
            if isinstance(item, Frame):
                self._frame(item.words)
            elif self._section[:1] == ("begin",):
                self._output(item.data)
            else:
                self._text += item.data

    def close(self, error: BaseException | None = None) -> None:
        """Ends the display of the step that runs, as failed when there is an error."""
        display, self._display = self._display, None
        if display is None:
            return
        if error is None:
            display[0].__exit__(None, None, None)
        else:
            display[0].__exit__(type(error), error, error.__traceback__)

    def _frame(self, words: tuple[str, ...]) -> None:
        if words == ("tick",):
            self._tick()
            return
        self._end_section()
        self._section = words
        match words[0]:
            case "begin":
                self._begin(int(words[1]), " ".join(words[3:]))
            case "retry":
                self._output(f"(attempt {words[2]} ended with {words[3]}; trying again)\n".encode())
                self._section = ("begin",)
            case "end":
                self._end(int(words[1]), words)
            case "done":
                self.done = True
            case "busy":
                self.busy = True

    def _end_section(self) -> None:
        text, self._text = self._text.decode(errors="replace"), b""
        match self._section:
            case ("before", index, seen):
                step = self.steps.setdefault(int(index), Seen())
                step.before = parse_state(text) if seen == "0" else None
                step.reason = ui.clean(text).strip() if seen == "10" else ""
            case ("after", index, seen):
                self.steps.setdefault(int(index), Seen()).after = parse_state(text) if seen == "0" else None
            case ("lost",):
                self.lost = ui.clean(text).strip()

    def finish(self) -> None:
        """The channel is at its end: whatever is held is all there is."""
        self._end_section()
        self._section = ()

    def _begin(self, index: int, name: str) -> None:
        self.current = index
        self.steps.setdefault(index, Seen()).name = name
        manager = ui.step(name)
        self._display = (manager, manager.__enter__())
        self._heard, self._warned = time.monotonic(), False

    def _output(self, data: bytes) -> None:
        if self.current is None or self._display is None:
            return
        self._heard = time.monotonic()
        text = data.decode(errors="replace")
        tail = self.steps[self.current].tail
        lines = text.split("\n")
        if tail and not tail[-1].endswith("\n"):
            lines[0] = tail.pop() + lines[0]
        tail.extend([*(f"{line}\n" for line in lines[:-1]), *([lines[-1]] if lines[-1] else [])])
        shown = next((line for line in reversed(tail) if line.strip()), "")
        self._display[1].update(shown)

    def _tick(self) -> None:
        """A sign that the connection lives, whether or not the step says anything."""
        if self._display is None or self.current is None:
            return
        tail = self.steps[self.current].tail
        self._display[1].update(tail[-1] if tail else "no output yet")
        if not self._warned and time.monotonic() - self._heard > _SILENCE:
            self._warned = True
            name = self.steps[self.current].name
            ui.warn(f"`{name}` has said nothing for {ui.duration(_SILENCE)}; it goes on running.")

    def _end(self, index: int, words: tuple[str, ...]) -> None:
        step = self.steps.setdefault(index, Seen())
        step.outcome, step.result = words[2], words[3]
        step.seconds = int(words[4]) / 1000 if words[4].isdigit() else 0.0
        if self._display is not None:
            # What the guest measured: short steps come here in bunches.
            self._display[1].started = time.monotonic() - step.seconds
        if step.outcome == "failed":
            self.close(DevboxError("provision.failed", step.name))
        else:
            self.close()
        self.current = None
        if self._finished:
            self._finished(index, step)
