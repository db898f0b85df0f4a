"""Machines that an `up` was killed over before they had a disk: only a record and keys that no guest has seen."""

import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

from devbox.config.model import Firmware, MachineSpec
from devbox.disk import record as records
from devbox.disk.record import Record
from devbox.errors import DevboxError

if TYPE_CHECKING:
    from devbox.box.store import Image


def forget_outdated(record: Record, spec: MachineSpec, image: "Image", firmware: Firmware) -> bool:
    """Remove the record where it has no disk and means another machine than is asked for now; whether it did."""
    asked = (image.sha256, spec.arch, spec.disk, firmware, spec.user.name, spec.user.uid, spec.user.gid)
    made = (record.image, record.arch, record.disk_size, record.firmware, record.user, record.uid, record.gid)
    if asked == made or os.path.lexists(record.dir.disk):
        return False
    with suppress(DevboxError), records.locked(record):
        if not os.path.lexists(record.dir.disk):  # another `up` may have made it meanwhile
            shutil.rmtree(record.dir.folder)
            return True
    return False
