"""The only door to other programs: run one to its end, start one that outlives us, or become one.

Always an argument list, never a shell; started in `/`, never in the project folder, so that nothing a repository
holds is picked up by accident; an explicit environment.
"""

import contextlib
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

from devbox.errors import DevboxError

Argv = Sequence[str | os.PathLike[str]]
Child = subprocess.Popen[bytes]  # one that the caller watches and reaps

_KEPT = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TMPDIR", "TERM", "SSH_AUTH_SOCK", "XDG_RUNTIME_DIR")
_PROXY = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


@dataclass(frozen=True, slots=True)
class Completed:
    status: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        return self.stdout.decode(errors="replace")

    @property
    def error_text(self) -> str:
        return self.stderr.decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a child may use at most; None leaves the system's own limit. Units: bytes, bytes, seconds."""

    memory: int | None = None
    file_size: int | None = None
    cpu_seconds: int | None = None


def find_tool(name: str, *, hint: str = "") -> Path:
    """The absolute path of an installed program. Raises `tool.missing`, with `hint` saying how to install it.

    Relative entries of PATH are passed over: they would let a repository supply the program.
    """
    path = os.pathsep.join(p for p in os.environ.get("PATH", os.defpath).split(os.pathsep) if p.startswith("/"))
    found = shutil.which(name, path=os.pathsep.join((path, "/usr/local/sbin", "/usr/sbin", "/sbin")))
    if found is None:
        raise DevboxError("tool.missing", f"The program `{name}` is not installed.", hint=hint)
    return Path(found)


def base_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The few variables that a child gets, and `extra`."""
    kept = {name: os.environ[name] for name in (*_KEPT, *_PROXY) if name in os.environ}
    return {**kept, **(extra or {})}


def run(
    argv: Argv,
    *,
    input: bytes | IO[bytes] | None = None,
    timeout: float | None = None,
    env: Mapping[str, str] | None = None,
    limits: Limits | None = None,
) -> Completed:
    """Run a program to its end, capturing what it prints. A non-zero status is a value, not an error.

    `input` is what it reads: bytes, or an open file.
    Raises `tool.timeout` (the program is killed) and `tool.missing`. `timeout` is in seconds.
    """
    words = [os.fspath(word) for word in argv]
    try:
        done = subprocess.run(
            words,
            input=input if isinstance(input, bytes) else None,
            stdin=None if isinstance(input, bytes) else input or subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            env=base_environment(env),
            cwd="/",
            check=False,
            preexec_fn=_limiter(limits) if limits else None,  # noqa: PLW1509 - devbox starts no thread before this
        )
    except FileNotFoundError as missing:
        raise DevboxError("tool.missing", f"The program `{words[0]}` is not installed.") from missing
    except subprocess.TimeoutExpired as late:
        raise DevboxError(
            "tool.timeout",
            f"`{Path(words[0]).name}` did not end within {timeout:.0f} s and was stopped.",
            details=(late.stderr or b"").decode(errors="replace"),
        ) from late
    return Completed(done.returncode, done.stdout, done.stderr)


def ask(argv: Argv, *, timeout: float) -> Completed:
    """Run a program that answers on stdout and may ask the person first: with our terminal and whole environment.

    On a terminal its stderr goes there, as a prompt must; else it is captured. Raises `tool.timeout`.
    """
    words = [os.fspath(word) for word in argv]
    shown = None if sys.stderr.isatty() else subprocess.PIPE
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=shown, cwd="/") as child:
        try:
            stdout, stderr = child.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            child.kill()
            for pipe in (child.stdout, child.stderr):
                if pipe is not None:
                    pipe.close()  # A child of its own may hold the other end for ever.
            raise DevboxError(
                "tool.timeout", f"`{Path(words[0]).name}` did not end within {timeout:.0f} s and was stopped."
            ) from None
        except BaseException:
            child.kill()
            raise
    return Completed(child.returncode, stdout, stderr or b"")


def start(argv: Argv, *, log: IO[bytes], env: Mapping[str, str] | None = None, pass_fds: Sequence[int] = ()) -> int:
    """Start a program that outlives us, in a session of its own, its output going to `log`. Returns its pid."""
    child = subprocess.Popen(  # noqa: S603
        [os.fspath(word) for word in argv],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=base_environment(env),
        cwd="/",
        start_new_session=True,
        umask=0o077,  # its sockets, logs and pid file are nobody else's business
        pass_fds=pass_fds,
    )
    child.returncode = 0  # It outlives us, so nobody here waits for it; this keeps Popen from warning about that.
    return child.pid


def stream(argv: Argv, *, env: Mapping[str, str] | None = None) -> Child:
    """Start a program whose output (both streams in one) is read while it runs; the caller ends and reaps it."""
    return subprocess.Popen(
        [os.fspath(word) for word in argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=base_environment(env),
        cwd="/",
    )


def converse(argv: Argv, *, env: Mapping[str, str] | None = None) -> Child:
    """Start a program with a pipe on each of its three streams; the caller talks to it, ends and reaps it.

    It is in a process group of its own, so that Ctrl-C at a terminal reaches it only through the caller.
    """
    return subprocess.Popen(
        [os.fspath(word) for word in argv],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=base_environment(env),
        cwd="/",
        process_group=0,
    )


def follow(
    argv: Argv,
    *,
    cwd: Path,
    env: Mapping[str, str],
    on_output: Callable[[bytes], None],
    timeout: float | None = None,
) -> int:
    """Run a program to its end in `cwd`, a folder of ours, telling its output (both streams) as it comes.

    It and all that it started in its session are ended by `timeout` (in seconds), by Ctrl-C, and when it ends itself.
    Returns its status. Raises `tool.timeout`.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    with subprocess.Popen(
        [os.fspath(word) for word in argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=base_environment(env),
        cwd=cwd,
        start_new_session=True,
    ) as child:
        try:
            _tell(child, on_output, deadline)
            return child.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
        except (TimeoutError, subprocess.TimeoutExpired) as late:
            name = Path(child.args[0]).name  # type: ignore[index, arg-type]
            raise DevboxError("tool.timeout", f"`{name}` did not end within {timeout:.0f} s and was stopped.") from late
        finally:
            _end_group(child)


def _tell(child: Child, on_output: Callable[[bytes], None], deadline: float | None) -> None:
    """Until its output ends, or the program does: what it left running may hold the pipe open. Raises TimeoutError."""
    assert child.stdout is not None
    pipe = child.stdout.fileno()
    while True:
        left = 0.5 if deadline is None else min(0.5, deadline - time.monotonic())
        if left <= 0:
            raise TimeoutError
        if select.select([pipe], [], [], left)[0]:
            data = os.read(pipe, 1 << 16)
            if not data:
                return
            on_output(data)
        elif child.poll() is not None:
            return


def _end_group(child: Child) -> None:
    for number, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError, PermissionError):  # gone; macOS says so of zombies
            os.killpg(child.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(patience)
            if number is signal.SIGKILL or not _group_lives(child.pid):
                return


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def become(argv: Argv, *, env: Mapping[str, str] | None = None) -> NoReturn:
    """Replace this process by another program, which keeps our terminal, working folder and open streams."""
    words = [os.fspath(word) for word in argv]
    os.execve(words[0], words, {**os.environ, **(env or {})})  # noqa: S606


def attached(argv: Argv, *, env: Mapping[str, str] | None = None) -> Child:
    """Start a program on our own streams and terminal; the caller waits for it."""
    return subprocess.Popen([os.fspath(word) for word in argv], env={**os.environ, **(env or {})})


def _limiter(limits: Limits) -> Callable[[], None]:
    pairs = (
        (resource.RLIMIT_AS, limits.memory),
        (resource.RLIMIT_FSIZE, limits.file_size),
        (resource.RLIMIT_CPU, limits.cpu_seconds),
    )

    def apply() -> None:
        for kind, value in pairs:
            if value is not None:
                resource.setrlimit(kind, (value, value))

    return apply
