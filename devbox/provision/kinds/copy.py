"""`copy`: a folder of the project with all that lies in it. What differs in the guest is replaced, file by file; what
is there beside it is left alone unless `delete` is asked for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from devbox.paths import PROJECT_DIR
from devbox.provision import inputs, tree
from devbox.provision.facts import Facts
from devbox.provision.step import Action, Kind, Source, State, invalid
from devbox.provision.tree import Stated, Tree

_MANIFEST = "manifest"
_MOST = 20_000  # files; the probe carries a line for each


@dataclass(frozen=True, slots=True)
class Copy:
    source: Path
    dest: str
    tree: Tree
    stated: Stated = Stated()
    ignore: tuple[str, ...] = ()
    delete: bool = False

    @property
    def is_called(self) -> str:
        return f"{len(self.tree.files)} as in the project ({self.tree.digest[:12]})"

    @property
    def functions(self) -> str:
        return tree.shell(self.dest, self.stated, self.is_called, only=self.ignore if self.delete else None)


def parse(raw: Mapping[str, Any], source: Source) -> Copy:
    folder = inputs.folder(source.root, raw["src"])
    globs = [glob.rstrip("/") for glob in raw.get("ignore", ())]
    if folder == source.root.resolve():
        globs += [f"/{name}" for name in (".git", PROJECT_DIR)]
    stated = Stated(raw.get("owner", ""), raw.get("group", ""), inputs.mode(raw.get("mode")))
    ignore = tuple(filter(None, globs))
    found = tree.of_folder(folder, ignore, as_program=stated.is_program)
    if len(found.files) > _MOST:
        raise invalid(
            f"{raw['src']} holds {len(found.files)} files; share the folder instead of copying it (`folders`)"
        )
    dest = inputs.absolute(raw["dest"])
    return Copy(folder, dest, found, stated, ignore, raw.get("delete", False))


def probe(copy: Copy) -> str:
    return f"{copy.functions}tree={quote(copy.tree.manifest)}\ntree_state"


def desired(copy: Copy, facts: Facts) -> State:  # noqa: ARG001
    return (("files", copy.is_called),)


_APPLY = """
tree=$(cat "$files/manifest")
case $nl$tree in *"${nl}f "*) [ -d "$incoming/tree" ] || stale ;; esac
tree_begin
[ ! -d "$incoming/tree" ] || cp -R "$incoming/tree/." "$aside/"
tree_make
tree_remove
tree_put
"""


def apply(copy: Copy, facts: Facts) -> Action:  # noqa: ARG001
    return Action(
        f"{copy.functions}{_APPLY}".encode(),
        {_MANIFEST: copy.tree.manifest.encode()},
        incoming={f"tree/{file.name}": copy.source / file.name for file in copy.tree.files},
    )


def identity(copy: Copy, facts: Facts) -> Any:  # noqa: ARG001
    """Without the folder of this computer."""
    return {
        "dest": copy.dest,
        "tree": copy.tree.digest,
        "stated": copy.stated,
        "ignore": copy.ignore,
        "delete": copy.delete,
    }


KIND = Kind(parse=parse, probe=probe, desired=desired, apply=apply, identity=identity)
