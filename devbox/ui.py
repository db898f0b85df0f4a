"""Words for people on stderr, results on stdout. Everything that is not ours passes `clean` before it is shown, and
everything the filter that takes secrets out.
"""

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from devbox import redact

_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[@-Z\\-_]")
# C0 and C1 controls but for tab and newline, and the marks that reorder text on a terminal.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_QUIET_INTERVAL = 10.0  # seconds between progress lines where there is no terminal


def clean(text: str) -> str:
    """The text without secrets, terminal escapes and control characters: safe to show, whoever wrote it."""
    plain = _CONTROLS.sub("", _ESCAPES.sub("", redact.text(text).replace("\r\n", "\n").replace("\r", "\n")))
    return redact.text(plain)  # again: an escape may have stood within one


def on_terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def colour() -> bool:
    return on_terminal() and not os.environ.get("NO_COLOR")


def paint(text: str, code: str) -> str:
    """`text` in a colour (an SGR code such as "31"), where stderr shows colours."""
    return f"\x1b[{code}m{text}\x1b[0m" if colour() else text


def _write(line: str) -> None:
    try:
        sys.stderr.write(line)
        sys.stderr.flush()
    except OSError:
        pass  # Nobody reads our progress any more (a closed pipe or terminal, a full disk); the work goes on.


def note(text: str) -> None:
    _write(f"  {clean(text)}\n")


def done(text: str) -> None:
    _write(f"{paint('✓', '32')} {clean(text)}\n")


def warn(text: str) -> None:
    _write(f"{paint('!', '33')} {clean(text)}\n")


def failed(text: str) -> None:
    _write(f"{paint('✗', '31')} {clean(text)}\n")


def say(text: str = "") -> None:
    _write(f"{clean(text)}\n")


def duration(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


class Step:
    """A piece of long work that is being done: `update` shows what it sees just now, `title` may grow an outcome."""

    def __init__(self, title: str) -> None:
        self.title = clean(title)
        self.started = time.monotonic()
        self._shown = 0.0
        self._live = on_terminal()

    def update(self, text: str) -> None:
        """One line under the title: live on a terminal, else a sign of life every ten seconds."""
        now = time.monotonic()
        if now - self._shown < (0.1 if self._live else _QUIET_INTERVAL):
            return
        if not self._live and now - self.started < _QUIET_INTERVAL:
            return
        self._shown = now
        line = clean(text).strip().split("\n")[-1]
        if self._live:
            width = os.get_terminal_size(sys.stderr.fileno()).columns or 80
            shown = f"  {duration(now - self.started)}  {line}"
            _write(f"\r\x1b[2K{paint(shown[: width - 1], '2')}")
        else:
            _write(f"  … {duration(now - self.started)}: {line}\n")

    def clear(self) -> None:
        if self._live and self._shown:
            _write("\r\x1b[2K")


@contextmanager
def step(title: str) -> Iterator[Step]:
    """Say what begins, show it while it runs, and say how long it took. An error passes through."""
    running = Step(title)
    _write(f"{paint('•', '36')} {running.title}\n")
    try:
        yield running
    except BaseException:
        running.clear()
        failed(f"{running.title} ({duration(time.monotonic() - running.started)})")
        raise
    running.clear()
    done(f"{running.title} ({duration(time.monotonic() - running.started)})")


@contextmanager
def transfer(title: str, total: int | None, *, already: int = 0) -> Iterator[Callable[[int], None]]:
    """Progress of a transfer in bytes: size, speed, time left. Yields a function to call with each chunk's length."""
    with step(title) as running:
        moved = already

        def advance(count: int) -> None:
            nonlocal moved
            moved += count
            elapsed = time.monotonic() - running.started
            speed = (moved - already) / elapsed if elapsed > 0 else 0.0
            text = size(moved)
            if total:
                text += f" of {size(total)} ({100 * moved // total} %)"
            text += f", {size(speed)}/s"
            if total and speed:
                text += f", {duration(max(0, total - moved) / speed)} left"
            running.update(text)

        yield advance


def emit_json(value: Any) -> None:
    """One JSON document on stdout: the result, for programs."""
    print(json.dumps(redact.value(value), indent=2, ensure_ascii=False))


def emit_line(value: Any) -> None:
    """One JSON object on a line of stdout, at once: an event, for programs."""
    print(json.dumps(redact.value(value), ensure_ascii=False), flush=True)


def emit(text: str = "") -> None:
    """A result for people or pipes, on stdout."""
    print(redact.text(text))


def table(rows: Sequence[Sequence[str]], header: Sequence[str]) -> None:
    """A table on stdout: the columns as wide as their longest cell."""
    cells = [[clean(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    for number, row in enumerate(cells):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        print(f"\x1b[1m{line}\x1b[0m" if number == 0 and sys.stdout.isatty() and colour() else line)


def confirm(question: str) -> bool:
    """Ask on the terminal; without one the answer is no."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    _write(f"{clean(question)} [y/N] ")
    return sys.stdin.readline().strip().lower() in {"y", "yes"}
