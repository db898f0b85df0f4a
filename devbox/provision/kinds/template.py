"""`template`: a `file` whose content is rendered on this computer, sandboxed, from a closed set of facts."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from devbox.provision import inputs, rendering
from devbox.provision.facts import Facts
from devbox.provision.kinds import file
from devbox.provision.kinds.file import File
from devbox.provision.step import Action, Kind, Reads, Source, State, invalid


@dataclass(frozen=True, slots=True)
class Template:
    file: File  # all but its content
    text: str
    vars: Mapping[str, Any]
    title: str  # of the template, for messages


def parse(raw: Mapping[str, Any], source: Source) -> Template:
    title = raw.get("src", "the template")
    try:
        text = raw["content"] if "content" in raw else inputs.read_file(source.root, raw["src"]).decode()
    except UnicodeDecodeError:
        raise invalid(f"{title} is not UTF-8 text") from None
    rendering.check(text, title)
    shape = file.parse({**{k: v for k, v in raw.items() if k not in ("src", "vars")}, "content": ""}, source)
    return Template(shape, text, MappingProxyType(dict(raw.get("vars", {}))), title)


def render(template: Template, facts: Facts) -> File:
    """The file that the template makes with these facts. Raises `step.invalid`, for an unknown name for one."""
    names = {**facts.names, "vars": dict(template.vars)}
    return replace(template.file, content=rendering.render(template.text, names, template.title).encode())


def reads(template: Template) -> Reads:
    return file.reads(template.file)


def probe(template: Template) -> str:
    return file.probe(template.file)


def desired(template: Template, facts: Facts) -> State:
    return file.desired(render(template, facts), facts)


def apply(template: Template, facts: Facts) -> Action:
    return file.apply(render(template, facts), facts)


def content(template: Template, facts: Facts) -> tuple[str, bytes]:
    return file.content(render(template, facts), facts)


KIND = Kind(parse=parse, probe=probe, desired=desired, apply=apply, reads=reads, identity=render, content=content)
