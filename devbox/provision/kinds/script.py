"""`script`: as `run`, over the bytes of a script of the project and its arguments."""

from collections.abc import Mapping
from typing import Any

from devbox.provision import inputs
from devbox.provision.kinds import run
from devbox.provision.kinds.run import Run
from devbox.provision.step import Kind, Source, invalid


def parse(raw: str | Mapping[str, Any], source: Source) -> Run:
    stated = {"src": raw} if isinstance(raw, str) else raw
    script = inputs.read_file(source.root, stated["src"])
    if b"\0" in script[:1024]:
        raise invalid(f"{stated['src']} is a program, not a script")
    return Run(script, source.user, run.interpreter(script), args=tuple(stated.get("args", ())))


KIND = Kind(
    parse=parse, probe=run.probe, desired=run.desired, apply=run.apply, action=True, restarts=True, as_login_user=True
)
