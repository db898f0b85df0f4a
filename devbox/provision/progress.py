"""Follows the events of an apply run: keeps what became of each step, and tells a listener while it happens."""

from collections.abc import Callable
from typing import Protocol

from devbox import ui
from devbox.provision.report import Outcome
from devbox.provision.seen import Seen
from devbox.provision.step import parse_state
from devbox.provision.wire import Frame, Frames


class Listener(Protocol):
    """Who wants to know what goes on: the terminal, or a program that reads events."""

    def begin(self, index: int, seen: Seen) -> None: ...

    def output(self, index: int, seen: Seen, text: str) -> None: ...

    def tick(self, index: int, seen: Seen) -> None: ...

    def end(self, index: int, seen: Seen) -> None: ...

    def broken_off(self, error: BaseException) -> None: ...

    def settled(self, outcome: Outcome) -> None:
        """A step that nothing was done for."""


class Progress:
    """`feed` takes the bytes of the channel. A class, since a run that is followed has a lifetime."""

    def __init__(
        self, nonce: str, listener: Listener | None, *, at_gate: Callable[[int], None] = lambda index: None
    ) -> None:
        self.steps: dict[int, Seen] = {}
        self.done = False
        self.busy = False
        self.lost = ""  # what the run itself said when it was killed
        self.current: int | None = None
        self._frames = Frames(nonce)
        self._listener, self._at_gate = listener, at_gate
        self._section: tuple[str, ...] = ()
        self._text = b""

    def feed(self, data: bytes) -> None:
        for item in self._frames.feed(data):
            if isinstance(item, Frame):
                self._frame(item.words)
            elif self._section[:1] == ("begin",):
                self._output(item.data)
            else:
                self._text += item.data

    def finish(self) -> None:
        """The channel is at its end: whatever is held is all there is."""
        self._end_section()
        self._section = ()

    def _frame(self, words: tuple[str, ...]) -> None:
        if words == ("tick",):
            if self._listener and self.current is not None:
                self._listener.tick(self.current, self.steps[self.current])
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
            case "gate":
                self._at_gate(int(words[1]))
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

    def _begin(self, index: int, name: str) -> None:
        self.current = index
        step = self.steps.setdefault(index, Seen())
        step.name = name
        if self._listener:
            self._listener.begin(index, step)

    def _output(self, data: bytes) -> None:
        if self.current is None:
            return
        step = self.steps[self.current]
        text = step.add(data)
        if self._listener:
            self._listener.output(self.current, step, text)

    def _end(self, index: int, words: tuple[str, ...]) -> None:
        step = self.steps.setdefault(index, Seen())
        step.outcome, step.result = words[2], words[3]
        step.seconds = int(words[4]) / 1000 if words[4].isdigit() else 0.0
        self.current = None
        if self._listener:
            self._listener.end(index, step)
