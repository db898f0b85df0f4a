"""Deep chains made flat: all layers above an image as one, since random reads through a deep chain are several times
slower. The flat one takes the deep one's place in the store; machines that stand on the deep one keep it.
"""

import shutil
from pathlib import Path

from devbox import fs, proc
from devbox.box import qcow2, store
from devbox.disk import layers
from devbox.disk.layers import Layer
from devbox.errors import DevboxError

_HOURS = 4 * 3600.0


def is_deep(layer: Layer) -> bool:
    return len(layers.stack(layer)) > layers.DEEPEST


def flatten(layer: Layer) -> Layer:
    """The layer that holds what this one and those under it hold, and stands on the image; in the store, in its place.

    A kill leaves the deep one in its place. Raises `lock.busy` while another devbox works on it, `layer.not-flat`.
    """
    with layers.claim(layer.chain):
        image = store.have(layer.image)
        if image is None or not layers.stack(layer):
            raise _failed(layer, "what it stands on is not in the store any more")
        # Beside the others, so that the name of the image is the same for the tools as for a machine.
        aside = layer.blob.parent / f".flat-{layer.sha256[:16]}"
        aside.unlink(missing_ok=True)
        try:
            shutil.copyfile(layer.blob, aside)
            # Not `convert -B`, which takes the uppermost layer alone (QEMU 7.2).
            _tool(layer, "rebase", "-q", "-f", "qcow2", "-F", image.format, "-b", image.sha256, aside)
            # A layer that is wrong would be wrong in every machine from now on.
            _tool(layer, "compare", "-q", "-f", "qcow2", "-F", "qcow2", layer.blob, aside)
            fs.fsync_file(aside)
            made = layers.flat(layer, fs.sha256_file(aside))
            header = qcow2.inspect(aside, "qcow2", parent=layer.image)
            store.publish(aside, made.sha256, header, label=made.label, keys=[layers.index_key(made.chain)])
        finally:
            aside.unlink(missing_ok=True)
    return made


def _tool(layer: Layer, *words: str | Path) -> None:
    done = proc.run([proc.find_tool("qemu-img"), *words], timeout=_HOURS)
    if done.status != 0:
        raise _failed(layer, done.error_text or done.text)


def _failed(layer: Layer, why: str) -> DevboxError:
    return DevboxError("layer.not-flat", f"The layer {layer.sha256[:12]} could not be made flat.", details=why)
