"""`template`: a `file` whose content is rendered on this computer, sandboxed, from a closed set of facts."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from devbox.provision import inputs
from devbox.provision.facts import Facts
from devbox.provision.kinds import file
from devbox.provision.kinds.file import File
from devbox.provision.step import Action, Kind, Reads, Source, State, invalid

if TYPE_CHECKING:
    from jinja2.sandbox import SandboxedEnvironment

# A loop in a template may count to anything; what it makes must still fit.
_LIMIT = 8 << 20


@dataclass(frozen=True, slots=True)
class Template:
    file: File  # all but its content
    text: str
    vars: Mapping[str, Any]
    title: str  # of the template, for messages


def _environment() -> "SandboxedEnvironment":
    from jinja2 import StrictUndefined  # noqa: PLC0415 - 60 ms that a file without templates does not need
    from jinja2.sandbox import SandboxedEnvironment  # noqa: PLC0415

    return SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)  # noqa: S701


def parse(raw: Mapping[str, Any], source: Source) -> Template:
    from jinja2 import TemplateSyntaxError  # noqa: PLC0415

    title = raw.get("src", "the template")
    try:
        text = raw["content"] if "content" in raw else inputs.read_file(source.root, raw["src"]).decode()
        _environment().parse(text)
    except UnicodeDecodeError:
        raise invalid(f"{title} is not UTF-8 text") from None
    except TemplateSyntaxError as error:
        raise invalid(f"{title}, line {error.lineno}: {error.message}") from error
    shape = file.parse({**{k: v for k, v in raw.items() if k not in ("src", "vars")}, "content": ""}, source)
    return Template(shape, text, MappingProxyType(dict(raw.get("vars", {}))), title)


def render(template: Template, facts: Facts) -> File:
    """The file that the template makes with these facts. Raises `step.invalid`, for an unknown name for one."""
    from jinja2 import TemplateError  # noqa: PLC0415

    names = {**facts.names, "vars": dict(template.vars)}
    made: list[str] = []
    length = 0
    try:
        for piece in _environment().from_string(template.text).generate(names):
            length += len(piece)
            if length > _LIMIT:
                raise invalid(f"{template.title} makes more than {_LIMIT >> 20} MiB")
            made.append(piece)
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        known = ", ".join(sorted(names))
        raise invalid(f"{template.title} cannot be rendered: {error}. It may use {known}") from error
    return replace(template.file, content="".join(made).encode())


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
