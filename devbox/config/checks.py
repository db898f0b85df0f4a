"""The `checks` of a Devboxfile: mappings in, `Check`s out. Their names tell them apart, so they must differ."""

from devbox.config import steps, values
from devbox.config.draft import Draft
from devbox.config.model import Check
from devbox.config.problems import Place, show

_PLACE: Place = ("checks",)
_DEFAULTS = Check("", "")


def build(draft: Draft) -> tuple[Check, ...]:
    given: dict[str, int] = {}
    made = []
    for place, raw in draft.each(_PLACE, lambda value: value):
        name, line = raw["name"], draft.document.where((*place, "name")).line
        if name in given:
            draft.problem((*place, "name"), f"the check in line {given[name]} has the name {show(name)} already")
        given.setdefault(name, line)
        at = draft.document.where(place)
        made.append(
            Check(
                name=name,
                run=raw["run"],
                user=raw.get("as", ""),
                timeout=draft.make((*place, "timeout"), values.duration, _DEFAULTS.timeout),
                retries=int(raw.get("retries", 0)),
                cwd=raw.get("cwd", ""),
                env=steps.env(draft, (*place, "env")),
                position=f"{at.file}:{at.line}",
            )
        )
    return tuple(made)
