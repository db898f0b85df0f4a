"""Assembles the verbs, and is the only place that turns errors into text and exit codes.

Only the verb that was typed is imported: `--help` and `status` must not pay for Fabric, jsonschema or httpx.
"""

import errno
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from devbox import ui
from devbox.errors import DevboxError, ExitCode
from devbox.version import __version__

# Verb → what `devbox --help` says of it; the verb's own first docstring line must be the same (a test holds it).
VERBS = {
    "init": "Write a Devboxfile for this project.",
    "validate": "Check the Devboxfile: every mistake with its line.",
    "schema": "Print the Devboxfile's JSON Schema, for editors.",
    "lock": "Lock what the Devboxfile's names stand for; --update moves it.",
    "plan": "Show what `devbox up` would change, and what that takes.",
    "up": "Create, start and provision the machine.",
    "provision": "Carry out the steps that the machine still needs.",
    "test": "Run the checks of the Devboxfile in the machine.",
    "verify": "Prove the Devboxfile on a fresh machine, for CI.",
    "ssh": "Open a shell in the machine, in this folder.",
    "run": "Run a command in the machine, as if it were here.",
    "status": "Show what this project's machine is doing.",
    "ports": "Show the forwarded ports.",
    "ssh-config": "Print an OpenSSH configuration for the machine.",
    "logs": "Show what devbox, a step or the console said.",
    "reload": "Restart the machine as the Devboxfile now says.",
    "halt": "Shut the machine down; its disk stays.",
    "suspend": "Save the machine's memory and end it; it goes on later.",
    "resume": "Let a suspended or paused machine go on.",
    "snapshot": "Keep the machine as it is, and go back to it.",
    "clone": "Fork this project's machine for an experiment.",
    "destroy": "Delete the machine and its disk; the box stays.",
    "undo": "Bring back the machine that was destroyed last.",
    "list": "List all your machines, of every project.",
    "box": "Manage the store of images.",
    "layers": "Show what new machines can begin with, or free it.",
    "du": "Show what devbox holds on this computer's disk.",
    "gc": "Free what no machine uses, and say what stays and why.",
    "version": "Print the version.",
}
GROUPS = frozenset({"box", "layers", "snapshot"})
PASSES_THROUGH = frozenset({"run", "ssh"})
STARTS_ANEW = frozenset({"verify", "test"})
_BY_SIGNAL = frozenset({int(ExitCode.INTERRUPTED), 128 + signal.SIGTERM, 128 + signal.SIGHUP})


def main() -> None:
    # As with Ctrl-C: what is half-made is put away, helpers are ended, and the person reads how to go on.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # `nohup` ignores one
            signal.signal(number, _leave)
    sys.exit(run(sys.argv[1:]))


def _leave(number: int, _frame: object) -> NoReturn:
    sys.exit(128 + number)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; every error has been shown by then."""
    try:
        application(_typed_verb(arguments))(list(arguments), prog_name="devbox")
    except SystemExit as leaving:
        return _left(arguments, leaving.code if isinstance(leaving.code, int) else int(ExitCode.FAILED))
    except KeyboardInterrupt:  # while the verb was imported; later ones typer has made an exit
        return _left(arguments, ExitCode.INTERRUPTED)
    except DevboxError as trouble:
        _show(trouble)
        return trouble.exit_code
    except BrokenPipeError:
        # The reader of our output has left, as in `devbox list | head -1`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.FAILED
    except OSError as trouble:
        known = _host_trouble(trouble)
        if known is None:
            return _report_bug(arguments, trouble)
        _show(known)
        return known.exit_code
    except Exception as trouble:  # noqa: BLE001 - the last resort: nobody above could show it
        return _report_bug(arguments, trouble)
    return ExitCode.DONE


def _left(arguments: Sequence[str], code: int) -> int:
    verb = _typed_verb(arguments)
    if code in _BY_SIGNAL and verb not in PASSES_THROUGH:
        kept = "" if verb in STARTS_ANEW else " What was finished is kept; the same command goes on from there."
        ui.warn(f"Interrupted.{kept}")
    return code


def application(verb: str | None) -> typer.Typer:
    """The command line with `verb` in full and every other verb as a name and a line of help."""
    app = typer.Typer(
        name="devbox",
        help="One committed Devboxfile, the same Linux machine for everyone.",
        epilog="Start with `devbox init`, then `devbox up`.",
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_global_options)
    for name, summary in VERBS.items():
        if name != verb:
            app.command(name, help=summary)(_unreachable)
            continue
        module = importlib.import_module(f"devbox.commands.{name.replace('-', '_')}")
        if name in GROUPS:
            app.add_typer(module.app, name=name, help=summary)
        else:
            settings = getattr(module, "SETTINGS", {})
            app.command(name, context_settings=settings)(getattr(module, name.replace("-", "_")))
    return app


def _typed_verb(arguments: Sequence[str]) -> str | None:
    words = list(arguments)
    if any(name.endswith("_COMPLETE") and name.startswith("_") for name in os.environ):
        words = os.environ.get("COMP_WORDS", os.environ.get("_TYPER_COMPLETE_ARGS", "")).split()[1:]
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word in {"-C", "--directory"}:
            skip = True
        elif not word.startswith("-"):
            return word if word in VERBS else None
    return None


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - typer's way
    if wanted:
        ui.emit(f"devbox {__version__}")
        raise typer.Exit


def _global_options(
    directory: Annotated[
        Path | None, typer.Option("--directory", "-C", help="Work as if started in this folder.", metavar="DIR")
    ] = None,
    version: Annotated[  # noqa: FBT002 - typer's way
        bool, typer.Option("--version", "-V", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    if directory is not None:
        try:
            os.chdir(directory)
        except OSError as trouble:
            raise DevboxError(
                "project.no-folder", f"{directory}: {trouble.strerror}.", exit_code=ExitCode.USAGE
            ) from trouble


def _unreachable() -> None:
    raise AssertionError("only the typed verb is called, and that one was imported")


def _show(trouble: DevboxError) -> None:
    if trouble.details:
        ui.say(trouble.details.rstrip())
    ui.failed(trouble.message)
    if trouble.hint:
        ui.note(trouble.hint)
    if os.environ.get("DEVBOX_DEBUG"):
        import traceback

        ui.say(f"[{trouble.id}]\n{''.join(traceback.format_exception(trouble))}")


def _host_trouble(trouble: OSError) -> DevboxError | None:
    """What the operating system refused, in a person's words; None where it is our own mistake."""
    where = f" ({trouble.filename})" if trouble.filename else ""
    if trouble.errno in {errno.ENOSPC, errno.EDQUOT}:
        return DevboxError(
            "host.disk-full",
            f"This computer's disk is full{where}.",
            hint="Make room, for example with `devbox gc`, and run the same command again.",
        )
    if trouble.errno == errno.EROFS:
        return DevboxError(
            "host.read-only",
            f"This file system is read-only, and devbox must write there{where}.",
            hint="Make it writable, or name another by DEVBOX_STATE_DIR, DEVBOX_CACHE_DIR or DEVBOX_RUNTIME_DIR.",
        )
    if trouble.errno in {errno.EACCES, errno.EPERM}:
        return DevboxError(
            "host.permission",
            f"{trouble.strerror}{where}.",
            hint="Check who owns it: devbox never needs root, and files made by `sudo devbox` belong to root.",
        )
    if trouble.errno in {errno.EMFILE, errno.ENFILE, errno.ENOMEM}:
        return DevboxError("host.resources", f"This computer is out of a resource: {trouble.strerror}{where}.")
    return None


def _report_bug(arguments: Sequence[str], trouble: BaseException) -> int:
    from devbox import bug

    bug.report(arguments, trouble)
    return ExitCode.BUG


if __name__ == "__main__":
    main()
