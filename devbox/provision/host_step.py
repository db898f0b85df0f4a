"""A step that this computer carries out: `reboot`, `ansible`, `python`. Its receipt and its log still lie in the guest.

`carry_out` does it and tells how it went; `receipt` is the step that writes that down in the guest, by a run as any
other, so that journal, `needs` and `devbox logs` know no difference.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from devbox import redact
from devbox.errors import DevboxError, ExitCode
from devbox.provision.context import Context
from devbox.provision.facts import Facts
from devbox.provision.progress import Listener, Progress
from devbox.provision.seen import Seen
from devbox.provision.step import Action, HostSide, Reads, Step

if TYPE_CHECKING:
    from devbox.guest.connection import Guest

_NEVER_CURED = ("trust.", "step.", "tool.", "provision.here")  # by another attempt
_LOG_LIMIT = 4 << 20  # bytes from the end that are kept


@dataclass(frozen=True, slots=True)
class HostRun:
    """How it went. `error` None means well; `seconds` by this computer's clock."""

    note: str
    seconds: float
    log: bytes
    changed: bool = False
    error: DevboxError | None = None


def carry_out(
    step: Step[Any],
    index: int,
    guest: "Guest",
    context: Context,
    known: Facts,
    listener: Listener,
) -> HostRun:
    """Does it now. Raises `provision.here` where there is no way to a guest for it, and what is no DevboxError."""
    if step.kind.host is None or context.connect is None or context.endpoint is None:
        raise DevboxError("provision.here", f"The step `{step.name}` cannot be carried out from here.")
    log = bytearray()
    seen = Seen(step.name)

    def keep(data: bytes) -> None:
        if not data or step.spec.sensitive:
            return
        log.extend(data)
        del log[: max(0, len(log) - _LOG_LIMIT)]
        listener.output(index, seen, seen.add(data))

    said = redact.Stream()

    side = HostSide(
        guest=guest,
        connect=context.connect,
        endpoint=context.endpoint,
        spec=step.spec,
        root=context.project_root,
        facts=known,
        env={**context.env, **step.spec.env},
        secrets=step.secrets,
        output=lambda data: keep(said.feed(data)),
    )
    listener.begin(index, seen)
    started = time.monotonic()
    try:
        result = _attempts(lambda: step.kind.host(step.options, side), step, side.output)  # type: ignore[misc]
        keep(said.end())
    except DevboxError as trouble:
        keep(said.end())
        if trouble.details:
            keep(f"\n{trouble.details}\n".encode())
        return HostRun("", time.monotonic() - started, bytes(log), error=trouble)
    except BaseException as trouble:
        listener.broken_off(trouble)
        raise
    return HostRun(result.note, time.monotonic() - started, bytes(log), changed=result.changed)


def _attempts(go: Callable[[], Any], step: Step[Any], output: Callable[[bytes], None]) -> Any:
    delay = 1.0
    for attempt in range(1, step.spec.retries + 1):
        try:
            return go()
        except DevboxError as trouble:
            if trouble.exit_code is ExitCode.USAGE or trouble.id.startswith(_NEVER_CURED):
                raise
            output(f"(attempt {attempt} failed: {trouble.message} Trying again.)\n".encode())
        time.sleep(delay)  # as in the guest: the wait itself is what is asked for
        delay *= 2
    return go()


def receipt(step: Step[Any], here: HostRun, known: Facts) -> Step[Any]:
    """The step whose run in the guest writes down that this one is done (or not), and what it said.

    It is root's, and has none of the step's folder and environment, which this could fail of.
    """
    lines = 'cat "$files/log"\n'
    if here.error:
        lines += "exit 1\n"
    elif not here.changed:
        lines += ': >"$files/unchanged"\n'
    action = Action(lines.encode(), {"log": here.log})
    kind = replace(
        step.kind,
        probe=lambda options: '[ -z "$recorded" ] || field done "$recorded"',  # noqa: ARG005
        apply=lambda options, facts: action,  # noqa: ARG005
        reads=lambda options: Reads(),  # noqa: ARG005
        host=None,
    )
    nothing: Mapping[str, str] = MappingProxyType({})
    spec = replace(step.spec, condition=nothing, timeout=None, retries=0, cwd="", env=nothing)
    return replace(step, kind=kind, spec=spec, user="root", secrets=nothing, stands_for=step.digest(known))


def merge(progress: Progress, index: int, here: HostRun) -> None:
    """Puts what this computer knows of the step into what was seen of its receipt."""
    seen = progress.steps.setdefault(index, Seen())
    seen.seconds = here.seconds
    seen.reason = here.note
    if here.error:
        seen.result, seen.reason = "here", here.error.message.rstrip(".")
