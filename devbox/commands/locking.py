"""Devboxfile.lock as `up`, `reload` and `verify` obey it: the image that it names, what it does not hold yet, refusals.

The lock is the truth: a newer image of the same name, or another file at the same address, moves nobody who has one.
Only `devbox lock --update` moves it; what it does not hold yet is added by whoever resolves it first.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from shlex import quote
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from devbox import paths, ui
from devbox.box import catalogue, image, online, recipe, store
from devbox.config import addresses, build
from devbox.config import lock as locks
from devbox.config.lock import FilePin, Lock, Pin
from devbox.config.model import Arch, BoxRef, Project, StepSpec, When
from devbox.disk import overlay
from devbox.errors import DevboxError, ExitCode
from devbox.provision import artefacts

if TYPE_CHECKING:
    from devbox.box.store import Image
    from devbox.box.traits import Source
    from devbox.disk.record import Record

_NO = frozenset({"", "0", "false", "no", "off", "n", "f"})


def is_asked(locked: bool | None) -> bool:
    """Whether everything must be locked: what `--locked` or `--no-locked` says, else whether this runs in CI."""
    return os.environ.get("CI", "").strip().lower() not in _NO if locked is None else locked


def require(project: Project, record: "Record | None", *, locked: bool | None, provision: bool = True) -> None:
    """Refuse, before anything is fetched or started, what `--locked` or `--offline` forbids; all of it at once."""
    lock = locks.read(project.root)
    if is_asked(locked) and (found := tuple(unlocked(project, lock))):
        because = "" if locked else " It must, since `CI` is set; `--no-locked` does without."
        raise DevboxError(
            "lock.unlocked",
            "\n    ".join((f"{paths.LOCK_FILE} does not hold what the Devboxfile asks for.{because}", *found)),
            hint=_command_for(project, lock),
            exit_code=ExitCode.USAGE,
        )
    if online.is_forbidden() and (gone := tuple(_missing(project, record, lock, provision=provision))):
        raise DevboxError(
            "lock.offline",
            "\n    ".join(("This is not on this computer, and `--offline` forbids to fetch it:", *gone)),
            hint="Run it once without `--offline`, or fetch it with `devbox lock`.",
        )


def unlocked(project: Project, lock: Lock) -> Iterator[str]:
    """What the lock lacks, or has for something else than the Devboxfile asks for: a line for each."""
    machine, ref = project.machine, project.machine.box
    source, pin = catalogue.locate(ref, machine.arch), lock.pins.get((machine.name, machine.arch))
    label = f"the box {ref} ({machine.arch})"
    if pin is None:
        yield f"{label}: it has none"
    elif pin.source != locks.source_of(ref, project.root):
        yield f"{label}: it has one for {pin.source}"
    elif not pin.is_for(ref, project.root):
        yield f"{label}: it has {pin}, and the Devboxfile asks for {ref.digest}"
    elif source.recipe and pin.inputs != inputs_of(source) and store.find(f"recipe-{pin.inputs}") is None:
        yield f"{label}: it has the one of the {pin}, and this devbox makes the one of sha256:{inputs_of(source)}"
    for address in addresses.of(machine.steps):
        kept = lock.files.get(address.url)
        if kept is None:
            yield f"{address.step.name}: it has no digest for {address.shown}"
        elif kept.sha256 != address.sha256:
            yield f"{address.step.name}: it has {kept}, and the Devboxfile asks for sha256:{address.sha256}"


def _command_for(project: Project, lock: Lock) -> str:
    pin = lock.pins.get((project.machine.name, project.machine.arch))
    stale = pin is not None and pin.is_for(project.machine.box, project.root)
    update = f" --update {pin.source.partition(':')[2].partition(' ')[0]}" if pin and stale and pin.inputs else ""
    own = (project.root / paths.LOCAL_FILE).exists()
    more = f" What {paths.LOCAL_FILE} asks for is never locked: `--no-locked` does without." if own else ""
    return f"Run `devbox lock{update} --arch {project.machine.arch}`, and commit {paths.LOCK_FILE}.{more}"


def _missing(project: Project, record: "Record | None", lock: Lock, *, provision: bool) -> Iterator[str]:
    """What a new machine would have fetched. One that has its disk needs no image, and maybe none of the files: what
    is missing then is known only when a step acts, and said by it.
    """
    if record and record.dir.disk.exists():
        return
    machine = project.machine
    source, pin = locked_source(project, lock)
    if store.find(_key(source, pin)) is None and not (source.path and source.path.is_file()):
        yield f"the box {machine.box} ({machine.arch})" + ("" if source.recipe else f", from {source.origin}")
    for address in addresses.of(machine.steps) if provision else ():
        if may_apply(address.step, machine.arch, source.traits.os) and not artefacts.path(address.sha256).exists():
            yield f"{address.step.name}: {address.shown}"


def may_apply(step: StepSpec, arch: Arch, os_name: str) -> bool:
    """Whether the step may act in such a machine without being asked for by name."""
    if step.when is When.MANUAL:
        return False
    for asked, actual in ((step.condition.get("arch"), arch), (step.condition.get("os"), os_name)):
        allowed = [asked] if isinstance(asked, str) else asked or ()
        if allowed and actual != "unknown" and not any(word.startswith(actual) for word in allowed):
            return False
    return True


def find_image(project: Project, record: "Record | None", *, locked: bool | None) -> "Image":
    """The verified image, which is then in the lock: from the store, or from a machine's own hold of it."""
    machine, lock = project.machine, locks.read(project.root)
    if record and record.dir.disk.exists():
        found = overlay.held_image(record)
        pin = _as_made(project, record, lock)
    else:
        source, pin = locked_source(project, lock)
        found = _locked_image(project, source, pin, lock) if pin else image.ensure(source)
        pin = pin or pin_of(source, machine.box, project)
    settle(project, pin, locked=locked)
    return found


def locked_source(project: Project, lock: Lock) -> "tuple[Source, Pin | None]":
    """Where the image comes from: by the lock, else by the Devboxfile. Raises `box.unpinned` without any digest."""
    machine, ref = project.machine, project.machine.box
    pin = lock.pin(machine.name, machine.arch, ref)
    if pin is None:
        return catalogue.resolve(ref, machine.arch), None
    source = catalogue.locate(ref, machine.arch)
    if not ref.name or not pin.url:
        return replace(source, digest=pin.proof), pin
    # A name promises its publisher's image; a lock that sends it elsewhere was not written by devbox.
    if urlsplit(pin.url)[:2] != urlsplit(source.url)[:2]:
        raise DevboxError(
            "lock.foreign",
            f"{paths.LOCK_FILE} takes the box {ref} from {urlsplit(pin.url).hostname}, and its publisher is "
            f"{urlsplit(source.url).hostname}.",
            hint=f"If you trust that image, name it in the Devboxfile by its `url`. Else: devbox lock --update {ref}",
            exit_code=ExitCode.USAGE,
        )
    return replace(source, url=pin.url, digest=pin.proof), pin


def _locked_image(project: Project, source: "Source", pin: Pin, lock: Lock) -> "Image":
    ref = project.machine.box
    if source.recipe and pin.inputs != inputs_of(source):
        if found := image.stored(f"recipe-{pin.inputs}", source):
            return found
        raise DevboxError(
            "lock.changed",
            f"The recipe {ref.recipe} makes another image by now: {paths.LOCK_FILE}, written by devbox {lock.writer}, "
            f"has the one of the {pin}, and this devbox makes the one of sha256:{inputs_of(source)}.",
            hint=f"Take the new one: devbox lock --update {ref.recipe}",
        )
    try:
        return image.ensure(source)
    except DevboxError as trouble:
        raise _told(trouble, project, source) from trouble


def _told(trouble: DevboxError, project: Project, source: "Source") -> DevboxError:
    """The trouble with an image that was there when it was locked, and how to go on."""
    ref, arch = project.machine.box, project.machine.arch
    name = ref.path.name if ref.path else ref.name or ref.url
    update = f"devbox lock --update {quote(name)}"
    if trouble.id in {"download.digest", "box.digest"}:
        words = f"The image {ref} ({arch}) is another one by now than {paths.LOCK_FILE} has. {trouble.message}"
        hint = f"If its publisher has replaced it on purpose, and you want the new one: {update}"
        return DevboxError("lock.changed", words, hint=hint, details=trouble.details)
    if trouble.id != "download.gone":
        return trouble
    now = catalogue.locate(ref, arch)
    if ref.name and now.digest == source.digest:  # there is nothing newer to move to
        latest = f" Or take their newest one by hand: box: {{url: {now.latest}}}" if now.latest else ""
        hint = f"Update devbox, whose catalogue may have a newer build, then: {update}{latest}"
    else:
        hint = f"Take what there is now: {update}"
    mirror = f"To keep it, name a server that has it under `mirrors:` in {paths.preferences_file()}"
    words = f"The image that {paths.LOCK_FILE} has for {ref} ({arch}), {source.digest}, is gone. {trouble.message}"
    return DevboxError("lock.gone", words, hint=f"{hint}\n{mirror}", details=trouble.details)


def _as_made(project: Project, record: "Record", lock: Lock) -> Pin | None:
    """The pin for a machine that was made before there was a lock, if its image can still be told."""
    machine = project.machine
    try:
        source, pin = locked_source(project, lock)
        blob = store.find(_key(source, pin))
    except DevboxError:
        return None
    if blob is None:
        return None
    if blob.sha256 != record.image:
        if pin and not record.source:  # else the plan tells it
            ui.warn(
                f"{paths.LOCK_FILE} has another image by now than this machine was made from; only a new machine can "
                "have that. `devbox destroy` and `devbox up` make one, this one goes on as it is."
            )
        return None
    return pin or (None if (machine.name, machine.arch) in lock.pins else pin_of(source, machine.box, project))


def _key(source: "Source", pin: Pin | None) -> str:
    """By which the store knows the image."""
    return f"recipe-{pin.inputs}" if pin and pin.inputs else image.source_key(source)


def inputs_of(source: "Source") -> str:
    return recipe.inputs_digest(source.recipe, source.traits.arch, source.packages) if source.recipe else ""


def pin_of(source: "Source", ref: BoxRef, project: Project) -> Pin:
    """What the lock holds for a source that has been resolved, with what the store knows of its file."""
    file = image.file_of(source)
    sha256 = source.digest.value if source.digest and source.digest.algorithm == "sha256" else ""
    return Pin(
        locks.source_of(ref, project.root),
        source.url,
        source.digest,
        file.sha256 if file else sha256,
        file.size if file else 0,
        inputs_of(source),
    )


def settle(project: Project, pin: Pin | None, *, locked: bool | None) -> None:
    """Add to the lock what has been resolved, and say so; a project that cannot be written to is only told of."""
    old = locks.read(project.root)
    if is_asked(locked) or _with_what_is_known(old, project, project, pin) == old:
        return
    new = _with_what_is_known(old, committed(project), project, pin)
    if new == old:
        return
    try:
        locks.write(project.root, new)
    except OSError as trouble:
        ui.warn(f"{paths.LOCK_FILE} could not be written ({trouble.strerror}), so this is not locked.")
        return
    for line in moves(old, new):
        ui.note(line)
    ui.done(f"Wrote {paths.LOCK_FILE}: commit it.")


def _with_what_is_known(old: Lock, asked: Project, project: Project, pin: Pin | None) -> Lock:
    """`pin` is of the `project`'s image; it counts if `asked` asks for the same one."""
    new, arch = old, project.machine.arch
    if pin and asked.machine.boxes.get(arch) == project.machine.box:
        new = new.with_pin(asked.machine.name, arch, pin)
    for address in addresses.of(asked.machine.steps):
        if address.sha256:
            known = old.files.get(address.url)
            size = known.size if known and known.sha256 == address.sha256 else 0
            new = new.with_file(address.url, FilePin(address.sha256, size or artefacts.size(address.sha256)))
    return new


def committed(project: Project) -> Project:
    """What is everybody's: the lock is committed, so nothing of Devboxfile.local belongs into it."""
    if not (project.root / paths.LOCAL_FILE).exists():
        return project
    try:
        return addresses.completed(build.load(project.root, committed=True))
    except DevboxError:
        return replace(project, machine=replace(project.machine, boxes={}, steps=()))


def moves(old: Lock, new: Lock) -> Iterator[str]:
    """What the lock had before and has otherwise now: a line for each, old → new."""
    for key, pin in new.pins.items():
        before = old.pins.get(key)
        if before and (before.source, str(before)) != (pin.source, str(pin)):
            what = pin.source if before.source == pin.source else f"{before.source} → {pin.source}"
            address = f", from {pin.url}" if pin.url != before.url and pin.url else ""
            yield f"{what} ({key[1]}): {_short(before)} → {_short(pin)}{address}"
    for url, file in new.files.items():
        earlier = old.files.get(url)
        if earlier and earlier.sha256 != file.sha256:
            yield f"{url.partition('?')[0]}: {_short(earlier)} → {_short(file)}"


def _short(pin: Pin | FilePin) -> str:
    name, _, value = str(pin).rpartition(":")
    return f"{name}:{value[:16]}…"
