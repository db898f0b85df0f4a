"""Steps as written in, steps with their kinds out: the table of kinds, and every mistake that no schema sees."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from devbox.config.model import StepSpec
from devbox.errors import DevboxError, ExitCode
from devbox.provision import secrets
from devbox.provision.kinds import (
    absent,
    ansible,
    block,
    copy,
    directory,
    disk,
    download,
    file,
    git,
    group,
    line,
    link,
    module,
    mount,
    packages,
    python,
    reboot,
    repository,
    run,
    service,
    settings,
    sysctl,
    template,
    user,
    wait,
)
from devbox.provision.kinds import script as script_kind
from devbox.provision.step import Kind, Source, Step

KINDS: Mapping[str, Kind[Any]] = MappingProxyType({
    "absent": absent.KIND,
    "block": block.KIND,
    "copy": copy.KIND,
    "ansible": ansible.KIND,
    "directory": directory.KIND,
    "disk": disk.KIND,
    "download": download.KIND,
    "file": file.KIND,
    "group": group.KIND,
    "line": line.KIND,
    "link": link.KIND,
    "git": git.KIND,
    "module": module.KIND,
    "mount": mount.KIND,
    "packages": packages.KIND,
    "python": python.KIND,
    "reboot": reboot.KIND,
    "repository": repository.KIND,
    "run": run.KIND,
    "script": script_kind.KIND,
    "service": service.KIND,
    "settings": settings.KIND,
    "sysctl": sysctl.KIND,
    "template": template.KIND,
    "user": user.KIND,
    "wait": wait.KIND,
})  # fmt: skip


def bind(specs: Sequence[StepSpec], project_root: Path, run_user: str) -> tuple[Step[Any], ...]:
    """Steps with their kinds' own options; reads the project's files that they name, and nothing of the guest.

    Raises one `step.invalid` that lists every mistake with its position.
    """
    steps, problems = [], []
    for spec in specs:
        kind = KINDS[spec.kind]
        account = spec.user or (run_user if kind.as_login_user else "root")
        try:
            secrets.refuse_where_kept(spec, kind)
            options = kind.parse(spec.options, Source(spec, project_root, account))
        except DevboxError as mistake:
            if mistake.id != "step.invalid":
                raise
            problems.append(f"{spec.position}: {spec.name}: {mistake.message}")
        else:
            here = kind if not kind.in_guest(options) else replace(kind, host=None)
            steps.append(Step(spec, here, options, account))
    if problems:
        one = len(problems) == 1
        raise DevboxError(
            "step.invalid",
            "\n  ".join(("There is a mistake in a step:" if one else "There are mistakes in the steps:", *problems)),
            hint=f"Correct {'it' if one else 'them'} and try again.",
            exit_code=ExitCode.USAGE,
        )
    return tuple(steps)
