"""What a kind of step is, and the two pure functions over its states: their difference, and the digest of a step.

A state is text: an ordered tuple of (field, value), which the guest prints as `field=value` lines (`probe`) and the
host computes (`desired`). So "already so" is one comparison of two strings, which the guest can make by itself.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from devbox.config.model import StepSpec
from devbox.errors import DevboxError, ExitCode
from devbox.provision import journal
from devbox.provision.facts import Facts

if TYPE_CHECKING:
    from devbox.guest.connection import Guest
    from devbox.guest.openssh import Endpoint

SCHEMA = 1

State = tuple[tuple[str, str], ...]
O = TypeVar("O")  # noqa: E741 - the options of a kind


@dataclass(frozen=True, slots=True)
class Change:
    """One field that differs; None means that it is not there."""

    field: str
    old: str | None
    new: str | None


@dataclass(frozen=True, slots=True)
class Action:
    """What brings the guest into the desired state, whatever it is in now.

    `script` is run by `interpreter` as the step's account. With `prelude` it is one of ours: it finds the functions
    of prelude.sh, `$files` (the folder that holds `files`, in memory), `$incoming` (the folder that holds `incoming`,
    on the guest's disk) and "1" as its first argument when something it needs has changed.
    """

    script: bytes
    files: Mapping[str, bytes] = field(default_factory=lambda: MappingProxyType({}))
    interpreter: tuple[str, ...] = ("sh", "-e")
    args: tuple[str, ...] = ()
    prelude: bool = True
    incoming: Mapping[str, Path] = field(default_factory=lambda: MappingProxyType({}))  # large files of this computer


@dataclass(frozen=True, slots=True)
class Reads:
    """What a probe looks at, so that one program reads it for all steps together."""

    files: tuple[str, ...] = ()  # type, mode, owner, group, and sha256 of regular files
    paths: tuple[str, ...] = ()  # the same without the sha256
    packages: tuple[str, ...] = ()
    candidates: tuple[str, ...] = ()  # packages whose newest version is asked for
    units: tuple[str, ...] = ()
    accounts: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """Where a step comes from: what `parse` needs beside the options."""

    spec: StepSpec
    root: Path  # the project's folder
    user: str  # the account that does it


@dataclass(frozen=True, slots=True)
class HostSide:
    """What a step finds that this computer carries out (`ansible`, `python`, `reboot`), between two runs in the guest.

    `guest` is connected after the last change there, so that it has today's groups. `connect` makes another
    connection, and waits for a guest that is booting. `output` takes what the step says, for progress and its log.
    """

    guest: "Guest"
    connect: Callable[[], "Guest"]
    endpoint: "Endpoint"
    spec: StepSpec
    root: Path  # the project's folder
    facts: Facts
    env: Mapping[str, str]  # the Devboxfile's and the step's own
    secrets: Mapping[str, str]
    output: Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class HostResult:
    """How it went; a failure is a DevboxError. `note` is shown beside the step ("3 of 12 tasks changed")."""

    changed: bool = True
    note: str = ""


def _as_written(options: Any, facts: Facts) -> Any:  # noqa: ARG001
    return options


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind(Generic[O]):
    """The contract of a kind. Every function is pure, but that `parse` reads input files of the project.

    `probe` is the body of a read-only shell function over prelude.sh, which prints one `field=value` line for each
    stated field; status 10 means that the step does not apply, for the printed reason, and any other failure that the
    state is unknown. It must neither exit nor change folder: it runs in the shell that probes the other steps too.
    """

    parse: Callable[[Any, Source], O]
    probe: Callable[[O], str]
    desired: Callable[[O, Facts], State]
    apply: Callable[[O, Facts], Action]
    reads: Callable[[O], Reads] = lambda options: Reads()  # noqa: ARG005
    identity: Callable[[O, Facts], Any] = _as_written  # the options after rendering, for the digest
    content: Callable[[O, Facts], tuple[str, bytes]] | None = None  # path and new bytes, for --diff
    # Instead, where only the guest can tell: the body of a read-only shell function that prints the new text of
    # reads().files[0] as base64, or fails where there is nothing to show.
    preview: Callable[[O], str] | None = None
    fetch: Callable[[O], None] | None = None  # brings to this computer what `apply` refers to; only before it acts
    host: Callable[[O, HostSide], HostResult] | None = None  # this computer carries it out; `apply` is then not used
    in_guest: Callable[[O], bool] = lambda options: False  # noqa: ARG005 - with these options, `apply` after all
    revision: int = 1  # raised when the same options come to mean something else
    action: bool = False  # it does something rather than describe a state: the receipt tells whether it is done
    restarts: bool = False  # it acts when something that it needs has changed …
    guarded: Callable[[O], bool] = lambda options: False  # noqa: ARG005 - … but with these options only if it says so
    as_login_user: bool = False


@dataclass(frozen=True, slots=True)
class Step(Generic[O]):
    """A step of the Devboxfile together with its kind and the kind's own options."""

    spec: StepSpec
    kind: Kind[O]
    options: O
    user: str
    secrets: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)  # name → value
    seals: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))  # name → keyed digest of the value
    stands_for: str = ""  # the digest of the step in whose place this one is

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def key(self) -> str:
        """Its file in the journal."""
        return journal.key(self.spec.identity or self.spec.name)

    @property
    def restarts(self) -> bool:
        """Whether it acts when something that it needs has changed."""
        return self.kind.restarts and not self.kind.guarded(self.options)

    def desired(self, facts: Facts) -> State:
        """The state asked for; that of an action is to be done in just this version of it."""
        if self.kind.action:
            return (("done", self.digest(facts)),)
        return self.kind.desired(self.options, facts)

    def digest(self, facts: Facts) -> str:
        """Identity of what is asked, for receipts and layers: not its name, nor when or how often it is tried."""
        if self.stands_for:
            return self.stands_for
        value = {
            "schema": SCHEMA,
            "kind": self.spec.kind,
            "revision": self.kind.revision,
            "options": self.kind.identity(self.options, facts),
            "user": self.user,
            "cwd": self.spec.cwd,
            "env": dict(self.spec.env),
            **({"secrets": dict(self.seals)} if self.seals else {}),
            **({"epoch": self.spec.epoch} if self.spec.epoch else {}),
        }
        text = json.dumps(value, default=_canonical, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def _canonical(value: Any) -> Any:
    if isinstance(value, bytes):
        return "sha256:" + hashlib.sha256(value).hexdigest()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no place in a step's digest")


def difference(actual: State, desired: State) -> tuple[Change, ...]:
    """Field by field, in the order of what is asked; what is there but not asked for comes last."""
    old, new = dict(actual), dict(desired)
    names = list(dict.fromkeys((*new, *old)))
    return tuple(Change(name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name))


def render(state: State) -> str:
    """The text that the probe prints for this state, without the last line's end (as `$(…)` gives it)."""
    return "\n".join(f"{name}={value}" for name, value in state)


def parse_state(text: str) -> State | None:
    """The state that a probe printed; None when it printed anything else, which means unknown."""
    pairs = [line.partition("=") for line in text.splitlines()]
    if any(not name or not equals for name, equals, _ in pairs) or len({name for name, _, _ in pairs}) < len(pairs):
        return None
    return tuple((name, value) for name, _, value in pairs)


def invalid(problem: str) -> DevboxError:
    """A mistake in a step, which the schema cannot see; `bind` adds the step's name and position."""
    return DevboxError("step.invalid", problem, exit_code=ExitCode.USAGE)
