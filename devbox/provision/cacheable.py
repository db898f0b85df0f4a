"""Which steps may be part of a layer: a rule over what they say, step by step, until the first that may not. Pure.

A layer serves other checkouts on other days, so it holds nothing that is one's own: no secrets, no synced files, no
port that this computer happened to have free, and nothing that is to happen again each time.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from devbox.config.model import MachineSpec, When
from devbox.provision.step import Step

_EACH_TIME = {
    When.ALWAYS: "it runs each time",
    When.BOOT: "it runs at every boot",
    When.MANUAL: "it runs when asked for",
}
_PORTS = "DEVBOX_PORT_"


def prefix(steps: Sequence[Step[Any]], machine: MachineSpec) -> tuple[int, str]:
    """How many of the first steps may be part of a layer, and why the next may not ("" where there is none)."""
    for count, step in enumerate(steps):
        if reason := why_not(step, machine):
            return count, f"`{step.name}`: {reason}"
    return len(steps), ""


def why_not(step: Step[Any], machine: MachineSpec) -> str:
    """Why neither this step nor those after it may be part of a layer; "" where it may."""
    spec = step.spec
    if (
        machine.disks
    ):  # A package need not name the folder that it fills, and the disk would then hide what it put there.
        return "the machine has data disks, which are mounted only after a layer's steps"
    if not spec.layer:
        return "it says `layer: false`"
    if spec.when in _EACH_TIME:
        return _EACH_TIME[spec.when]
    if spec.secrets or step.secrets:
        return "it uses secrets"
    if spec.sensitive:
        return "it is sensitive"
    if step.kind.host:
        return "this computer carries it out"
    said = "\n".join((*_texts(step.options), *_texts(spec.condition), *_texts(spec.env), spec.cwd))
    if _PORTS in said:
        return "it asks for a port of this computer"
    folder = next((each.guest for each in machine.folders if _touches(step, said, each.guest, machine)), None)
    return f"it works with the synced folder {folder}" if folder else ""


def _touches(step: Step[Any], said: str, folder: PurePosixPath, machine: MachineSpec) -> bool:
    home = PurePosixPath(machine.user.home)
    where = PurePosixPath(step.spec.cwd or (home if step.user == machine.user.name else "/"))
    if where.is_relative_to(folder):
        return True
    names = [str(folder)]
    if folder.is_relative_to(home):
        inside = folder.relative_to(home)
        names += [f"{word}/{inside}" for word in ("~", "$HOME", "${HOME}", f"~{machine.user.name}")]
    if where != PurePosixPath("/") and folder.is_relative_to(where):
        names.append(str(folder.relative_to(where)))
    return any(re.search(rf"(?<![\w./-]){re.escape(name)}(?![\w.-])", said) for name in names)


def _texts(value: Any) -> Iterator[str]:
    """Every text in a value, keys and bytes among them."""
    if isinstance(value, bytes):
        yield value.decode(errors="replace")
    elif isinstance(value, Mapping):
        for pair in value.items():
            yield from _texts(pair)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _texts(getattr(value, field.name))
    elif isinstance(value, list | tuple | set | frozenset):
        for each in value:
            yield from _texts(each)
    elif value is not None:
        yield str(value)
