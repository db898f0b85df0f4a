"""Runs inside Ansible, beside whatever prints its output: writes what came of the playbook as JSON to a file.

The file is named by DEVBOX_ANSIBLE_STATS. Nothing of devbox is imported here: Ansible has a Python of its own.
"""

import json
import os
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: devbox_stats
type: notification
short_description: writes the result of a playbook for devbox
description: [Writes counts for each host and the task that failed last.]
"""


class CallbackModule(CallbackBase):  # type: ignore[misc]
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "devbox_stats"

    def __init__(self) -> None:
        super().__init__()
        self._failed: dict[str, str] = {}

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:  # noqa: FBT001, FBT002
        if not ignore_errors:
            self._note(result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._note(result)

    def _note(self, result: Any) -> None:
        task = getattr(result, "task", None) or result._task
        said = getattr(result, "result", None) or result._result
        text = said.get("msg") or said.get("censored") or ""
        self._failed = {"task": str(task.get_name()), "message": text if isinstance(text, str) else json.dumps(text)}

    def v2_playbook_on_stats(self, stats: Any) -> None:
        hosts = {host: stats.summarize(host) for host in sorted(stats.processed)}
        total = {
            name: sum(one[name] for one in hosts.values()) for name in ("ok", "changed", "failures", "unreachable")
        }
        path = os.environ["DEVBOX_ANSIBLE_STATS"]
        with open(f"{path}.new", "w", encoding="utf-8") as file:  # noqa: PTH123
            json.dump({"hosts": len(hosts), **total, "failed": self._failed}, file)
        os.replace(f"{path}.new", path)  # noqa: PTH105
