"""`ansible`: a playbook, carried out from this computer, or in the guest with `local: true`.

It runs when its files, options or environment are new, so that doing nothing stays one round trip; with `when: always`
Ansible is asked each time. Either way Ansible's own count of changes tells changed from same.
"""

import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from shlex import quote
from typing import Any

from devbox.config import host_code
from devbox.config.host_code import Code
from devbox.provision.facts import Facts
from devbox.provision.step import Action, HostResult, HostSide, Kind, Source, State, invalid

_NAMES_OF_ANSIBLE = frozenset({"all", "ungrouped"})


@dataclass(frozen=True, slots=True)
class Ansible:
    """`become` is the account of `as`, "" where the playbook decides."""

    code: Code
    extra_vars: Mapping[str, Any]
    groups: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    skip_tags: tuple[str, ...] = ()
    requirements: str = ""
    local: bool = False
    become: str = ""


def parse(raw: str | Mapping[str, Any], source: Source) -> Ansible:
    stated = host_code.playbook_options(raw)
    code = host_code.of_step(source.spec, source.root)
    if not code.main.endswith((".yml", ".yaml")):
        raise invalid(f"{code.main} is not a playbook: its name must end in `.yml`")
    if taken := _NAMES_OF_ANSIBLE.intersection(stated.get("groups", ())):
        raise invalid(f"`{min(taken)}` is a group of Ansible's own")
    return Ansible(
        code,
        dict(stated.get("extra_vars", {})),
        tuple(stated.get("groups", ())),
        tuple(stated.get("tags", ())),
        tuple(stated.get("skip_tags", ())),
        stated.get("requirements", ""),
        stated.get("local", False),
        source.spec.user,
    )


def probe(ansible: Ansible) -> str:  # noqa: ARG001
    return '[ -z "$recorded" ] || field done "$recorded"'


def desired(ansible: Ansible, facts: Facts) -> State:  # noqa: ARG001
    return ()  # that of an action is its digest, see step.py


def identity(ansible: Ansible, facts: Facts) -> Any:  # noqa: ARG001
    return {"code": ansible.code.digest}  # the options are in it


_LOCAL = """
have ansible-playbook ||
  fail 'There is no Ansible in the machine: add `packages: [ansible]` before this step, or leave `local` out.'
mkdir "$files/play" "$files/galaxy"
tar -xf "$files/project.tar" -C "$files/play"
cd "$files/play/$folder"
[ ! -e ansible.cfg ] || export ANSIBLE_CONFIG="$PWD/ansible.cfg"
export ANSIBLE_NOCOLOR=1 ANSIBLE_RETRY_FILES_ENABLED=0 ANSIBLE_PIPELINING=1
export ANSIBLE_CALLBACK_PLUGINS="$files" DEVBOX_ANSIBLE_STATS="$files/stats"
if [ -n "$requirements" ]; then
  export ANSIBLE_ROLES_PATH="$files/galaxy/roles:$HOME/.ansible/roles:/usr/share/ansible/roles:/etc/ansible/roles"
  export ANSIBLE_COLLECTIONS_PATH="$files/galaxy/collections:$HOME/.ansible/collections:/usr/share/ansible/collections"
  ansible-galaxy install -r "$files/play/$requirements"
fi
status=0
ansible-playbook "$@" || status=$?
[ "$status" = 0 ] || fail "The playbook failed."
case $(cat "$files/stats") in
  *'"hosts": 0,'*) fail 'No play of the playbook is for this machine: look at its `hosts`, and at `groups` here.' ;;
  *'"changed": 0,'*) : >"$files/unchanged" ;;
esac
"""


def apply(ansible: Ansible, facts: Facts) -> Action:  # noqa: ARG001
    """For `local` only: the files are sent, and the guest's own Ansible carries the playbook out there."""
    from devbox.provision import playbook  # noqa: PLC0415 - 10 ms that a run without playbooks does not need

    variables = {"ansible_connection": "local", "ansible_python_interpreter": "auto_silent"}
    words = [
        *('-i "$files/inventory.json" -e "@$files/vars.json"',),
        *map(quote, playbook.chosen(ansible.tags, ansible.skip_tags)),
        quote(PurePosixPath(ansible.code.main).name),
    ]
    head = (
        f"folder={quote(str(PurePosixPath(ansible.code.main).parent))} requirements={quote(ansible.requirements)}\n"
        f"set -- {' '.join(words)}\n"
    )
    return Action(
        f"{head}{_LOCAL}".encode(),
        {
            "project.tar": _packed(ansible.code),
            "inventory.json": playbook.inventory("localhost", variables, ansible.groups),
            "vars.json": json.dumps(dict(ansible.extra_vars)).encode(),
            "devbox_stats.py": playbook.CALLBACK.read_bytes(),
        },
    )


def _packed(code: Code) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, file in code.files.items():
            info = tarfile.TarInfo(name)
            info.mode, info.mtime = 0o700 if file.executable else 0o600, 1_000_000_000  # as in script.py
            if file.link:
                info.type, info.linkname = tarfile.SYMTYPE, file.link
            info.size = len(file.data)
            tar.addfile(info, io.BytesIO(file.data))
    return buffer.getvalue()


def host(ansible: Ansible, side: HostSide) -> HostResult:
    from devbox.provision import playbook  # noqa: PLC0415

    names = side.facts.names
    play = playbook.Play(
        ansible.code,
        Path(ansible.code.main),
        str(names.get("hostname") or names.get("name") or "devbox"),
        ansible.groups,
        {"devbox_project": str(side.root), **ansible.extra_vars},
        playbook.chosen(ansible.tags, ansible.skip_tags, ansible.become),
        ansible.requirements,
    )
    return playbook.carry_out(play, side)


KIND = Kind(
    parse=parse,
    probe=probe,
    desired=desired,
    identity=identity,
    apply=apply,
    host=host,
    in_guest=lambda ansible: ansible.local,
    action=True,
    restarts=True,
)
