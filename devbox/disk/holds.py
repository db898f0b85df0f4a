"""Who has what of the store: digests that machines' records name, and files that their folders have hard links of."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from devbox import fs, paths
from devbox.disk import record as records
from devbox.disk import trash
from devbox.disk.record import Damaged
from devbox.fs import Place


def of_machines() -> tuple[Mapping[str, str], Mapping[Place, str]]:
    """Digest → machine, file → machine. A machine is told by its project; destroyed ones have files, and no digests.

    A machine in the trash has all that it needs in its folder.
    """
    digests: dict[str, str] = {}
    files: dict[Place, str] = {}
    for entry, _ in trash.entries():
        name = f"{whose(entry) or entry.name}, in the trash"
        files.update({(info.st_dev, info.st_ino): name for _, info in fs.walk(entry)})
    for one in records.all_records():
        name = f"the damaged machine {one.id}" if isinstance(one, Damaged) else str(one.project)
        folder = one.folder if isinstance(one, Damaged) else one.dir.folder
        files.update({(info.st_dev, info.st_ino): name for _, info in fs.walk(folder)})
        if not isinstance(one, Damaged):
            digests.update({digest: name for digest in (one.image, one.layer) if digest})
    return digests, files


def whose(folder: Path) -> str:
    """The project of a machine or a data disk that was put into the trash; "" where it cannot be read."""
    for file, suffix in (("record.json", ""), ("data.json", ", data disk")):
        with suppress(OSError, ValueError, KeyError, TypeError):
            return f"{json.loads((folder / file).read_bytes())['project']}{suffix}"
    return ""


def data() -> Mapping[Path, str]:
    """The folders of data disks, each with its project and its name there."""
    found: dict[Path, str] = {}
    for folder in sorted(paths.data_dir().glob("*")):
        found[folder] = folder.name
        with suppress(OSError, ValueError, KeyError, TypeError):
            stored = json.loads((folder / "data.json").read_bytes())
            found[folder] = f"{stored['name']} of {stored['project']}"
    return found
