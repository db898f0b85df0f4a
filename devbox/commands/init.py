"""`devbox init`: looks at the repository, writes a short commented Devboxfile and the ignore lines beside it."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from devbox import fs, paths, ui
from devbox.errors import DevboxError, ExitCode


@dataclass(frozen=True, slots=True)
class Finding:
    """What a file at the top of a repository says about the machine that it needs."""

    marker: str
    what: str
    packages: tuple[str, ...]
    port: int | None = None
    setup: str = ""


FINDINGS = (
    Finding("package.json", "Node.js", ("nodejs", "npm"), 3000, "npm install"),
    Finding("pyproject.toml", "Python", ("python3", "python3-venv"), 8000, "python3 -m venv ~/venv"),
    Finding("requirements.txt", "Python", ("python3", "python3-venv"), 8000, "python3 -m venv ~/venv"),
    Finding("Gemfile", "Ruby", ("ruby", "ruby-bundler"), 3000, "bundle install"),
    Finding("go.mod", "Go", ("golang",), 8080, "go mod download"),
    Finding("Cargo.toml", "Rust", ("cargo",), None, "cargo fetch"),
    Finding("pom.xml", "Java", ("default-jdk-headless", "maven"), 8080),
    Finding("composer.json", "PHP", ("php-cli", "composer"), 8000, "composer install"),
    Finding("CMakeLists.txt", "C and C++", ("build-essential", "cmake")),
    Finding("Makefile", "make", ("build-essential",)),
)
IGNORED = (f"{paths.PROJECT_DIR}/", paths.LOCAL_FILE)


def init(
    box: Annotated[str, typer.Option(help="The box to start from, as in `devbox box list`.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace an existing Devboxfile.")] = False,
) -> None:
    """Write a Devboxfile for this project."""
    root = Path.cwd()
    target = root / paths.DEVBOXFILE
    if target.exists() and not force:
        raise DevboxError(
            "init.exists",
            f"There is a {paths.DEVBOXFILE} here already.",
            hint="Edit it, or replace it with `devbox init --force`.",
            exit_code=ExitCode.USAGE,
        )
    found = next((finding for finding in FINDINGS if (root / finding.marker).exists()), None)
    text = devboxfile_text(_slug(root.name), _box_line(box), found)
    fs.write_atomic(target, text.encode(), mode=0o644)
    ui.done(f"Wrote {paths.DEVBOXFILE}" + (f" for {found.what} ({found.marker} is here)." if found else "."))
    if added := _ignore(root):
        ui.done(f"Added to .gitignore: {', '.join(added)}")
    ui.note("Read it, commit it, then start the machine with `devbox up`.")


def devboxfile_text(name: str, box: str, found: Finding | None) -> str:
    """The text of a new Devboxfile. Pure."""
    packages = ", ".join(("git", "curl", *(found.packages if found else ())))
    port = found.port if found and found.port else 8080
    ports = f"ports:\n  - {port}:{port}" if found and found.port else f"# ports:\n#   - {port}:{port}"
    setup = found.setup if found and found.setup else "echo ready > ~/ready"
    return f"""\
# The machine of this project: commit this file, and `devbox up` gives everyone the same one.
# `devbox schema` explains every key; `devbox validate` lists the mistakes after an edit.
version: 1
name: {name}
{box}
cpus: 2
memory: 2GiB

# This folder is at /workspace in the machine; a port is reached on this computer's loopback.
folders:
  - .:/workspace
{ports}

# Steps run in this order, and only as far as the machine differs from what they say.
provision:
  - packages: [{packages}]
  - name: project set-up
    run: {setup}
    {"cwd: /workspace" if found and found.setup else "cwd: /tmp"}
"""


def _box_line(box: str) -> str:
    if box:
        return f"box: {box}"
    if sys.platform == "linux" and Path("/usr/bin/mmdebstrap").exists():
        return (
            "# Built from Debian's own archive; `box: debian-12` takes Debian's published cloud image instead.\n"
            "box: {recipe: debian-12}"
        )
    return "box: debian-12"


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-") or "project"


def _ignore(root: Path) -> list[str]:
    """Add the lines that keep one person's machine out of the repository; returns those that were missing."""
    if not (root / ".git").exists() and not (root / ".gitignore").exists():
        return []
    path = root / ".gitignore"
    text = path.read_text() if path.exists() else ""
    missing = [line for line in IGNORED if line not in {present.strip().lstrip("/") for present in text.splitlines()}]
    if missing:
        gap = "" if not text or text.endswith("\n") else "\n"
        fs.write_atomic(path, (text + gap + "\n".join(missing) + "\n").encode(), mode=0o644)
    return missing
