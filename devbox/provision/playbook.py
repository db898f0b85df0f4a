"""A playbook carried out by this computer's Ansible, from a private copy of exactly the files that were approved.

Inventory, variables and SSH settings are made here, for one guest with its pinned key; no setting of the user's own is
read but their Ansible collections and roles. What came of it is written by our callback in `ansible_callback`.
"""

import contextlib
import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devbox import fs, paths, proc, redact
from devbox.box import online
from devbox.config import trust
from devbox.config.host_code import Code
from devbox.errors import DevboxError, ExitCode
from devbox.guest import openssh
from devbox.guest.openssh import Endpoint
from devbox.provision.step import HostResult, HostSide

CALLBACK = Path(__file__).parent / "ansible_callback" / "devbox_stats.py"
_HINT = "Install Ansible on this computer: `pipx install ansible-core`, or `pip install ansible-core`."
_TAIL = 8 << 10  # bytes
_ROLES = ("~/.ansible/roles", "/usr/share/ansible/roles", "/etc/ansible/roles")
_COLLECTIONS = ("~/.ansible/collections", "/usr/share/ansible/collections")


@dataclass(frozen=True, slots=True)
class Play:
    """`main` and `requirements` are relative to the project; `host` is the guest's name; `words` are options."""

    code: Code
    main: Path
    host: str
    groups: tuple[str, ...]
    extra_vars: Mapping[str, Any]
    words: tuple[str, ...]
    requirements: str


def chosen(tags: Sequence[str], skip_tags: Sequence[str], become: str = "") -> tuple[str, ...]:
    """The options of the command line."""
    words: list[str] = []
    for option, value in (("--tags", ",".join(tags)), ("--skip-tags", ",".join(skip_tags))):
        words += [option, value] if value else []
    return (*words, *(("--become", "--become-user", become) if become else ()))


def inventory(host: str, variables: Mapping[str, str], groups: Sequence[str]) -> bytes:
    """One host, in these groups."""
    children: dict[str, Any] = {group: {"hosts": {host: {}}} for group in groups}
    return json.dumps({"all": {"hosts": {host: dict(variables)}, "children": children}}, indent=2).encode()


def host_variables(endpoint: Endpoint) -> dict[str, str]:
    options = [word for name, value in openssh.pinned(endpoint) for word in ("-o", f"{name}={value}")]
    return {
        "ansible_connection": "ssh",
        "ansible_host": endpoint.host,
        "ansible_port": str(endpoint.port),
        "ansible_user": endpoint.user,
        "ansible_ssh_private_key_file": os.fspath(endpoint.key),
        # `-F`: neither the user's nor the system's configuration.
        "ansible_ssh_common_args": shlex.join(["-F", os.devnull, "-o", "ForwardAgent=no", *options]),
        "ansible_python_interpreter": "auto_silent",
    }


def carry_out(play: Play, side: HostSide) -> HostResult:
    """Raises `provision.ansible`, `trust.unapproved`, `tool.missing` and `tool.timeout`."""
    if not trust.is_approved(side.root, play.code.id):
        raise DevboxError(
            "trust.unapproved", f"`{play.code.main}`, or a file that it uses, is not as it was when it was approved."
        )
    program = proc.find_tool("ansible-playbook", hint=_HINT)
    runtime = fs.make_private_dir(paths.runtime_root())
    private = Path(tempfile.mkdtemp(prefix="a", dir=runtime))  # 0700, and short, for the sake of the control socket
    try:
        return _in(private, program, play, side)
    finally:
        _end_connections(private, side.endpoint)
        shutil.rmtree(private, ignore_errors=True)


def _in(private: Path, program: Path, play: Play, side: HostSide) -> HostResult:
    project = private / "project"
    project.mkdir()
    play.code.write(project)
    (private / "inventory.json").write_bytes(inventory(play.host, host_variables(side.endpoint), play.groups))
    (private / "vars.json").write_text(json.dumps(dict(play.extra_vars)))
    folder = (project / play.main).parent
    env = {**_environment(private, folder), **side.spec.env, **side.secrets}
    if play.requirements:
        env |= _installed(program.with_name("ansible-galaxy"), play, side, env, project)
    tail, said = bytearray(), redact.Stream()  # without secrets before it is cut, or a part of one would be left

    def output(data: bytes) -> None:
        tail.extend(said.feed(data))
        del tail[:-_TAIL]
        side.output(data)

    argv: proc.Argv = (
        program,
        "-i",
        private / "inventory.json",
        "-e",
        f"@{private}/vars.json",
        *play.words,
        project / play.main,
    )
    status = proc.follow(argv, cwd=folder, env=env, on_output=output, timeout=side.spec.timeout)
    return _result(private / "stats", status, (tail + said.end()).decode(errors="replace"))


def _environment(private: Path, folder: Path) -> dict[str, str]:
    config = folder / "ansible.cfg"
    if not config.exists():
        config = private / "ansible.cfg"
        config.touch()
    found = {
        # Given so, Ansible looks for no other, and need not ask whether the folder is safe: it is a copy of ours.
        "ANSIBLE_CONFIG": os.fspath(config),
        "ANSIBLE_CALLBACK_PLUGINS": os.fspath(CALLBACK.parent),
        "DEVBOX_ANSIBLE_STATS": os.fspath(private / "stats"),
        "ANSIBLE_LOCAL_TEMP": os.fspath(private / "tmp"),
        "ANSIBLE_SSH_CONTROL_PATH_DIR": os.fspath(private),
        "ANSIBLE_SSH_ARGS": "-o ControlMaster=auto -o ControlPersist=60s",
        "ANSIBLE_SSH_EXTRA_ARGS": "",
        "ANSIBLE_PIPELINING": "True",
        "ANSIBLE_HOST_KEY_CHECKING": "True",
        "ANSIBLE_RETRY_FILES_ENABLED": "False",
        "ANSIBLE_NOCOLOR": "1",
        "PYTHONDONTWRITEBYTECODE": "1",  # or the callback would leave its own beside devbox
        "SSH_AUTH_SOCK": "",  # no agent
    }
    if "UTF-8" not in (os.environ.get("LC_ALL") or os.environ.get("LANG") or "").upper().replace("UTF8", "UTF-8"):
        found["LC_ALL"] = "C.UTF-8"  # Ansible does not start in another
    if password := os.environ.get("ANSIBLE_VAULT_PASSWORD_FILE"):
        found["ANSIBLE_VAULT_PASSWORD_FILE"] = password
    return found


def _installed(program: Path, play: Play, side: HostSide, env: Mapping[str, str], project: Path) -> Mapping[str, str]:
    """What the requirements file names, downloaded once for each version of the file; the variables that find it."""
    name = fs.sha256_file(project / play.requirements)[:32]
    kept = fs.make_private_dir(paths.cache_dir() / "ansible") / name
    if not kept.is_dir():
        online.require(f"What {play.requirements} asks for")
        aside = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=kept.parent))
        try:
            side.output(f"ansible-galaxy install -r {play.requirements}\n".encode())
            status = proc.follow(
                (program, "install", "-r", project / play.requirements),
                cwd=(project / play.requirements).parent,
                env={**env, **_search(aside, ())},
                on_output=side.output,
                timeout=side.spec.timeout,
            )
            if status != 0:
                raise DevboxError("provision.ansible", f"What {play.requirements} asks for could not be installed.")
            with contextlib.suppress(OSError):  # another devbox was quicker
                aside.rename(kept)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    with contextlib.suppress(OSError):
        os.utime(kept)  # `devbox gc` removes what was not asked for in a long time
    return _search(kept, (_ROLES, _COLLECTIONS))


def _search(folder: Path, others: Sequence[Sequence[str]]) -> dict[str, str]:
    roles, collections = others or ((), ())
    return {
        "ANSIBLE_ROLES_PATH": ":".join((f"{folder}/roles", *roles)),
        "ANSIBLE_COLLECTIONS_PATH": ":".join((f"{folder}/collections", *collections)),
    }


def _result(stats: Path, status: int, tail: str) -> HostResult:
    try:
        told: dict[str, Any] = json.loads(stats.read_bytes())
    except (OSError, ValueError):
        told = {}
    failed = told.get("failed") or {}
    if status != 0 and failed:
        raise DevboxError("provision.ansible", _failure(failed, unreachable=bool(told.get("unreachable"))))
    if status != 0 or not told:
        raise DevboxError("provision.ansible", f"Ansible ended with status {status}: {_complaint(tail)}")
    if told["hosts"] == 0:
        raise DevboxError(
            "provision.ansible",
            "No play of the playbook is for this machine: look at its `hosts`, and at `groups` in the Devboxfile.",
            exit_code=ExitCode.USAGE,  # another attempt would find the same
        )
    return HostResult(told["changed"] > 0, f"{told['changed']} of {told['ok']} tasks changed")


def _failure(failed: Mapping[str, str], *, unreachable: bool) -> str:
    message = redact.text(str(failed["message"])).strip()
    if unreachable:
        # SSH ends with what is the matter, after any warnings.
        return f"Ansible does not reach the machine: {message.splitlines()[-1] if message else 'it says no more'}"
    said = f": {' '.join(message.split())[:300]}" if message else ""
    if "Could not find or access" in message:
        said += " (the playbook sees files that it names, those in Ansible's folders beside it, and its `inputs`)"
    return f"The playbook failed at the task `{failed['task']}`{said}"


def _complaint(tail: str) -> str:
    lines = [line.strip() for line in redact.text(tail).splitlines() if line.strip()]
    return next((line for line in lines if "ERROR" in line), lines[-1] if lines else "it said nothing")[:300]


def _end_connections(private: Path, endpoint: Endpoint) -> None:
    """Ansible leaves its master connections running for a minute."""
    for socket in _sockets(private):
        ssh = proc.find_tool("ssh")
        words = ("-F", os.devnull, "-o", f"ControlPath={socket}", "-O", "exit", endpoint.host)
        with contextlib.suppress(DevboxError):
            proc.run([ssh, *words], timeout=10)


def _sockets(private: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        yield from (path for path in private.iterdir() if path.is_socket())
