"""How the last provisioning went, kept beside the disk so that `status` can say "last known" while the machine is off.

The truth is the journal inside the guest; nothing is ever decided by this copy.
"""

import json
import time
from typing import Any

from devbox import fs, redact
from devbox.disk.record import Record


def remember(record: Record, *, summary: str, ok: bool) -> None:
    known = {"at": time.strftime("%Y-%m-%d %H:%M:%S"), "ok": ok, "summary": redact.text(summary)}
    fs.write_atomic(record.dir.outcome, json.dumps(known).encode())


def last_known(record: Record) -> dict[str, Any] | None:
    try:
        known = json.loads(record.dir.outcome.read_text())
    except (OSError, ValueError):
        return None
    return known if isinstance(known, dict) and {"at", "ok", "summary"} <= known.keys() else None
