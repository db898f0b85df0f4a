"""Jinja2 as devbox allows it: sandboxed, strict about unknown names, over a closed set of names, and bounded."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from devbox.provision.step import invalid

if TYPE_CHECKING:
    from jinja2.sandbox import SandboxedEnvironment

# A loop in a template may count to anything; what it makes must still fit.
_LIMIT = 8 << 20


def check(text: str, title: str) -> None:
    """Raises `step.invalid` with the line of a mistake in the template's syntax."""
    from jinja2 import TemplateSyntaxError, meta  # noqa: PLC0415

    try:
        if "secrets" in meta.find_undeclared_variables(_environment().parse(text)):
            raise invalid(
                f"{title} asks for `secrets`, and what a template makes is kept on a disk. A `run` step with "
                '`secrets: [NAME]` sees "$NAME" while it runs, and the file "$DEVBOX_SECRETS/NAME"'
            )
    except TemplateSyntaxError as error:
        raise invalid(f"{title}, line {error.lineno}: {error.message}") from error


def render(text: str, names: Mapping[str, Any], title: str) -> str:
    """What the template makes with these names. Raises `step.invalid`, for an unknown name for one."""
    from jinja2 import TemplateError  # noqa: PLC0415

    made: list[str] = []
    length = 0
    try:
        for piece in _environment().from_string(text).generate(names):
            length += len(piece)
            if length > _LIMIT:
                raise invalid(f"{title} makes more than {_LIMIT >> 20} MiB")
            made.append(piece)
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        known = ", ".join(sorted(names))
        raise invalid(f"{title} cannot be rendered: {error}. It may use {known}") from error
    return "".join(made)


def _environment() -> "SandboxedEnvironment":
    from jinja2 import StrictUndefined  # noqa: PLC0415 - 60 ms that a file without templates does not need
    from jinja2.sandbox import SandboxedEnvironment  # noqa: PLC0415

    return SandboxedEnvironment(  # noqa: S701
        undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False, finalize=_printable
    )


def _printable(value: Any) -> Any:
    """Python's own form of a mapping or a list is never what a file wants."""
    if isinstance(value, Mapping):
        raise ValueError(f"a mapping has no text of its own; take one of {', '.join(map(str, value))}, or `| tojson`")
    if isinstance(value, list | tuple):
        raise ValueError("a list has no text of its own; write `| join(' ')` or `| tojson`")
    return value
