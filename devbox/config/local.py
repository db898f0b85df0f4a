"""Devboxfile.local over the Devboxfile: mappings merge by key, scalars and lists replace. Positions follow."""

from typing import Any

from devbox.config.problems import Document, Place, Position

# A box is one thing: half of one image's description and half of another's would describe none.
_REPLACED_WHOLE: frozenset[Place] = frozenset({("box",)})


def merge(base: Document, local: Document) -> Document:
    """One document that holds what `local` says and, where it says nothing, what `base` says."""
    values, keys, written = dict(base.values), dict(base.keys), dict(base.written)
    replaced: set[Place] = set()
    data = _merged(base.data, local.data, (), replaced)
    tables: tuple[dict[Place, Any], ...] = (values, keys, written)
    for table in tables:
        for place in [place for place in table if _within(place, replaced)]:
            del table[place]
    _add(values, local.values, base.values, replaced)
    _add(keys, local.keys, base.keys, replaced)
    written.update(local.written)
    return Document(
        base.name,
        data,
        values,
        keys,
        written,
        (*base.problems, *local.problems),
        base.incomplete or local.incomplete,
    )


def _add(
    table: dict[Place, Position],
    local: Any,
    base: Any,
    replaced: set[Place],
) -> None:
    # A mapping that is only added to keeps the place where the Devboxfile has it.
    table.update({place: at for place, at in local.items() if place not in base or _within(place, replaced)})


def _within(place: Place, places: set[Place]) -> bool:
    return any(place[:length] in places for length in range(1, len(place) + 1))


def _merged(base: Any, local: Any, place: Place, replaced: set[Place]) -> Any:
    if not (isinstance(base, dict) and isinstance(local, dict)) or place in _REPLACED_WHOLE:
        replaced.add(place)
        return local
    merged = dict(base)
    for key, value in local.items():
        inner = (*place, key)
        merged[key] = _merged(base[key], value, inner, replaced) if key in base else value
    return merged
