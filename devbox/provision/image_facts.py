"""The stable facts of a guest, remembered by its image: so that a second machine's steps have their digests before it
has booted. Losing them costs one start from the image itself.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from devbox import fs, paths
from devbox.provision import script, wire
from devbox.provision.context import Context

if TYPE_CHECKING:
    from devbox.guest.connection import Guest


def recall(image: str) -> Mapping[str, str] | None:
    """What was remembered of the image with this sha256."""
    with suppress(OSError, ValueError):
        raw = json.loads(_file(image).read_bytes())
        if isinstance(raw, dict) and all(isinstance(value, str) for value in raw.values()):
            return raw
    return None


def learn(guest: "Guest", image: str, context: Context) -> Mapping[str, str]:
    """What the guest says now, remembered. Raises what looking at a guest raises."""
    own = context.run()
    text = script.probe(own, {}, diff=False)
    answer = wire.probe(guest, text, own.id, user=context.run_user, slowdown=context.slowdown)
    fs.make_private_dir(_file(image).parent)
    fs.write_atomic(_file(image), json.dumps(dict(answer.stable)).encode())
    return answer.stable


def _file(image: str) -> Path:
    return paths.cache_dir() / "facts" / f"{image}.json"
