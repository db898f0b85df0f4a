"""P20 and P100: the same 20 and 100 steps by devbox, Ansible and pyinfra, over the same sshd, in turn.

Each row is another tool against devbox: how many times as long. The guest is this computer, reached by an sshd on
loopback; every tool makes the same files below a folder, which is compared. CPU is that of the tool's own side.
"""

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from devbox.errors import DevboxError
from devbox.guest.openssh import Endpoint
from tests.bench.measure import NotRun, Row, Sample, alternate, run
from tests.unit.guest import sshd

ROOT = Path(__file__).parents[2]
TEMPLATE = "number {{ number }} of {{ all }}"
Go = Callable[[], Sample]


def twenty(folder: Path, count: int) -> Iterator[Row]:
    yield from _bar(folder, 20, count)


def hundred(folder: Path, count: int) -> Iterator[Row]:
    yield from _bar(folder, 100, count)


def _bar(folder: Path, number: int, count: int) -> Iterator[Row]:
    """For each tool a first run, which makes everything, and a run that has nothing to do."""
    tools = _tools(folder)
    try:
        with sshd.serve(folder / "sshd", options=("Subsystem sftp internal-sftp",), programs="/usr/bin:/bin") as server:
            place = _Place(folder / "steps", number, server.endpoint, tools)
            place.write()
            commands = place.commands()
            devbox = commands.pop("devbox")
            for name, tool in commands.items():
                yield from _compare(place, name, tool, devbox, count)
    except (pytest.skip.Exception, DevboxError) as reason:
        raise NotRun(str(reason)) from reason


def _compare(place: "_Place", name: str, tool: Go, devbox: Go, count: int) -> Iterator[Row]:
    bar = f"P{place.number}"
    rows = [Row(bar, f"{name}, {what}", "devbox", "-") for what in ("first run", "nothing to do")]
    if place.tools is None:
        yield from (replace(row, note="N/A: it cannot be installed here") for row in rows)
        return
    made = []
    for one in (devbox, tool):
        place.forget()
        one()
        made.append(place.made())
    if made[0] != made[1]:
        raise NotRun(f"{name} makes something else: {sorted(set(made[0].items()) ^ set(made[1].items()))[:4]}")
    # What was just done is the warm-up.
    print(f"bench: {bar}, {rows[0].what}", file=sys.stderr)
    pairs = alternate(place.first(tool), place.first(devbox), count=count, warm=False)
    yield replace(rows[0], pairs=pairs)
    print(f"bench: {bar}, {rows[1].what}", file=sys.stderr)
    devbox()  # its receipts: the last first run may have been the other's
    yield replace(rows[1], pairs=alternate(tool, devbox, count=count, warm=False))


def _tools(folder: Path) -> Path | None:
    """The programs of an environment with Ansible and pyinfra, kept beside the tests' store; None without an index."""
    bin_ = folder.parent / "bench-tools" / "bin"
    if (bin_ / "pyinfra").exists() and (bin_ / "ansible-playbook").exists():
        return bin_
    shutil.rmtree(bin_.parent, ignore_errors=True)
    print("bench: installing Ansible and pyinfra", file=sys.stderr)
    made = subprocess.run([sys.executable, "-m", "venv", bin_.parent], check=False, capture_output=True)
    words: list[str | Path] = [bin_ / "python", "-m", "pip", "install", "--quiet", "ansible-core", "pyinfra"]
    if made.returncode or subprocess.run(words, check=False, capture_output=True).returncode:
        shutil.rmtree(bin_.parent, ignore_errors=True)
        return None
    return bin_


@dataclass(frozen=True)
class _Place:
    """A project in the words of each tool, and the folder `out` that it fills."""

    folder: Path
    number: int
    endpoint: Endpoint
    tools: Path | None

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def write(self) -> None:
        self.folder.mkdir()
        (self.folder / "t.j2").write_text(TEMPLATE)
        (self.folder / "devbox.j2").write_text(TEMPLATE.replace("{{ ", "{{ vars."))
        asked = [self._step(index) for index in range(self.number)]
        # JSON is YAML.
        devboxfile = {
            "version": 1,
            "name": "bench",
            "box": "debian-12",
            "provision": [_DEVBOX[kind](**options) for kind, options in asked],
        }
        (self.folder / "Devboxfile").write_text(json.dumps(devboxfile, indent=1))
        tasks = [_ANSIBLE[kind](**options) for kind, options in asked]
        play = [{"hosts": "all", "gather_facts": False, "tasks": tasks}]
        (self.folder / "site.yml").write_text(json.dumps(play, indent=1))
        known = f"UserKnownHostsFile={self.endpoint.known_hosts}"
        words = f"-F /dev/null -o IdentitiesOnly=yes -o StrictHostKeyChecking=yes -o {known}"
        variables = {
            "ansible_host": self.endpoint.host,
            "ansible_port": self.endpoint.port,
            "ansible_user": self.endpoint.user,
            "ansible_ssh_private_key_file": os.fspath(self.endpoint.key),
            "ansible_ssh_common_args": words,
            "ansible_python_interpreter": "/usr/bin/python3",  # known, so that it is not looked for
        }
        (self.folder / "hosts.json").write_text(json.dumps({"all": {"hosts": {"guest": variables}}}))
        deploy = "from io import StringIO\nfrom pyinfra.operations import files\n"
        deploy += "".join(f"{_PYINFRA[kind](**options)}\n" for kind, options in asked)
        (self.folder / "deploy.py").write_text(deploy)
        data = {
            "ssh_hostname": self.endpoint.host,
            "ssh_port": self.endpoint.port,
            "ssh_user": self.endpoint.user,
            "ssh_key": os.fspath(self.endpoint.key),
        }
        (self.folder / "inventory.py").write_text(f"hosts = [('guest', {data!r})]\n")
        (self.folder / ".ssh").mkdir(mode=0o700)
        (self.folder / ".ssh" / "known_hosts").write_text(self.endpoint.known_hosts.read_text())

    def _step(self, index: int) -> tuple[str, dict[str, Any]]:
        """Of ten: two folders, five files, two templates, one line."""
        path = f"{self.out}/d{index // 10}"
        match index % 10:
            case 0 | 1 as one:
                return "directory", {"path": path if one == 0 else f"{path}/inner", "mode": "0750"}
            case 2 | 3 | 4 | 5 | 6 as one:
                content = f"file {index}\n" + "x" * 200 * one + "\n"
                return "file", {"path": f"{path}/inner/f{index}", "content": content, "mode": "0640"}
            case 9:
                return "line", {"path": f"{path}/lines", "line": f"setting = {index}"}
            case _:
                values = {"number": index, "all": self.number}
                return "template", {"path": f"{path}/t{index}", "src": f"{self.folder}/t.j2", "values": values}

    def commands(self) -> dict[str, Go]:
        end = self.endpoint
        once: list[str | Path] = [
            sys.executable,
            "-m",
            "tests.bench.provision_once",
            self.folder,
            str(end.port),
            end.user,
            end.key,
        ]
        tools = self.tools or Path()
        playbook: list[str | Path] = [
            tools / "ansible-playbook",
            "-i",
            self.folder / "hosts.json",
            self.folder / "site.yml",
        ]
        pyinfra: list[str | Path] = [tools / "pyinfra", "-y", self.folder / "inventory.py", self.folder / "deploy.py"]
        log, home = self.folder / "log", {"HOME": os.fspath(self.folder), "LC_ALL": "C.UTF-8", "SSH_AUTH_SOCK": ""}
        pipelining = {**home, "ANSIBLE_PIPELINING": "1"}
        here = {"PYTHONPATH": os.fspath(ROOT)}
        return {
            "devbox": functools.partial(run, [*once, end.known_hosts, self.folder / "guest"], env=here, output=log),
            "Ansible": functools.partial(run, playbook, env=home, cwd=self.folder, output=log),
            "Ansible with pipelining": functools.partial(run, playbook, env=pipelining, cwd=self.folder, output=log),
            "pyinfra": functools.partial(run, pyinfra, env=home, cwd=self.folder, output=log),
        }

    def forget(self) -> None:
        """The guest as it was before any tool came."""
        for path in (self.out, self.folder / "guest"):
            shutil.rmtree(path, ignore_errors=True)
        self.out.mkdir()
        for name in ("bin", "run", "var/lib", "var/log"):
            (self.folder / "guest" / name).mkdir(parents=True)

    def first(self, tool: Go) -> Go:
        def go() -> Sample:
            self.forget()
            return tool()

        return go

    def made(self) -> dict[str, str]:
        """Each path below `out` with its mode and the digest of its content."""
        found = {}
        for path in sorted(self.out.rglob("*")):
            data = path.read_bytes() if path.is_file() else b""
            found[str(path.relative_to(self.out))] = f"{path.stat().st_mode:o} {hashlib.sha256(data).hexdigest()[:16]}"
        return found


def _devbox_template(path: str, src: str, values: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG001
    return {"template": {"path": path, "src": "devbox.j2", "mode": "0644", "vars": values}}


_DEVBOX: Mapping[str, Callable[..., dict[str, Any]]] = {
    "directory": lambda **options: {"directory": options},
    "file": lambda **options: {"file": options},
    "line": lambda **options: {"line": {**options, "create": True}},
    "template": _devbox_template,
}
_ANSIBLE: Mapping[str, Callable[..., dict[str, Any]]] = {
    "directory": lambda path, mode: {"file": {"path": path, "state": "directory", "mode": mode}},
    "file": lambda path, content, mode: {"copy": {"dest": path, "content": content, "mode": mode}},
    "line": lambda path, line: {"lineinfile": {"path": path, "line": line, "create": True, "mode": "0644"}},
    "template": lambda path, src, values: {
        "template": {"dest": path, "src": src, "mode": "0644"},
        "vars": {"number": values["number"], "all": values["all"]},
    },
}
_PYINFRA: Mapping[str, Callable[..., str]] = {
    "directory": lambda path, mode: f"files.directory(path={path!r}, mode={mode!r})",
    "file": lambda path, content, mode: f"files.put(src=StringIO({content!r}), dest={path!r}, mode={mode!r})",
    "line": lambda path, line: f"files.line(path={path!r}, line={line!r})",
    "template": lambda path, src, values: f"files.template(src={src!r}, dest={path!r}, mode='0644', **{values!r})",
}
