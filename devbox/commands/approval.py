"""Asks before a Devboxfile gets more of this computer than typing `devbox up` implies, and remembers the answer."""

import sys

from devbox import ui
from devbox.config import trust
from devbox.config.model import Project
from devbox.errors import DevboxError


def require(project: Project, given: str) -> None:
    """Return once everything is approved. `given` is `--approve`'s value: "", "all" or the hash that was shown.

    Raises `trust.unapproved` where nobody can be asked, and `trust.refused`.
    """
    missing = trust.missing(project)
    if not missing:
        return
    code = trust.digest(trust.needing_approval(project))
    if given not in {"", "all", code}:
        raise DevboxError(
            "trust.other",
            f"`--approve={given}` was given for another version of this Devboxfile.",
            hint=f"Look at what it asks for now, then approve with `--approve={code}`.",
            details=_shown(missing),
        )
    if not given:
        ui.warn(f"The Devboxfile of {project.root} asks for this on your computer:")
        ui.say(_shown(missing))
        if not sys.stdin.isatty():
            raise DevboxError(
                "trust.unapproved",
                "It has not been approved, and there is no terminal to ask on.",
                hint=f"Approve exactly this with `--approve={code}`, or whatever it asks for with `--approve=all`.",
            )
        if not ui.confirm("Allow it, for this project?"):
            raise DevboxError("trust.refused", "Not allowed, so nothing was done.")
    trust.approve(project)


def _shown(missing: tuple[trust.Capability, ...]) -> str:
    return "\n".join(f"    - {capability}" for capability in missing)
