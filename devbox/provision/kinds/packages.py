"""`packages`: what the guest's package database holds, through its own package manager, in one transaction.

The probe only looks into the database; the script decides in the guest which packages are missing, so that those
which are there are never upgraded by the way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from shlex import quote
from typing import Any

from devbox.provision.facts import Facts
from devbox.provision.step import Action, Kind, Reads, Source, State, invalid


@dataclass(frozen=True, slots=True)
class Packages:
    present: tuple[tuple[str, str], ...] = ()  # name, version pattern or ""
    absent: tuple[str, ...] = ()
    latest: tuple[str, ...] = ()
    update: bool = False
    recommends: bool = True  # counts when something is installed; nothing compares it

    @property
    def names(self) -> tuple[str, ...]:
        return (*(name for name, _ in self.present), *self.absent, *self.latest)

    @property
    def index(self) -> bool:
        """Whether the index must be fresh in any case: nothing is the newest by an old index."""
        return self.update or bool(self.latest)


def parse(raw: Sequence[str] | Mapping[str, Any], source: Source) -> Packages:  # noqa: ARG001
    stated: Mapping[str, Any] = raw if isinstance(raw, Mapping) else {"present": raw}
    pairs = [name.partition("=") for name in stated.get("present", ())]
    found = Packages(
        tuple((name, version) for name, _, version in pairs),
        tuple(stated.get("absent", ())),
        tuple(stated.get("latest", ())),
        stated.get("update", False),
        stated.get("recommends", True),
    )
    for name in (*found.absent, *found.latest):
        if "=" in name:
            raise invalid(f"{name}: a version can be asked for only in `present`")
    twice = sorted({name for name in found.names if found.names.count(name) > 1})
    if twice:
        raise invalid(f"named more than once: {', '.join(twice)}")
    return found


def reads(packages: Packages) -> Reads:
    return Reads(packages=packages.names, candidates=packages.latest)


def probe(packages: Packages) -> str:
    lines = ['[ -n "$manager" ] || return 1']
    if packages.index:
        lines.append("if index_is_fresh; then field index fresh; else field index old; fi")
    lines += [f"probe_package {quote(name)} {quote('=' + v if v else 'present')}" for name, v in packages.present]
    lines += [f"probe_package {quote(name)} absent" for name in packages.absent]
    lines += [f"probe_package {quote(name)} latest" for name in packages.latest]
    return "\n".join((*lines, ":"))


def desired(packages: Packages, facts: Facts) -> State:  # noqa: ARG001
    index = (("index", "fresh"),) if packages.index else ()
    present = ((name, version or "installed") for name, version in packages.present)
    return (*index, *present, *((name, "latest") for name in packages.latest))


MANAGERS = ("apt", "dnf", "zypper", "apk", "pacman")


@cache
def _shell(name: str) -> str:
    return (Path(__file__).parent / f"managers/{name}.sh").read_text()


def apply(packages: Packages, facts: Facts) -> Action:
    if facts.manager not in MANAGERS:
        return Action(b"fail 'This guest has no package manager that devbox knows (apt, dnf, zypper, apk, pacman).'\n")
    present = " ".join(f"{name}={version}" if version else name for name, version in packages.present)
    lists = (
        f"names={quote(' '.join(packages.names))} present={quote(present)} absent={quote(' '.join(packages.absent))}\n"
        f"latest={quote(' '.join(packages.latest))} index={'1' if packages.index else ''}\n"
        f"lean={'' if packages.recommends else '1'}\n"
    )
    return Action(f"{lists}{_shell(facts.manager)}{_shell('transaction')}".encode())


KIND = Kind(parse=parse, probe=probe, desired=desired, apply=apply, reads=reads)
