"""`run`: a command or a block of shell text. Done when its receipt holds this digest; with `creates` or `unless`,
these decide instead, since they look at the guest itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from shlex import quote
from typing import Any

from devbox.provision import inputs
from devbox.provision.facts import Facts
from devbox.provision.inputs import Input
from devbox.provision.step import Action, Kind, Source, State, invalid

DEFAULT_INTERPRETER = ("/bin/sh", "-e")


@dataclass(frozen=True, slots=True)
class Run:
    script: bytes
    user: str
    interpreter: tuple[str, ...] = DEFAULT_INTERPRETER
    args: tuple[str, ...] = ()
    creates: str = ""
    unless: str = ""
    onlyif: str = ""
    inputs: tuple[Input, ...] = ()


def interpreter(script: bytes) -> tuple[str, ...]:
    """The words of the script's `#!` line, split as the kernel does, else `/bin/sh -e`.

    The kernel itself is not asked to run it, since the folder of the run may be mounted noexec.
    """
    if not script.startswith(b"#!"):
        return DEFAULT_INTERPRETER
    try:
        words = tuple(script[2:].split(b"\n", 1)[0].decode().strip().split(None, 1))
    except UnicodeDecodeError:
        words = ()
    if not words or not words[0].startswith("/"):
        raise invalid("its #! line does not name a program by its absolute path")
    return words


def parse(raw: str | Mapping[str, Any], source: Source) -> Run:
    stated = {"run": raw} if isinstance(raw, str) else raw
    script = stated["run"].encode()
    if not script.strip():
        raise invalid("the command is empty")
    return Run(
        script if script.endswith(b"\n") else script + b"\n",
        source.user,
        interpreter(script),
        creates=inputs.absolute(stated["creates"]) if "creates" in stated else "",
        unless=stated.get("unless", ""),
        onlyif=stated.get("onlyif", ""),
        inputs=tuple(item for path in stated.get("inputs", ()) for item in inputs.read_tree(source.root, path)),
    )


def probe(run: Run) -> str:
    """Prints `done` with the digest in question: $wanted, or $recorded, that of the receipt; $fresh: it just ran."""
    lines = []
    if run.onlyif:
        reason = r"\`onlyif\` ${late:-does not hold}"
        lines.append(f'guard {quote(run.user)} {quote(run.onlyif)} || {{ echo "{reason}"; return 10; }}')
    checks = [f"[ -e {quote(run.creates)} ]"] if run.creates else []
    if run.unless:
        # A condition rather than a state: that it still fails after the command ran is no failure of the command.
        checks.append(f'[ -n "$fresh" ] || guard {quote(run.user)} {quote(run.unless)}')
    if checks:
        overdue = '; elif [ -n "${late:-}" ]; then field unless "$late"' if run.unless else ""
        lines.append(f"late=''\nif {' || '.join(checks)}; then field done \"$wanted\"{overdue}; fi")
    else:
        lines.append('[ -z "$recorded" ] || field done "$recorded"')
    return "\n".join(lines)


def desired(run: Run, facts: Facts) -> State:  # noqa: ARG001
    return ()  # that of an action is its digest, see step.py


def apply(run: Run, facts: Facts) -> Action:  # noqa: ARG001
    return Action(run.script, interpreter=run.interpreter, args=run.args, prelude=False)


KIND = Kind(parse=parse, probe=probe, desired=desired, apply=apply, action=True, restarts=True, as_login_user=True)
