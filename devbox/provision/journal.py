"""What was done, kept inside the guest's own disk: one receipt for each finished step, and where things lie there.

The guest writes receipts (runner.sh); the host only reads them. State steps never trust them, actions go by them.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Receipt:
    name: str
    digest: str
    change: str  # the run and the step's place in it, when this step last changed something
    needs: Mapping[str, str]  # key of a needed step → its change, as of this step's last success
    finished: int  # seconds since 1970, by the guest's clock
    ms: int
    boot: str = ""  # the boot in which that was


@dataclass(frozen=True, slots=True)
class Journal:
    receipts: Mapping[str, Receipt]
    pending: Mapping[str, str]  # key → the change that was begun; a receipt with that change has finished it

    def is_pending(self, key: str) -> bool:
        receipt = self.receipts.get(key)
        return key in self.pending and (receipt is None or receipt.change != self.pending[key])

    def is_triggered(self, key: str, needs: tuple[str, ...]) -> bool:
        """Whether something that the step needs has changed since the step's own last success."""
        own = self.receipts.get(key)
        for need in needs:
            other = self.receipts.get(need)
            if other and (own is None or own.needs.get(need) != other.change):
                return True
        return False


@dataclass(frozen=True, slots=True)
class Places:
    """devbox's own folders in the guest. For tests only: `prefix`, a folder that stands in for the root, and
    `secrets_on_disk`, since such a folder need not be a tmpfs.
    """

    prefix: str = ""
    secrets_on_disk: bool = False

    @property
    def runs(self) -> str:
        return f"{self.prefix}/run/devbox"

    @property
    def state(self) -> str:
        return f"{self.prefix}/var/lib/devbox"

    @property
    def logs(self) -> str:
        return f"{self.prefix}/var/log/devbox"

    @property
    def path(self) -> str:
        """The search path of every script: ours, whatever the login shell's start files say."""
        system = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return f"{self.prefix}/bin:{system}" if self.prefix else system


def key(step_name: str) -> str:
    """The file name of a step's receipt."""
    return hashlib.sha256(step_name.encode()).hexdigest()[:16]


def slug(step_name: str) -> str:
    """The name of a step's log without `.log`: readable, safe as a file name, and different for different steps."""
    words = re.sub(r"[^A-Za-z0-9]+", "-", step_name).strip("-").lower()[:40].strip("-")
    return f"{words}-{key(step_name)[:6]}" if words else key(step_name)


def log_path(step_name: str) -> str:
    """Where the guest keeps the output of a step's last run."""
    return f"{Places().logs}/{slug(step_name)}.log"


def parse(text: str) -> Journal:
    """The journal as the guest prints it. What is not understood is passed over: at worst a step runs again."""
    receipts: dict[str, Receipt] = {}
    pending: dict[str, str] = {}
    fields: dict[str, str] = {}
    needs: dict[str, str] = {}

    def close() -> None:
        if "step" in fields and fields.get("finished", "").isdecimal():
            receipts[fields["step"]] = Receipt(
                fields.get("name", ""),
                fields.get("digest", ""),
                fields.get("change", ""),
                dict(needs),
                int(fields["finished"]),
                int(fields["ms"]) if fields.get("ms", "").isdecimal() else 0,
                fields.get("boot", ""),
            )
        fields.clear()
        needs.clear()

    for line in text.splitlines():
        name, _, value = line.partition("=")
        if name == "pending":
            file, _, change = value.partition(" ")
            pending[file.removesuffix(".pending")] = change
            continue
        if name == "step":
            close()
        if name == "need":
            other, _, change = value.partition(":")
            needs[other] = change
        else:
            fields[name] = value
    close()
    return Journal(receipts, pending)
