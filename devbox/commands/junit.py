"""What `test` and `verify` found, as values, as JSON and as the JUnit XML that GitHub, GitLab and Jenkins read."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as xml

from devbox import ui
from devbox.errors import DevboxError, ExitCode
from devbox.provision.checks import Result

# ui.clean leaves what a terminal can show; these no XML document can hold.
_NOT_XML = re.compile("[\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that was to hold. `failure` and `skipped` say why it did not, or why nobody knows."""

    name: str
    group: str  # "up", "idempotent" or "check"
    seconds: float = 0.0
    failure: str = ""
    skipped: str = ""
    output: str = ""
    position: str = ""  # `Devboxfile:line`

    @property
    def status(self) -> str:
        return "failed" if self.failure else "skipped" if self.skipped else "passed"


def of_check(result: Result) -> Case:
    check = result.check
    return Case(check.name, "check", result.seconds, result.reason, output=result.output, position=check.position)


def summary(cases: Sequence[Case]) -> str:
    """`3 passed, 1 failed, 2 skipped`; of the last two only what there is."""
    counts = {status: sum(case.status == status for case in cases) for status in ("passed", "failed", "skipped")}
    return ", ".join(f"{count} {status}" for status, count in counts.items() if count or status == "passed")


def failures_text(cases: Sequence[Case]) -> str:
    """Every failure with its reason and the end of its output, for people."""
    parts = []
    for case in cases:
        if case.failure:
            where = f" ({case.position})" if case.position else ""
            parts.append(f"{case.name}{where}: {case.failure}")
            parts += [f"    {line}" for line in case.output.splitlines()]
    return "\n".join(parts)


def as_json(cases: Sequence[Case], seconds: float) -> dict[str, Any]:
    return {
        "ok": not any(case.failure for case in cases),
        "seconds": round(seconds, 3),
        "results": [
            {
                "name": case.name,
                "group": case.group,
                "status": case.status,
                "seconds": round(case.seconds, 3),
                "reason": case.failure or case.skipped,
                "output": case.output,
            }
            for case in cases
        ],
    }


def document(project: str, cases: Sequence[Case], seconds: float, at: datetime) -> bytes:
    """The XML: one suite, one testcase for each case. Pure."""
    counts = {
        "tests": str(len(cases)),
        "failures": str(sum(case.status == "failed" for case in cases)),
        "errors": "0",
        "skipped": str(sum(case.status == "skipped" for case in cases)),
        "time": f"{seconds:.3f}",
    }
    root = xml.Element("testsuites", {"name": "devbox", **counts})
    stamp = at.isoformat(timespec="seconds")
    suite = xml.SubElement(root, "testsuite", {"name": f"devbox {project}", **counts, "timestamp": stamp})
    for case in cases:
        _testcase(suite, project, case)
    xml.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{xml.tostring(root, encoding="unicode")}\n'.encode()


def _testcase(suite: xml.Element, project: str, case: Case) -> None:
    name = f"idempotent: {case.name}" if case.group == "idempotent" else case.name
    file, _, line = case.position.partition(":")
    place = {"file": _clean(file), "line": line} if line else {}
    about = {"classname": f"devbox.{_clean(project)}", "name": _clean(name), "time": f"{case.seconds:.3f}", **place}
    made = xml.SubElement(suite, "testcase", about)
    if case.failure:
        said = xml.SubElement(made, "failure", {"message": _clean(case.failure), "type": case.group})
        said.text = _clean(f"{case.failure}\n{case.output}".rstrip())
    elif case.skipped:
        xml.SubElement(made, "skipped", {"message": _clean(case.skipped)})
    if case.output:
        xml.SubElement(made, "system-out").text = _clean(case.output)


def _clean(text: str) -> str:
    return _NOT_XML.sub("\ufffd", ui.clean(text))


def prepare(path: Path | None) -> None:
    """Find out before the long work whether the report can be written; an old one must not be taken for this run's.

    Raises `test.report`.
    """
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            path.unlink()
        with path.open("ab"):
            pass
        if path.is_file():
            path.unlink()
    except OSError as trouble:
        raise DevboxError(
            "test.report",
            f"The report {path} cannot be written: {trouble.strerror}.",
            exit_code=ExitCode.USAGE,
        ) from trouble


def write(path: Path | None, project: str, cases: Sequence[Case], seconds: float) -> None:
    if path is not None:
        path.write_bytes(document(project, cases, seconds, datetime.now(UTC)))
        ui.note(f"Report: {path}")
