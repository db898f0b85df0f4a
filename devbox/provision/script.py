"""The two scripts of a run, as text and as a tar: pure assembly of the shell files beside this module with the
settings of the run and the steps' own fragments. Everything that comes from a Devboxfile is quoted or in a file.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from devbox import redact
from devbox.config.model import Check, When
from devbox.provision import journal, shell
from devbox.provision.facts import Facts
from devbox.provision.payload import Payload
from devbox.provision.shell import Run
from devbox.provision.step import Step, render

ON_DISK = 77  # the exit status of an apply run that would have put secrets on a disk


def probe(run: Run, steps: Mapping[int, Step[Any]], *, diff: bool) -> str:
    """The probe run: facts, journal, the run in progress, and the state of every step, by its place in the file."""
    parts = [shell.settings(run), shell.prelude(), shell.file("lock"), shell.file("probe"), shell.PREPARE]
    if any(step.user != "root" and "guard " in step.kind.probe(step.options) for step in steps.values()):
        parts.append(shell.SWITCH)
    parts.append("print_facts\nprint_journal\nprint_running\nfresh=''\n")
    parts.append(shell.load(shell.together(step.kind.reads(step.options) for step in steps.values())) + "\n")
    for index, step in steps.items():
        parts.append(shell.step_words({"cwd": step.spec.cwd}) + shell.environment(run, step.spec.env))
        test = step.spec.condition.get("test")
        if test:
            parts.append(f"guard {quote(step.user)} {quote(test)}; frame met {index} $?\n")
        if step.kind.action:
            parts.append(f"receipt {step.key}; wanted={step.digest(Facts())}\n")
        parts.append(f"probe() {{\n{step.kind.probe(step.options)}\n}}\nlook {index}\n")
        if diff and step.kind.content and not step.spec.sensitive:
            path = step.kind.reads(step.options).files[0]
            parts.append(f"frame content {index}; old_content {quote(path)}\n")
        if diff and step.kind.preview and not step.spec.sensitive:
            path = step.kind.reads(step.options).files[0]
            parts.append(f'frame content {index}; follow {quote(path)} && old_content "$real"\n')
            parts.append(f"preview() {{\n{step.kind.preview(step.options)}\n}}\npreviewed {index}\n")
    parts.append("frame end\n")
    return "".join(parts)


@dataclass(frozen=True, slots=True)
class Gates:
    """When a run stops behind a step for a layer to be made: `after` so many seconds of work, or `written` bytes since
    the last time; and how long it waits for this computer, in seconds.
    """

    after: float = 5.0
    written: int = 64 << 20
    patience: float = 60.0


@dataclass(frozen=True, slots=True)
class Planned:
    """A step that goes into the apply run, with its place in the whole list and what the run needs to know."""

    index: int
    step: Step[Any]
    force: bool
    incoming: bool = True  # its large files are sent along; else its script calls `stale` should it need them
    gate: bool = False  # behind it the run may wait for a layer to be made


def _block(run: Run, planned: Planned, facts: Facts, keys: Mapping[str, str]) -> str:
    step, spec = planned.step, planned.step.spec
    action = step.kind.apply(step.options, facts)
    words = {
        "index": str(planned.index),
        "key": step.key,
        "name": shell.one_line(step.name),
        "slug": journal.slug(step.name),
        "wanted": step.digest(facts),
        "expected": render(step.desired(facts)),
        "user": step.user,
        "cwd": spec.cwd,
        "when": spec.when.value if spec.when is not When.MANUAL else When.CHANGED.value,
        "timeout": str(max(1, math.ceil(spec.timeout))) if spec.timeout is not None else "",
        "retries": str(spec.retries),
        "needs": " ".join(keys[name] for name in spec.needs if name in keys),
        "force": "1" if planned.force else "",
        "action": "1" if step.kind.action else "",
        "restarts": "1" if step.restarts else "",
        "sensitive": "1" if spec.sensitive else "",
        "ours": "1" if action.prelude else "",
        "secret_names": " ".join(step.secrets),
    }
    test = spec.condition.get("test")
    program = " ".join(map(quote, action.interpreter))
    args = " ".join(map(quote, action.args)) if not action.prelude else '"$triggered"'
    work = f'become {quote(step.user)} {program} "$files/script" {args}'
    if action.prelude and step.user == "root" and spec.timeout is None and not step.secrets:
        work = "inside"
    return "".join((
        shell.step_words(words),
        shell.environment(run, step.spec.env, ours=action.prelude),
        f"condition() {{ {f'guard {quote(step.user)} {quote(test)}' if test else ':'}; }}\n",
        f"load() {{\n{shell.load(step.kind.reads(step.options))}\n}}\n",
        f"probe() {{\n{step.kind.probe(step.options)}\n}}\n",
        f"work() {{ {work}; }}\n",
        "step\n",
        "gate\n" if planned.gate else "",
    ))  # fmt: skip


def _gates(gates: Gates) -> str:
    after, patience = (math.ceil(seconds * 1000) for seconds in (gates.after, gates.patience))
    return f"gate_after={after} gate_written={gates.written // 512} gate_patience={patience}\nbegin_gates\n"


def _main(run: Run, planned: Sequence[Planned], facts: Facts, keys: Mapping[str, str], gates: Gates) -> str:
    head = (
        "printf '%s\\n' $$ >\"$run/pid\"\n"
        '[ ! -d "$base/held" ] || cp "$run/pid" "$base/held/pid"\n'
        '[ -d "$journal" ] && [ -d "$logs" ] || mkdir -p "$journal" "$logs" || exit 1\n'
        "read -r boot </proc/sys/kernel/random/boot_id\nfailed='' spent='' epoch=$(date +%s)\nnow\nstarted=$ms\n"
    )
    # Its readers know by the missing `main` that it has ended, so what is slow comes before `done`.
    tail = (
        '[ ! -d "$state/incoming/$id" ] || rm -rf "$state/incoming/$id"\n'
        '[ -z "$spent" ] || { sync; rm -f $spent; }\nframe done\nrm -rf "$base/current" "$base/held" "$run"\n'
    )
    switch = shell.SWITCH if any(one.step.user != "root" for one in planned) else ""
    steps = "".join(_block(run, one, facts, keys) for one in planned)
    library = shell.settings(run) + shell.prelude() + shell.file("limit") + shell.file("runner")
    gated = _gates(gates) if any(one.gate for one in planned) else ""
    return "".join((library, shell.PREPARE, switch, head, gated, steps, tail))


# Starts the apply run, away from this connection, and shows it; `busy` when another run is going on.
_START = """
is_running() { [ -e "$run/main" ] && kill -0 "$pid" 2>/dev/null; }
take_lock || { cd /; rm -rf "$run" "$state/incoming/$id"; frame busy; exit 0; }
# Whether the files of that run are still on their way; once it has begun they are not, whoever has that pid by now.
is_coming() {
  [ ! -e "$base/$1/pid" ] && [ -r "$base/$1/sender" ] || return 1
  read -r sender <"$base/$1/sender" && kill -0 "$sender" 2>/dev/null
}
set +f
for old in "$base"/* "$state/incoming"/*; do  # of runs that were killed
  case ${old##*/} in "$id" | lock | held | current | '*') ;; *) is_coming "${old##*/}" || rm -rf "$old" ;; esac
done
set -f
printf '%s\\n' "$id" >"$base/current"
: >"$run/events"
# Its output goes to files: a connection that hangs must not stop it.
setsid env -i PATH="$PATH" sh "$run/main" </dev/null >"$run/errors" 2>&1 &
pid=$!
exec 9>&-
follow
"""

_ATTACH = """
attached=1
is_running() { [ -e "$run/main" ] && kill -0 "$pid" 2>/dev/null; }
# In a shell of its own, which ends when the run's files vanish between two looks: then the run has ended.
# Whoever started it is gone, and nobody waits at its gates any more.
([ ! -e "$run/main" ] || : >"$run/open.all") 2>/dev/null
([ -r "$run/pid" ] && read -r pid <"$run/pid" && follow) || frame done
"""


def payload(
    run: Run, planned: Sequence[Planned], facts: Facts, keys: Mapping[str, str], gates: Gates = Gates()
) -> Payload:
    """The tar of an apply run: the same bytes for the same input. `keys` are those of all steps, by name."""
    incoming: dict[str, Path] = {}
    members: dict[str, bytes] = {
        "main": _main(run, planned, facts, keys, gates).encode(),
        "start": _with(run, "prelude", "lock", "follow").encode() + _START.encode(),
        "prelude": shell.prelude().encode(),
    }
    for one in planned:
        action = one.step.kind.apply(one.step.options, facts)
        folder, coming = f"{run.folder}/{one.index}", f"{run.incoming}/{one.index}"
        head = (
            f"state={quote(run.places.state)} files={quote(folder)} incoming={quote(coming)}\n"
            f". {quote(run.folder + '/prelude')}\n{shell.PREPARE}"
            if action.prelude
            else ""
        )
        members[f"{one.index}/script"] = head.encode() + action.script
        members.update({f"{one.index}/{name}": data for name, data in action.files.items()})
        members.update(_secrets(one))
        if one.incoming:
            incoming.update({f"{coming}/{name}": path for name, path in action.incoming.items()})
    return Payload({f"{run.folder}/{name}": data for name, data in members.items()}, incoming)


def _secrets(one: Planned) -> dict[str, bytes]:
    """The values, for the step's account alone, and for root what takes them out of the step's log."""
    if not one.step.secrets:
        return {}
    forms = (b"%d %s\n%s\n" % (form.count(b"\n") + 1, mask, form) for form, mask in redact.forms(one.step.secrets))
    return {
        "redact.awk": shell.redactor(),
        f"{one.index}.forms": b"".join(forms),
        **{f"{one.index}.secrets/{name}": value.encode() for name, value in one.step.secrets.items()},
    }


def _with(run: Run, *names: str) -> str:
    return shell.settings(run) + "".join(map(shell.file, names))


def attach(run: Run) -> str:
    """Follows a run that another connection has started, to its end."""
    return _with(run, "prelude", "follow") + _ATTACH


def checks(run: Run, asked: Sequence[Check], *, user: str) -> str:
    """The checks one after the other, for EVAL; `user` is the login account. Its frames are those of an apply run."""
    parts = [shell.settings(run), shell.prelude(), shell.file("limit"), shell.file("checks"), shell.SWITCH]
    for index, check in enumerate(asked):
        words = {
            "index": str(index),
            "name": shell.one_line(check.name),
            "user": check.user or user,
            "cwd": check.cwd,
            "timeout": str(max(1, math.ceil(check.timeout))),
            "retries": str(check.retries),
            "command": check.run,
        }
        parts += [shell.step_words(words), shell.environment(run, check.env), "check\n"]
    return "".join((*parts, "frame done\n"))


EVAL = 'eval "$(cat)"'  # a script on stdin: sh itself would read it byte by byte


def unpack_and_start(run: Run, *, incoming: bool) -> str:
    """The command that takes the tar on its stdin. Whatever of it has arrived goes when the rest does not come."""
    base, folder, state, coming = map(quote, (run.places.runs, run.folder, run.places.state, run.incoming))
    memory = ""
    if run.secret and not run.places.secrets_on_disk:
        memory = (
            f"case $(stat -f -c %T {folder} 2>/dev/null) in tmpfs | ramfs) ;; "
            f"*) rm -rf {folder}; exit {ON_DISK} ;; esac && "
        )
    # 0711: an account may reach its own step's files, which are its, but list and read nothing else.
    disk = f"mkdir -p {coming} && chmod 0711 {state} {state}/incoming {coming} && " if incoming else ""
    return (
        f"umask 077; [ -d {base} ] || {{ mkdir -p {base} && chmod 0711 {base}; }}; "
        f"mkdir -m 0711 {folder} && {memory}echo $$ >{folder}/sender && {disk}cd / && "
        f"if tar -xf -; then cd {folder} && exec sh ./start; else rm -rf {folder} {coming}; exit 1; fi"
    )
