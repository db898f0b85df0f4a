"""The secrets of a Devboxfile: where their values are, never the values; whether steps name those that there are."""

import difflib
from pathlib import Path
from typing import Any

from devbox.config import values
from devbox.config.draft import Draft
from devbox.config.model import Secret
from devbox.config.problems import Place, show
from devbox.config.values import Mistake

# A step would not run as it should, or not at all, if one of these were anything else than what the system made it.
_SYSTEM = frozenset(("BASH_ENV", "ENV", "HOME", "IFS", "LC_ALL", "LOGNAME", "PATH", "SHELL", "USER"))


def build(draft: Draft, root: Path) -> tuple[Secret, ...]:
    made: list[Secret] = []
    lines: dict[str, int] = {}
    for place, secret in draft.each(("secrets",), lambda value: _secret(value, root)):
        if secret.name in lines:
            draft.problem(place, f"line {lines[secret.name]} has a secret with the name {show(secret.name)} already")
        lines[secret.name] = draft.document.where(place).line
        made.append(secret)
    return tuple(made)


def _secret(value: dict[str, Any], root: Path) -> Secret:
    name = value["name"]
    if name in _SYSTEM or name.upper().startswith("DEVBOX_"):
        raise Mistake(f"the variable {show(name)} is the system's or devbox's own; choose another name")
    command = tuple(value.get("command", ()))
    if command and "/" in command[0] and not command[0].startswith(("/", "~/")):
        raise Mistake(
            f"{show(command[0])} would be a program of the project's folder, where anybody could have put it; name "
            "one that is installed on this computer, or an absolute path"
        )
    if command and command[0].startswith("~/"):
        command = (str(Path.home() / command[0][2:]), *command[1:])
    keyring = value.get("keyring")
    return Secret(
        name,
        value.get("env", ""),
        values.host_path(value["file"], root) if "file" in value else None,
        command,
        (keyring["service"], keyring["username"]) if keyring else None,
    )


def names(draft: Draft) -> list[str]:
    """Of all that are written, those with other mistakes too: a step may name them."""
    written = draft.document.data.get("secrets")
    found = (one.get("name") for one in written if isinstance(one, dict)) if isinstance(written, list) else ()
    return [name for name in found if isinstance(name, str)]


def check_names(draft: Draft, step: Place, known: list[str]) -> None:
    """Finds names in a step's `secrets` that are none, or that its `env` has, too."""
    env = draft.get((*step, "env"), {})
    for place, name in draft.each((*step, "secrets"), str):
        if name not in known:
            close = difflib.get_close_matches(name, known, 1, 0.6)
            guess = f"; did you mean `{close[0]}`?" if close else ""
            draft.problem(place, f"no secret has the name {show(name)}{guess}")
        elif name in env:
            draft.problem(place, f"the step's `env` has {show(name)}, too; one of them is to be left out")
