"""The shape of the code: imports go down only, dangerous things have one owner, sizes are bounded.

See docs/internals.md. The code is read with `ast` and never imported, so a mistake shows here whatever else is broken.
"""

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "devbox"

LEAVES = frozenset({"bug", "errors", "paths", "proc", "fs", "redact", "ui", "version"})
STAGES = (
    "config",
    "box",
    "disk",
    "share",
    "machine",
    "guest",
    "provision",
    "supervise",
    "commands",
    "cli",
    "launch",
    "pytest_plugin",
)

# Module or package → who may import it. An entry ending in "/" means every module of that folder.
OWNERS = {
    "subprocess": {"proc"},
    "pty": {"proc"},
    "multiprocessing": set[str](),
    "pickle": set[str](),
    "marshal": set[str](),
    "shelve": set[str](),
    "yaml": {"config/document"},
    "jsonschema": {"config/contract"},
    "httpx": {"box/download"},
    "pycdlib": {"disk/seed"},
    "qemu": {"machine/qmp"},
    "asyncio": {"machine/qmp"},
    "fabric": {"guest/connection"},
    "paramiko": {"guest/connection"},
    "invoke": {"guest/connection"},
    "jinja2": {"provision/rendering"},
    "keyring": {"provision/secrets"},
    "rich": {"ui"},
    "typer": {"cli", "commands/"},
    "platformdirs": {"paths"},
    "pytest": {"pytest_plugin"},
    "testinfra": {"pytest_plugin"},
}

# Name as it is called → who may call it. A trailing "*" stands for any ending.
CALLS = {
    "print": {"ui"},
    "input": {"ui"},
    "eval": set[str](),
    "exec": set[str](),
    "__import__": set[str](),
    "os.system": set[str](),
    "os.popen": set[str](),
    "os.exec*": {"proc"},
    "os.spawn*": {"proc"},
    "os.posix_spawn*": {"proc"},
    "os.fork*": {"proc"},
    "os._exit": set[str](),
    "sys.exit": {"cli"},
    "exit": set[str](),
    "quit": set[str](),
}

# Outside the command line, a hidden import needs a reason; here are all of them.
HIDDEN_IMPORTS = {
    ("box/image", "devbox.box.download"): "httpx, 80 ms that an image in the store does not need",
    ("box/image", "devbox.box.elsewhere"): "the same httpx",
    ("box/image", "devbox.box.unpack"): "zstandard, 20 ms that an image in the store does not need",
    ("config/document", "yaml"): "20 ms that a remembered document does not need",
    ("config/build", "devbox.config.contract"): "jsonschema, 90 ms that a remembered document does not need",
    ("config/lock", "devbox.config.contract"): "jsonschema, 90 ms that a right file does not need",
    ("config/preferences", "devbox.config.contract"): "jsonschema, 90 ms that nobody without such a file needs",
    ("disk/identity", "hashlib"): "3 ms of OpenSSL that `status` does not need",
    ("fs", "hashlib"): "3 ms of OpenSSL that `status` does not need",
    ("paths", "platformdirs"): "25 ms that Linux does not need",
    ("provision/archive", "zstandard"): "20 ms that other archives do not need",
    ("provision/kinds/ansible", "devbox.provision.playbook"): "10 ms that a run without playbooks does not need",
    ("provision/kinds/download", "devbox.provision.archive"): "15 ms that a run without archives does not need",
    ("provision/artefacts", "devbox.box.elsewhere"): "httpx, 80 ms that a file which is here does not need",
    ("provision/secrets", "keyring"): "an optional library, 100 ms that only a secret in it needs",
    ("provision/rendering", "jinja2"): "60 ms that a file without templates does not need",
    ("machine/lifecycle", "devbox.machine.start"): "10 ms of planning QEMU that `status` does not need",
    ("machine/lifecycle", "devbox.machine.stop"): "asyncio, 50 ms that `status` does not need",
    ("machine/lifecycle", "devbox.machine.qmp"): "asyncio, 50 ms that `status` does not need",
    ("machine/lifecycle", "devbox.machine.memory"): "asyncio, 50 ms that `status` does not need",
}

MODULE_LINES = 400
FUNCTION_LINES = 60


@dataclass(frozen=True)
class Module:
    name: str  # "machine/argv"
    tree: ast.Module
    lines: int

    @property
    def stage(self) -> str:
        return self.name.split("/")[0]


@dataclass(frozen=True)
class Import:
    target: str  # "devbox.machine.argv", or "yaml"
    line: int
    hidden: bool  # inside a function


@cache
def modules() -> tuple[Module, ...]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text()
        name = path.relative_to(PACKAGE).with_suffix("").as_posix()
        found.append(Module(name, ast.parse(text, str(path)), text.count("\n")))
    return tuple(found)


@cache
def module_names() -> frozenset[str]:
    return frozenset("devbox." + module.name.removesuffix("/__init__").replace("/", ".") for module in modules())


def imports(tree: ast.Module) -> Iterator[Import]:
    in_functions = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        hidden = node in in_functions
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, hidden) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield Import(whole if whole in module_names() else str(node.module), node.lineno, hidden)


def own(target: str) -> str | None:
    """`machine/argv` for `devbox.machine.argv`; None for what is not ours."""
    return target.removeprefix("devbox.").replace(".", "/") if target.startswith("devbox.") else None


def level(name: str) -> int:
    return 0 if name in LEAVES else 1 + STAGES.index(name.partition("/")[0])


def allowed(name: str, owners: set[str]) -> bool:
    return name in owners or f"{name.partition('/')[0]}/" in owners


def calls(tree: ast.Module) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            yield ast.unparse(node.func), node.lineno


def matches(name: str, pattern: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


def upward(module: Module) -> Iterator[str]:
    """The imports that go up."""
    for found in imports(module.tree):
        target = own(found.target)
        if target is not None and level(target) > level(module.name):
            yield f"devbox/{module.name}.py:{found.line} imports {found.target}"


def trespassing(module: Module) -> Iterator[str]:
    """The imports and calls that belong to another module."""
    for found in imports(module.tree):
        root = found.target.partition(".")[0]
        if root in OWNERS and not allowed(module.name, OWNERS[root]):
            yield f"devbox/{module.name}.py:{found.line} imports {found.target}, owned by {sorted(OWNERS[root])}"
    for name, line in calls(module.tree):
        for pattern, owners in CALLS.items():
            if matches(name, pattern) and not allowed(module.name, owners):
                yield f"devbox/{module.name}.py:{line} calls {name}"


def test_every_module_has_a_place() -> None:
    known = {*LEAVES, *STAGES, "__init__", "__main__"}
    assert [module.name for module in modules() if module.stage not in known] == []


def test_imports_go_down_only() -> None:
    assert [
        wrong for module in modules() if module.stage not in {"__init__", "__main__"} for wrong in upward(module)
    ] == []


def test_no_import_cycles() -> None:
    graph = {
        module.name: {target for found in imports(module.tree) if (target := own(found.target)) in names}
        for names in [{module.name for module in modules()}]
        for module in modules()
    }
    while free := [name for name, targets in graph.items() if not targets & graph.keys() - {name}]:
        for name in free:
            del graph[name]
    assert sorted(graph) == []


def test_dangerous_things_have_one_owner() -> None:
    assert [wrong for module in modules() for wrong in trespassing(module)] == []


def test_only_cli_leaves_the_process() -> None:
    wrong = [
        f"devbox/{module.name}.py:{node.lineno}"
        for module in modules()
        if module.name != "cli"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Raise) and node.exc is not None and ast.unparse(node.exc).startswith("SystemExit")
    ]
    assert wrong == []


def test_hidden_imports_are_only_where_they_buy_speed() -> None:
    hidden = {
        (module.name, found.target.split(".")[0] if own(found.target) is None else found.target)
        for module in modules()
        if module.stage not in {"commands", "cli", "launch", "pytest_plugin"}
        for found in imports(module.tree)
        if found.hidden
    }
    assert sorted(hidden - HIDDEN_IMPORTS.keys()) == []
    assert sorted(HIDDEN_IMPORTS.keys() - hidden) == [], "no longer there: take it off the list"


def test_sizes() -> None:
    wrong = [f"{module.name}: {module.lines} lines" for module in modules() if module.lines > MODULE_LINES]
    for module in modules():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES:
                    wrong.append(f"{module.name}.{node.name}: {lines} lines")
    assert wrong == []


def test_every_module_begins_with_what_it_is() -> None:
    wrong = []
    for module in modules():
        text = [line for line in (ast.get_docstring(module.tree) or "").splitlines() if line]
        if module.name.endswith("__init__"):
            if module.tree.body:
                wrong.append(f"{module.name} is not empty")
        elif not 1 <= len(text) <= 6:
            wrong.append(f"{module.name}: {len(text)} lines of docstring")
    assert wrong == []


@pytest.mark.parametrize(
    ("rule", "name", "text"),
    [
        (upward, "box/store", "from devbox.cli import main"),
        (upward, "proc", "from devbox import config"),
        (upward, "config/model", "def f():\n    import devbox.commands"),
        (trespassing, "machine/argv", "import subprocess"),
        (trespassing, "guest/ready", "from paramiko.client import SSHClient"),
        (trespassing, "share/ports", "print(1)"),
        (trespassing, "commands/up", "import os\nos.execvp('a', ['a'])"),
    ],
)
def test_the_rules_can_fail(rule: Callable[[Module], Iterator[str]], name: str, text: str) -> None:
    assert len(list(rule(Module(name, ast.parse(text), 1)))) == 1
