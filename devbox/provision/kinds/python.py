"""`python`: a Fabric task of the project's own, called on this computer with our connection to the guest.

It runs when its file, the modules beside it that it imports, or its arguments are new. A task that returns False or
"same" says that it changed nothing.
"""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from devbox.config import host_code, trust
from devbox.config.host_code import Code
from devbox.errors import DevboxError
from devbox.provision import user_task
from devbox.provision.facts import Facts
from devbox.provision.step import Action, HostResult, HostSide, Kind, Source, State, invalid


@dataclass(frozen=True, slots=True)
class Python:
    code: Code
    task: str
    args: Mapping[str, Any]


def parse(raw: Mapping[str, Any], source: Source) -> Python:
    code = host_code.of_step(source.spec, source.root)
    task = raw["task"]
    try:
        tree = ast.parse(code.files[code.main].data)
    except (SyntaxError, ValueError) as mistake:
        line = getattr(mistake, "lineno", None)
        raise invalid(f"{code.main}{f':{line}' if line else ''} is no Python: {mistake}") from None
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    if task not in functions:
        known = ", ".join(sorted(functions)) or "none"
        raise invalid(f"{code.main} defines no function `{task}`; its functions are: {known}")
    if isinstance(functions[task], ast.AsyncFunctionDef):
        raise invalid(f"`{task}` in {code.main} is async; a task is a plain function")
    if not (functions[task].args.posonlyargs or functions[task].args.args or functions[task].args.vararg):
        raise invalid(f"`{task}` in {code.main} takes no argument; the first is the connection")
    return Python(code, task, dict(raw.get("args", {})))


def probe(python: Python) -> str:  # noqa: ARG001
    return '[ -z "$recorded" ] || field done "$recorded"'


def desired(python: Python, facts: Facts) -> State:  # noqa: ARG001
    return ()  # that of an action is its digest, see step.py


def identity(python: Python, facts: Facts) -> Any:  # noqa: ARG001
    return {"code": python.code.digest}  # task and arguments are in it


def apply(python: Python, facts: Facts) -> Action:  # noqa: ARG001
    return Action(b"fail 'A task of your own is carried out from outside.'\n")


def host(python: Python, side: HostSide) -> HostResult:
    """Raises `trust.unapproved`, `provision.python` and `tool.timeout`."""
    if not trust.is_approved(side.root, python.code.id):
        raise DevboxError(
            "trust.unapproved",
            f"`{python.code.main}`, or a module that it imports, is not as it was when it was approved.",
        )
    returned = user_task.call(python.code, python.task, python.args, side)
    return HostResult(changed=not (returned is False or returned == "same"))


KIND = Kind(
    parse=parse,
    probe=probe,
    desired=desired,
    identity=identity,
    apply=apply,
    host=host,
    action=True,
    restarts=True,
)
