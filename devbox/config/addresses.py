"""The addresses that steps fetch files from: found in the steps as they are written, completed from Devboxfile.lock.

Only the place of `url` and `sha256` among a step's options is known here; what a kind does with them is the kind's.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from devbox.config import lock
from devbox.config.model import Project, StepSpec

# Kind → the keys that lead to the mapping that holds both.
_PLACES: MappingProxyType[str, tuple[str, ...]] = MappingProxyType({"download": (), "repository": ("key",)})


@dataclass(frozen=True, slots=True)
class Address:
    """One file that a step fetches. `sha256` is "" where nothing gives it."""

    step: StepSpec
    url: str
    sha256: str

    @property
    def shown(self) -> str:
        """The address without what may be secret in it."""
        parts = urlsplit(self.url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

    @property
    def names(self) -> frozenset[str]:
        """What a person may call it."""
        return frozenset({self.url, self.shown, self.step.name})


def of(steps: Sequence[StepSpec]) -> tuple[Address, ...]:
    """Every address, in the order of the steps."""
    return tuple(_all(steps))


def _all(steps: Sequence[StepSpec]) -> Iterator[Address]:
    for step in steps:
        held = _holder(step)
        if held is not None and step.options.get("state", "present") == "present":
            yield Address(step, held["url"], held.get("sha256", "").lower())


def _holder(step: StepSpec) -> Any:
    """The mapping with the address in it; None where the step has none."""
    held = step.options if step.kind in _PLACES else None
    for key in _PLACES.get(step.kind, ()):
        held = held.get(key) if isinstance(held, dict) else None
    return held if isinstance(held, dict) and "url" in held else None


def completed(project: Project) -> Project:
    """The project with the digests that its steps leave out and the lock gives. Reads the lock only for those."""
    machine = project.machine
    if all(one.sha256 for one in of(machine.steps)):
        return project
    files = lock.read(project.root).files
    digests = {url: file.sha256 for url, file in files.items()}
    return replace(project, machine=replace(machine, steps=tuple(_completed(step, digests) for step in machine.steps)))


def _completed(step: StepSpec, digests: dict[str, str]) -> StepSpec:
    held = _holder(step)
    if held is None or "sha256" in held or held["url"] not in digests:
        return step
    filled = {**held, "sha256": digests[held["url"]]}
    for key in reversed(_PLACES[step.kind]):
        filled = {key: filled}
    return replace(step, options={**step.options, **filled})
