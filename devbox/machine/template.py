"""Warm starts: the memory of a machine at the instant of a layer, from which new machines go on instead of booting.

A template is a folder of the cache: `ram` (the guest's memory, mapped privately by every fork), `state` (the devices)
and `template.json`. Where the memory could not be a file, `state` holds it too, and takes longer to read. It fits only
a machine of the very same kind, so its name is the digest of all that counts.
"""

import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from devbox import fs, paths
from devbox.errors import DevboxError
from devbox.machine import argv, memory, ram
from devbox.machine.accelerator import Accelerator
from devbox.machine.argv import VmSpec
from devbox.machine.host import HostFacts
from devbox.machine.qmp import Qmp
from devbox.machine.ram import Ram, RamFile
from devbox.paths import MachineDir

_SCHEMA = 1
_SECRET = 0o600


@dataclass(frozen=True, slots=True)
class Template:
    folder: Path
    layer: str  # the sha256 of the layer that goes with it
    kind: Mapping[str, str]  # of machine: what it is called by and what it must be
    streamed: bool = False  # `state` holds the memory too
    label: str = ""  # what it is told as

    @property
    def ram(self) -> Path:
        return self.folder / "ram"

    @property
    def state(self) -> Path:
        return self.folder / "state"


def kind(vm: VmSpec, facts: HostFacts) -> dict[str, str]:
    """What a machine must have in common with the one whose memory it takes over, in words for people."""
    binary = facts.qemu.stat()
    version = ".".join(map(str, facts.qemu_version))
    return {
        "QEMU": f"{version} ({_digest(binary.st_size, binary.st_mtime_ns)})",
        "accelerator": str(facts.accelerator),
        "cpus": str(vm.cpus),
        "memory": f"{vm.memory >> 20}MiB",
        "devices": _digest(*_normalized(vm, facts)),
        **({} if facts.accelerator is Accelerator.TCG else {"processor": _digest(platform.release(), _processor())}),
    }


def find(layer: str, wanted: Mapping[str, str]) -> Template | None:
    """The memory of that layer for that kind of machine, if it is here and whole."""
    found = _read(paths.templates_dir() / _name(layer, wanted))
    return found if found and found.layer == layer and found.kind == dict(wanted) else None


def why_none(layer: str, wanted: Mapping[str, str]) -> str:
    """Why `find` finds none: how the nearest one of that layer differs; "" where there is none at all."""
    differences = [_differences(one, wanted) for one in entries() if one.layer == layer]
    differences.sort(key=len)
    return ", ".join(differences[0]) if differences else ""


def entries() -> tuple[Template, ...]:
    """Every template of the cache that is whole."""
    try:
        folders = sorted(paths.templates_dir().iterdir())
    except FileNotFoundError:
        return ()
    return tuple(found for folder in folders if (found := _read(folder)))


def save(qmp: Qmp, memory_file: RamFile | None) -> Path:
    """The memory of a machine that stands still, in a folder of the cache that `publish` or `drop` takes.

    The machine is to go on by `cont`. Raises what `memory.save` raises.
    """
    templates = fs.make_private_dir(paths.templates_dir())
    aside = Path(tempfile.mkdtemp(prefix=".new-", dir=templates))
    try:
        if memory_file is None:
            memory.save(qmp, aside / "state")
        else:
            _save_devices(qmp, aside / "state")
            _copy_ram(memory_file.descriptor, aside / "ram")
    except BaseException:
        drop(aside)
        raise
    return aside


def publish(aside: Path, layer: str, wanted: Mapping[str, str], *, label: str) -> Template:
    """Give a saved memory its name, durably, now that its layer is in the store. One that is there already stays."""
    folder = paths.templates_dir() / _name(layer, wanted)
    streamed = not (aside / "ram").exists()
    meta = {"schema": _SCHEMA, "layer": layer, "kind": dict(wanted), "streamed": streamed, "label": label}
    for file in aside.iterdir():
        fs.fsync_file(file)
        file.chmod(0o400)  # forks map the memory: whoever writes to it would write into all of them
    fs.write_atomic(aside / "template.json", json.dumps(meta, indent=2).encode())
    try:
        aside.rename(folder)
    except OSError:  # Another devbox was faster.
        drop(aside)
    else:
        fs.fsync_dir(folder.parent)
    found = _read(folder)
    if found is None:
        raise DevboxError("template.lost", f"The memory of the layer could not be kept in {folder}.")
    return found


def readdress(old: str, new: str) -> None:
    """Keep the memory of one layer for another one of the same content."""
    for one in entries():
        if one.layer == old:
            aside = Path(tempfile.mkdtemp(prefix=".new-", dir=paths.templates_dir()))
            for file in (one.state,) if one.streamed else (one.state, one.ram):
                os.link(file, aside / file.name)
            publish(aside, new, one.kind, label=one.label)


def drop(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def mapped(template: Template, vm: VmSpec, own: RamFile | None = None) -> VmSpec:
    """The machine as it is started to take over the template's memory: mapped privately, or copied into a file of its
    own where others map its memory too (folders by virtiofs), or where it is to be saved as a template again.
    """
    if own is None:
        return replace(vm, incoming=True, ram=None if template.streamed else Ram(template.ram, shared=False))
    if not template.streamed:
        with template.ram.open("rb") as source:
            ram.copy(source.fileno(), own.descriptor)
    return replace(vm, incoming=True, ram=own.ram)


def load(qmp: Qmp, template: Template) -> None:
    """Hand the memory to a QEMU that waits for it; the guest then stands still until `cont`."""
    if template.streamed:
        memory.load(qmp, template.state)
    else:
        memory.load(qmp, template.state, capabilities=(memory.WITHOUT_RAM,))
        _include_ram(qmp)


def _save_devices(qmp: Qmp, state: Path) -> None:
    try:
        memory.save(qmp, state, capabilities=(memory.WITHOUT_RAM,))
    finally:
        _include_ram(qmp)


def _copy_ram(source: int, path: Path) -> None:
    target = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _SECRET)
    try:
        ram.copy(source, target)
    finally:
        os.close(target)


def _include_ram(qmp: Qmp) -> None:
    """The capability stays set, and a later `suspend` of this machine would leave its memory out."""
    qmp.execute("migrate-set-capabilities", capabilities=[{"capability": memory.WITHOUT_RAM, "state": False}])


def _differences(one: Template, wanted: Mapping[str, str]) -> list[str]:
    found = []
    for name, text in wanted.items():
        had = one.kind.get(name, "none")
        if had != text:  # what is a digest tells nobody anything
            found.append(f"other {name}" if name in {"devices", "processor"} else f"{name} {had} → {text}")
    return found


def _read(folder: Path) -> Template | None:
    try:
        stored = json.loads((folder / "template.json").read_bytes())
        kind = {str(name): str(text) for name, text in stored["kind"].items()}
        found = Template(
            folder, str(stored["layer"]), kind, streamed=bool(stored["streamed"]), label=str(stored["label"])
        )
        whole = found.state.is_file() and (found.streamed or found.ram.is_file())
        return found if whole and stored["schema"] == _SCHEMA else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _name(layer: str, wanted: Mapping[str, str]) -> str:
    return _digest(layer, *(f"{name}={value}" for name, value in sorted(wanted.items())), length=64)


def _digest(*values: Any, length: int = 12) -> str:
    return hashlib.sha256(json.dumps(values, default=str).encode()).hexdigest()[:length]


def _normalized(vm: VmSpec, facts: HostFacts) -> tuple[str, ...]:
    """QEMU's arguments without what may differ from one machine to the next: places, names, ports, numbers."""
    nobody = MachineDir("000000000000")
    plain = replace(
        vm,
        dir=nobody,
        name="",
        uuid="",
        forwards=(),
        direct=None,
        incoming=False,
        ram=None,
        disk=None,
        mounts=tuple(replace(mount, host=Path("/")) for mount in vm.mounts),
        cpus=1,
        memory=1 << 30,
    )
    words = argv.build(plain, facts)
    places = (os.fspath(nobody.folder), os.fspath(nobody.runtime))
    for place in places:
        words = tuple(word.replace(place, "") for word in words)
    return words


def _processor() -> str:
    """What `-cpu host` hands to the guest depends on this."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    wanted = ("model name", "flags", "microcode", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))
