"""The values of secrets: read where the Devboxfile says, when a step that was chosen names them, and never otherwise.

They are known to the filter (`redact`) before anybody else sees them, and no error shows them.
"""

import hmac
import os
import shlex
import stat
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from devbox import proc, redact, ui
from devbox.config.model import MachineSpec, Secret, StepSpec, When
from devbox.errors import DevboxError
from devbox.provision.step import Kind, Step, invalid

LIMIT = 64 << 10  # bytes
_ANSWER = 60.0  # seconds for a password manager, its questions included


def key(login_key: Path) -> bytes:
    """The machine's own key for the digests of its secrets, out of its private login key; it changes only with that."""
    return hmac.digest(login_key.read_bytes(), b"devbox secrets", "sha256")


def refuse_where_kept(spec: StepSpec, kind: Kind[Any]) -> None:
    """Raises `step.invalid` for a step that cannot see secrets, since what it writes stays on the guest's disk."""
    if spec.secrets and (kind.content or kind.preview):
        raise invalid(
            f"a `{spec.kind}` step sees no secrets, since they would be kept on the machine's disk. A `run` step with "
            '`secrets: [NAME]` sees "$NAME" while it runs, and the file "$DEVBOX_SECRETS/NAME"'
        )


def revealed(
    steps: Mapping[int, Step[Any]], machine: MachineSpec, *, key: bytes, asked: Sequence[str] = ()
) -> dict[int, Step[Any]]:
    """The steps, with the values of the secrets that they name. `asked`: the steps that were asked for by name.

    `key` is the machine's own, for the digests. Raises `secret.missing`, `secret.unreadable` and `secret.unfit`.
    """
    waiting = {
        index
        for index, step in steps.items()
        if step.spec.secrets and (step.spec.when is not When.MANUAL or step.name in asked)
    }
    values = resolve(machine, [steps[index].spec for index in waiting])
    return {index: _with(step, values, key) if index in waiting else step for index, step in steps.items()}


def _with(step: Step[Any], values: Mapping[str, str], key: bytes) -> Step[Any]:
    own = {name: values[name] for name in sorted(set(step.spec.secrets))}
    seals = {name: hmac.digest(key, f"{name}={value}".encode(), "sha256").hex() for name, value in own.items()}
    return replace(step, secrets=own, seals=seals)


def resolve(machine: MachineSpec, steps: Sequence[StepSpec]) -> Mapping[str, str]:
    """Name → value of the secrets that these steps name; the filter knows them when it returns."""
    named = {name for step in steps for name in step.secrets}
    values: dict[str, str] = {}
    for secret in machine.secrets:
        if secret.name in named:
            values[secret.name] = _fit(secret, _read(secret, machine))
            redact.install({secret.name: values[secret.name]})
    return values


def _read(secret: Secret, machine: MachineSpec) -> bytes:
    if secret.env:
        if secret.env not in os.environ:
            raise _missing(secret, f"{secret.env} is not set", f"Set it: `export {secret.env}=…`, and try again.")
        return os.environb[secret.env.encode()]
    if secret.file is not None:
        return _one_line_end_less(_read_file(secret, secret.file))
    if secret.command:
        return _one_line_end_less(_run(secret, machine))
    return _from_keyring(secret)


def _one_line_end_less(data: bytes) -> bytes:
    return data.removesuffix(b"\n").removesuffix(b"\r") if data.endswith(b"\n") else data


def _fit(secret: Secret, data: bytes) -> str:
    """The value, if it can be put into a variable, and be taken out of a text again."""
    problem = ""
    try:
        value = data.decode()
    except UnicodeDecodeError:
        value, problem = "", "it is not UTF-8 text"
    if not problem and len(data) > LIMIT:
        problem = f"it is larger than {LIMIT >> 10} KiB"
    elif not problem and "\0" in value:
        problem = "it has a NUL in it, which no variable can hold"
    elif not problem and not value.strip():
        problem = "it is empty"
    elif not problem and len(value.strip()) < redact.LEAST:
        problem = f"it has less than {redact.LEAST} characters, so it could not be kept out of what is shown"
    if problem:
        raise DevboxError(
            "secret.unfit",
            f"The secret {secret.name} cannot be used ({secret}): {problem}.",
            hint="Put another value there, and try again.",
        )
    return value


def _missing(secret: Secret, why: str, hint: str) -> DevboxError:
    return DevboxError("secret.missing", f"There is no secret {secret.name} ({secret}): {why}.", hint=hint)


def _unreadable(secret: Secret, why: str, hint: str) -> DevboxError:
    return DevboxError("secret.unreadable", f"The secret {secret.name} cannot be read ({secret}): {why}.", hint=hint)


def _read_file(secret: Secret, path: Path) -> bytes:
    try:
        fd = _open_without_links(path)
    except FileNotFoundError:
        raise _missing(
            secret, "there is no such file", f"Put the value into {path}, readable by you alone, and try again."
        ) from None
    except OSError as trouble:
        raise _unreadable(secret, str(trouble.strerror), f"Look at it with `ls -l {path}`.") from None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise _unreadable(secret, "it is not a file", f"Look at it with `ls -ld {path}`.")
        with open(fd, "rb", closefd=False) as file:  # noqa: PTH123 - a descriptor has no path
            return file.read(LIMIT + 2)
    finally:
        os.close(fd)


def _open_without_links(path: Path) -> int:
    """The path's links were followed when it was approved. One that is there now was put there since, by the machine
    for example, which may write to the project's folder.
    """
    search = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    folder = os.open("/", search)
    try:
        for part in path.parts[1:-1]:
            inner = os.open(part, search, dir_fd=folder)
            os.close(folder)
            folder = inner
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(path.name, flags, dir_fd=folder)
    finally:
        os.close(folder)


def _run(secret: Secret, machine: MachineSpec) -> bytes:
    tool = proc.find_tool(secret.command[0], hint="Install it, or change `secrets` in the Devboxfile.")
    writable = [folder.host for folder in machine.folders if not folder.readonly]
    if any(tool.resolve().is_relative_to(folder) for folder in writable):
        raise _unreadable(
            secret,
            f"{tool} lies in a folder that the machine may write to, so it is not run on this computer",
            "Move it to a folder that is not shared.",
        )
    ui.note(f"Asking for the secret {secret.name}: {secret}")
    done = proc.ask((tool, *secret.command[1:]), timeout=_ANSWER)
    # What it says for itself is shown when its answer is known, and cannot be in it any more.
    answer = _one_line_end_less(done.stdout).decode(errors="replace")
    if len(answer.strip()) >= redact.LEAST:
        redact.install({secret.name: answer})
    if done.stderr.strip():
        ui.say(done.error_text.rstrip())
    if done.status != 0:
        raise _unreadable(secret, f"exit status {done.status}", "Run the command yourself to see what is the matter.")
    return done.stdout


def _from_keyring(secret: Secret) -> bytes:
    try:
        import keyring  # noqa: PLC0415 - optional, and 100 ms of back ends
        from keyring.errors import KeyringError  # noqa: PLC0415
    except ImportError:
        raise _unreadable(
            secret, "the library for it is not installed", "Install it: `pip install 'devboxfile[keyring]'`."
        ) from None
    service, username = secret.keyring or ("", "")
    try:
        value = keyring.get_password(service, username)
    except KeyringError as trouble:
        raise _unreadable(secret, type(trouble).__name__, "Unlock the keyring, and try again.") from None
    if value is None:
        raise _missing(
            secret, "it is not there", f"Put it there: `{shlex.join(('keyring', 'set', service, username))}`."
        )
    return str(value).encode(errors="surrogatepass")
