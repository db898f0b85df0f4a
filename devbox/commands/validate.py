"""`devbox validate`: Devboxfile text in, every mistake out. Touches nothing."""

from pathlib import Path

from devbox import paths, ui


def validate() -> None:
    """Check the Devboxfile: every mistake with its line."""
    from devbox.commands import steps
    from devbox.config import build

    project = build.load(paths.find_project(Path.cwd()))
    steps.check(project)
    count = len(project.machine.steps)
    ui.done(f"{paths.DEVBOXFILE} is valid: {project.machine.box}, {count} step{'s' * (count != 1)}.")
