"""How the last provisioning went, kept beside the disk so that `status` and `plan` can say "last known" while the
machine is off.

The truth is the journal inside the guest; nothing is ever decided by this copy.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from devbox import fs, redact
from devbox.disk.record import Record

if TYPE_CHECKING:
    from devbox.provision.report import Report


def remember(record: Record, *, summary: str, ok: bool) -> None:
    known = {"at": time.strftime("%Y-%m-%d %H:%M:%S"), "ok": ok, "summary": redact.text(summary)}
    fs.write_atomic(record.dir.outcome, json.dumps(known).encode())


def last_known(record: Record) -> dict[str, Any] | None:
    try:
        known = json.loads(record.dir.outcome.read_text())
    except (OSError, ValueError):
        return None
    return known if isinstance(known, dict) and {"at", "ok", "summary"} <= known.keys() else None


@dataclass(frozen=True, slots=True)
class StepRun:
    """One step as of the last run: `digest` is of what was asked for, `seconds` None where it never did anything."""

    digest: str
    status: str
    seconds: float | None


@dataclass(frozen=True, slots=True)
class LastRun:
    """`settings` are the machine's live keys as they were then, None if the run broke off before they were applied."""

    at: str
    steps: Mapping[str, StepRun]
    facts: Mapping[str, str]
    settings: Mapping[str, Any] | None


def remember_run(record: Record, report: "Report", settings: Mapping[str, Any] | None) -> None:
    """Keep what each step was asked to be. Steps that were left out this time keep what is known of them."""
    before = last_run(record)
    steps = dict(before.steps) if before else {}
    for one in report.outcomes:
        known = steps.get(one.name)
        last = one.last if one.last is not None else known.seconds if known else None
        steps[one.name] = StepRun(one.digest, str(one.status), last)
    kept = {
        "at": time.strftime("%Y-%m-%d %H:%M:%S"),
        "steps": {name: [one.digest, one.status, one.seconds] for name, one in steps.items()},
        "facts": dict(report.facts),
        "settings": settings if settings is not None else before.settings if before else None,
    }
    fs.write_atomic(record.dir.last_run, json.dumps(redact.value(kept)).encode())


def last_run(record: Record) -> LastRun | None:
    try:
        kept = json.loads(record.dir.last_run.read_text())
        steps = {name: StepRun(*map(_plain, one)) for name, one in kept["steps"].items()}
        return LastRun(str(kept["at"]), steps, dict(kept["facts"]), kept["settings"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | float | int) else None
