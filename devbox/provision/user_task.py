"""Calls a function of the project's own Python file, from the very bytes that were approved, in this process.

Its modules are loaded from memory under a finder of ours, and leave nothing behind: no bytecode, no entry in
`sys.modules`, no changed environment, folder or streams. What it prints goes to the step's output.
"""

import contextlib
import importlib.abc
import importlib.util
import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path, PurePosixPath
from types import FrameType, ModuleType
from typing import Any

from devbox import redact
from devbox.config.host_code import Code
from devbox.errors import DevboxError, ExitCode
from devbox.provision.step import HostSide

_MAIN = "_devbox_task"


class _Late(BaseException):
    """The task's time is up. No Exception, so that the task's own handlers let it through."""


def call(code: Code, task: str, args: Mapping[str, Any], side: HostSide) -> Any:
    """What the task returns. Raises `provision.python` with the line of the file, and `tool.timeout`."""
    with _guest(side) as guest, _streams(side), _surroundings(side), _modules(code, side.root) as finder:
        try:
            with _limit(side.spec.timeout, guest.close):
                return getattr(finder.load(), task)(guest.connection, **args)
        except _Late as late:
            raise DevboxError(
                "tool.timeout", f"The task `{task}` did not end within {side.spec.timeout:.0f} s and was stopped."
            ) from late
        except SystemExit as exit_:
            if exit_.code in (None, 0):
                return None
            raise _failed(code, side.root, exit_) from exit_
        except Exception as trouble:  # whatever the user's code may raise
            raise _failed(code, side.root, trouble) from trouble


@contextmanager
def _guest(side: HostSide) -> Iterator[Any]:
    """The guest, over a connection that lives: an earlier attempt may have ended it at its time limit."""
    guest: Any = side.guest  # Fabric's own, but for tests
    if getattr(guest.connection, "is_connected", True):
        yield guest
        return
    again = side.connect()
    try:
        yield again
    finally:
        again.close()


def _failed(code: Code, root: Path, trouble: BaseException) -> DevboxError:
    ours = {os.fspath(root.resolve() / name): name for name in code.files}
    frames = [frame for frame in traceback.extract_tb(trouble.__traceback__) if frame.filename in ours]
    if isinstance(trouble, SyntaxError) and trouble.filename in ours:
        where = f"{ours[trouble.filename]}:{trouble.lineno}"
    else:
        where = f"{ours[frames[-1].filename]}:{frames[-1].lineno}" if frames else code.main
    # Invoke's reports are long: its first words, and the status at the end, tell enough.
    result = getattr(trouble, "result", None)
    if result is not None and hasattr(result, "command") and hasattr(result, "exited"):
        said = f"the command `{result.command}` ended with status {result.exited}"
    else:
        # Without secrets before it is cut, or a part of one would be none any more.
        said = f"{type(trouble).__name__}: {' '.join(redact.text(str(trouble)).split())[:300]}"
    lines = "".join(f"{ours[frame.filename]}:{frame.lineno}, in {frame.name}\n" for frame in frames)
    # Another attempt would meet these again.
    hopeless = isinstance(trouble, SyntaxError | ImportError)
    exit_code = ExitCode.USAGE if hopeless else ExitCode.FAILED
    return DevboxError("provision.python", f"{where}: {said}", details=lines.rstrip(), exit_code=exit_code)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.SourceLoader):  # type: ignore[misc]
    """Finds what is among the approved files, and nothing else in their folder."""

    def __init__(self, code: Code, root: Path) -> None:
        self._code, self._root = code, root.resolve()
        self._folder = PurePosixPath(code.main).parent
        self.loaded: list[str] = []

    def load(self) -> ModuleType:
        spec = self.find_spec(_MAIN, None)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[_MAIN] = module  # dataclasses look their module up
        self.exec_module(module)
        return module

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        if self._file(fullname) is None:
            return None
        self.loaded.append(fullname)
        package = self.is_package(fullname)
        return importlib.util.spec_from_file_location(
            fullname,
            self.get_filename(fullname),
            loader=self,
            submodule_search_locations=[os.path.dirname(self.get_filename(fullname))] if package else None,  # noqa: PTH120
        )

    def is_package(self, fullname: str) -> bool:
        return (self._file(fullname) or "").endswith("/__init__.py")

    def get_filename(self, fullname: str) -> str:
        return os.fspath(self._root / str(self._file(fullname)))

    def get_data(self, path: str | bytes) -> bytes:
        """The bytes that were approved, whatever the file holds now; of bytecode there is none."""
        name = Path(os.fsdecode(path)).relative_to(self._root).as_posix()
        if name not in self._code.files:
            raise FileNotFoundError(name)
        return self._code.files[name].data

    def _file(self, fullname: str) -> str | None:
        if fullname == _MAIN:
            return self._code.main
        base = (self._folder / fullname.replace(".", "/")).as_posix()
        return next((name for name in (f"{base}/__init__.py", f"{base}.py") if name in self._code.files), None)


@contextmanager
def _modules(code: Code, root: Path) -> Iterator[_Finder]:
    finder = _Finder(code, root)
    sys.meta_path.insert(0, finder)
    try:
        yield finder
    finally:
        sys.meta_path.remove(finder)
        for name in finder.loaded:
            sys.modules.pop(name, None)


class _Output(io.RawIOBase):
    """A stream whose bytes are the step's output. While that is told, our own words go where they always go."""

    def __init__(self, output: Callable[[bytes], None]) -> None:
        super().__init__()
        self._output = output
        self._one = threading.Lock()  # Invoke writes a command's two streams from two threads

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        with self._one:
            self._output(bytes(data))
        return len(data)


@contextmanager
def _streams(side: HostSide) -> Iterator[None]:
    """The task's streams; what devbox itself says about its output goes to those that there were."""
    shown, result, keyboard = sys.stderr, sys.stdout, sys.stdin
    lock = threading.RLock()

    def output(data: bytes) -> None:
        with lock:
            own = sys.stdout, sys.stderr
            sys.stdout, sys.stderr = result, shown
            try:
                side.output(data)
            finally:
                sys.stdout, sys.stderr = own

    raw = _Output(output)
    stream = io.TextIOWrapper(raw, "utf-8", "replace", write_through=True)  # type: ignore[type-var]
    with Path(os.devnull).open() as nothing:
        sys.stdout = sys.stderr = stream
        sys.stdin = nothing  # Invoke would take what is typed for the next command
        try:
            yield
        finally:
            sys.stdout, sys.stderr, sys.stdin = result, shown, keyboard
            stream.detach()


@contextmanager
def _surroundings(side: HostSide) -> Iterator[None]:
    """The project's folder, and the step's variables."""
    before = {name: os.environ.get(name) for name in (*side.spec.env, *side.secrets)}
    os.environ.update({**side.spec.env, **side.secrets})
    try:
        with contextlib.chdir(side.root):
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _limit(seconds: float | None, interrupt: Callable[[], None]) -> Iterator[None]:
    """Raises `_Late` in the block when its time is up; `interrupt` first, or Invoke would wait for its command."""
    if seconds is None:
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        interrupt()
        raise _Late

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
