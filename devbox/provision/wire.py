"""What goes over a channel: frames out of bytes, the probe run's answer as values, and the two channels themselves.

Frames are lines that begin with the run's nonce, which no step can know; everything else is text of the frame
before it. Nothing here decides.
"""

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from devbox import redact
from devbox.errors import DevboxError
from devbox.provision import journal, script, shell
from devbox.provision.facts import Volatile
from devbox.provision.journal import Journal
from devbox.provision.payload import Payload
from devbox.provision.step import State, parse_state

if TYPE_CHECKING:
    from devbox.guest.connection import (
        Guest,
        Input,
    )  # importing it costs Fabric's 0.2 s, which a check of the steps need not pay

_OVERDUE = "124"  # of a guard whose time ran out, see guard.sh
NOT_APPLICABLE = 10  # the exit status of a probe whose step does not apply
_PROBE_LIMIT = 120.0  # seconds; commands of `if`, `unless` and `onlyif` are in it
_RUN_ID = re.compile(r"[0-9a-f]{32}")
_OUTPUT = ("begin", "retry")  # the frames after which a step's own output comes


@dataclass(frozen=True, slots=True)
class Frame:
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Text:
    data: bytes


class Frames:
    """Takes bytes as they come, gives frames as soon as their line is whole, and text as early as possible.

    A step's output may lack its last line's end, so a frame is found wherever the nonce stands. What a step says has
    passed the filter of secrets when it comes out of here.
    """

    def __init__(self, nonce: str) -> None:
        self._mark = nonce.encode() + b" "
        self._held = b""
        self._said, self._saying = redact.Stream(), False

    def feed(self, data: bytes) -> Iterator[Frame | Text]:
        for item in self._split(data):
            if isinstance(item, Frame):
                if item.words[0] != "tick" and (rest := self._said.end()):
                    yield Text(rest)
                # What probes say is compared, and must come through as it is.
                self._saying = item.words[0] in _OUTPUT or (self._saying and item.words[0] == "tick")
                yield item
            elif not self._saying:
                yield item
            elif said := self._said.feed(item.data):
                yield Text(said)

    def _split(self, data: bytes) -> Iterator[Frame | Text]:
        self._held += data
        while True:
            start = self._held.find(self._mark)
            if start < 0:
                keep = self._partial_mark()
                text, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
                if text:
                    yield Text(text)
                return
            if start:
                yield Text(self._held[:start])
                self._held = self._held[start:]
            line, end, rest = self._held.partition(b"\n")
            if not end:
                return
            self._held = rest
            yield Frame(tuple(line[len(self._mark) :].decode(errors="replace").split(" ")))

    def _partial_mark(self) -> int:
        """How many bytes at the end may be the beginning of a mark."""
        longest = min(len(self._mark) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if self._held.endswith(self._mark[:n])), 0)


@dataclass(frozen=True, slots=True)
class Probed:
    """How one step stands: `state` None means unknown; `reason` is why it does not apply, where it does not."""

    state: State | None = None
    reason: str = ""
    met: bool = True  # its `if: test`
    content: bytes | None = None  # the old text, for a diff
    new: bytes | None = None  # the new one, where the guest computes it


@dataclass(frozen=True, slots=True)
class Answer:
    """What the probe run told."""

    stable: Mapping[str, str]
    volatile: Volatile
    journal: Journal
    running: str  # id of a run in progress, or ""
    steps: Mapping[int, Probed]


def parse_answer(nonce: str, data: bytes) -> Answer:
    """The probe run's output as values. Raises `provision.probe` when its end is missing."""
    sections: dict[tuple[str, ...], bytes] = {}
    current: tuple[str, ...] = ()
    for item in Frames(nonce).feed(data):
        if isinstance(item, Frame):
            current = item.words
            sections.setdefault(current, b"")
        else:
            sections[current] = sections.get(current, b"") + item.data
    if ("end",) not in sections:
        raise DevboxError("provision.probe", "The machine's state could not be read: the answer breaks off.")

    def lines(*words: str) -> dict[str, str]:
        pairs = (line.partition("=") for line in _text(sections.get(words, b"")).splitlines())
        return {name: value for name, equals, value in pairs if equals}

    running = _text(sections.get(("running",), b"")).strip()
    return Answer(
        MappingProxyType(lines("facts")),
        Volatile(lines("volatile").get("boot", "")),
        journal.parse(_text(sections.get(("journal",), b""))),
        running if _RUN_ID.fullmatch(running) else "",
        MappingProxyType(_probed(sections)),
    )


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def _probed(sections: Mapping[tuple[str, ...], bytes]) -> dict[int, Probed]:
    ended = {int(words[1]): words[2] for words in sections if words[0] == "ended"}
    met = {int(words[1]): words[2] for words in sections if words[0] == "met"}
    found = {}
    for index, status in ended.items():
        text = _text(sections.get(("state", str(index)), b""))
        test = met.get(index, "0")
        reason = text.strip() if status == str(NOT_APPLICABLE) else ""
        found[index] = Probed(
            parse_state(text) if status == "0" else None,
            "its `if: test` did not end within its time limit" if test == _OVERDUE else reason,
            test in ("0", _OVERDUE),
            _decode(sections.get(("content", str(index)))),
            _decode(sections.get(("new", str(index)))),
        )
    return found


def _decode(data: bytes | None) -> bytes | None:
    if not data:
        return None
    try:
        return base64.b64decode(data)
    except binascii.Error:
        return None


def probe(guest: "Guest", text: str, nonce: str, *, user: str, slowdown: float) -> Answer:
    """One channel: runs the probe script and gives what it told. Raises `provision.no-root`, `provision.probe`."""
    command = shell.as_root(script.EVAL, user=user)
    result = guest.run(command, stdin=text.encode(), timeout=_PROBE_LIMIT * max(1.0, slowdown))
    if nonce.encode() not in result.stdout:
        refuse(result.stderr, user)
    return parse_answer(nonce, result.stdout)


def refuse(stderr: bytes, user: str) -> None:
    details = _text(stderr).strip()
    if "sudo" in details or "password" in details:
        raise DevboxError(
            "provision.no-root",
            f"The account {user} cannot become root in the machine without a password, which provisioning needs.",
            hint=f"Let `sudo -n true` succeed for {user} in the machine.",
            details=details,
        )
    raise DevboxError("provision.probe", "The machine's state could not be read.", details=details)


def apply(guest: "Guest", run: shell.Run, payload: Payload, *, user: str, on_data: Callable[[bytes], None]) -> None:
    """One channel: unpacks the tar in the guest, starts its run there and follows it to its end."""
    command = shell.as_root(script.unpack_and_start(run, incoming=bool(payload.incoming)), user=user)
    _follow(guest, command, payload, on_data, folder=run.places.runs)


def attach(guest: "Guest", run: shell.Run, *, user: str, on_data: Callable[[bytes], None]) -> None:
    """One channel: follows a run that goes on already, from its beginning to its end."""
    _follow(guest, shell.as_root(script.EVAL, user=user), script.attach(run).encode(), on_data)


def _follow(
    guest: "Guest", command: str, stdin: "Input", on_data: Callable[[bytes], None], *, folder: str = ""
) -> None:
    result = guest.run(command, stdin=stdin, on_output=on_data)
    if folder and result.status == script.ON_DISK:
        raise DevboxError(
            "secret.on-disk",
            f"{folder} in the machine lies on a disk and not in memory, so no secret may go there: nothing was done.",
            hint="Mount a tmpfs at /run in the machine, as systemd and OpenRC do, or leave `secrets` out of the steps.",
        )
    if result.status != 0:
        raise DevboxError(
            "provision.run",
            "The provisioning run could not be started in the machine, or was cut off.",
            hint="Try `devbox provision` again: it goes on where this run stood.",
            details=_text(result.stderr).strip(),
        )
