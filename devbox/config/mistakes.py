"""A schema library's error in; what a newcomer can act on out: one place and one sentence for each mistake.

A schema may bring its own sentence as `errorMessage`. Errors are typed Any, since only `contract` knows the library.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from devbox.config import values
from devbox.config.problems import Document, Place, Problem, show
from devbox.version import __version__

NOT_YET = f"is part of format 1, but devbox {__version__} does not carry it out yet"

_TYPES = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list (lines that begin with `- `)",
    "object": "a mapping (`key: value` lines)",
    "null": "nothing",
}
# What other tools call it.
_ALIASES = {
    "apt": "packages", "package": "packages", "pkg": "packages", "install": "packages",
    "shell": "run", "command": "run", "cmd": "run", "inline": "run", "exec": "run",
    "copy_file": "file", "dir": "directory", "systemd": "service", "systemd_service": "service",
    "image": "box", "base": "box", "volumes": "folders", "mounts": "folders", "synced_folders": "folders",
    "synced_folder": "folders", "shares": "folders", "port": "ports", "forwarded_ports": "ports",
    "ram": "memory", "mem": "memory", "vcpus": "cpus", "cpu": "cpus", "cores": "cpus", "disk_size": "disk",
    "environment": "env", "variables": "env", "steps": "provision", "tasks": "provision",
    "provisioners": "provision", "depends_on": "needs", "notify": "needs", "become_user": "as", "sudo": "as",
    "timezone_name": "timezone", "tz": "timezone", "source": "src", "dest": "path", "destination": "path",
    "permissions": "mode", "architecture": "arch", "platform": "arch", "workdir": "cwd", "chdir": "cwd",
    "checksum": "sha256", "read_only": "readonly", "exclude": "ignore", "title": "name",
    "lineinfile": "line", "blockinfile": "block", "regexp": "match", "regex": "match", "insertafter": "after",
    "insertbefore": "before", "block": "content", "apt_repository": "repository", "yum_repository": "repository",
    "get_url": "download", "unarchive": "download", "modprobe": "module", "kernel_module": "module",
    "wait_for": "wait", "symlink": "link", "become": "as", "repo": "url", "version": "ref", "branch": "ref",
    "group": "gid",
}  # fmt: skip
# What other tools say by a key that no key here stands for; the kind, or "" for the step, then the key.
_ADVICE = {
    ("file", "state"): "the kinds `absent`, `directory` and `link` are for that",
    ("copy", "content"): "`file` writes a text",
    ("directory", "recurse"): "`copy` states what lies in a folder",
    ("link", "src"): "did you mean `target`?",
    ("link", "dest"): "did you mean `path`?",
    ("run", "chdir"): "`cwd` beside `run` says the folder",
    ("", "vars"): "a `template` takes `vars`; `env` is seen by every step",
    ("", "loop"): "most kinds take a list; else make several steps",
    ("", "with_items"): "most kinds take a list; else make several steps",
    ("", "register"): "`needs` tells a step that another has changed something",
    ("", "ignore_errors"): "let the command itself succeed, by `|| true`",
    ("", "handlers"): "a step at the end that `needs` others acts when they change something",
}

_ADVICE_ON_WORDS = {
    "restarted": "; a change in a step that it `needs` restarts it",
    "reloaded": "; with `reload: true`, a change in a step that it `needs` reloads it",
    "running": "; did you mean `started`?",
}


def explain(error: Any, document: Document, root: Mapping[str, Any]) -> Iterator[Problem]:
    """The problems that one error of the schema library stands for; `root` is the whole schema."""
    place: Place = tuple(error.absolute_path)
    path = tuple(error.schema_path)
    if "propertyNames" in path[-2:-1]:
        sentence = error.schema.get("errorMessage", "there is no such key")
        yield document.problem((*place, error.instance), sentence, at_key=True)
    elif error.validator == "additionalProperties":
        yield from _unknown_keys(error, document, root)
    elif error.validator == "required":
        guesses = {_guess(key, error.schema.get("properties", {})) for key in _strangers(error)}
        advised = " ".join(_ADVICE.get((str(place[-1]) if place else "", key), "") for key in _strangers(error))
        for name in error.validator_value:
            if name not in error.instance and name not in guesses and f"`{name}`" not in advised:
                yield document.problem(place, f"`{name}` is missing")
    elif error.validator in {"oneOf", "anyOf"}:
        yield from _alternatives(error, document, root)
    elif error.validator == "x-not-yet":
        named = f"{place[-1]}: {error.instance}" if "then" in path[-2:-1] else f"{place[-1]}"
        yield document.problem(place, f"`{named}` {NOT_YET}", at_key=True)
    else:
        yield document.problem(place, _sentence(error, document, place))


def _strangers(error: Any) -> list[str]:
    """The keys of the mapping at fault that its schema does not know."""
    known = error.schema.get("properties", {})
    return [key for key in error.instance if key not in known] if isinstance(error.instance, dict) else []


def _guess(key: str, known: Mapping[str, Any]) -> str:
    alias = _ALIASES.get(key.lower().replace("-", "_"), "")
    if alias in known:
        return alias
    close = difflib.get_close_matches(key.lower().replace("-", "_"), known, 1, 0.65)
    return close[0] if close else ""


def _unknown_keys(error: Any, document: Document, root: Mapping[str, Any]) -> Iterator[Problem]:
    known = error.schema.get("properties", {})
    offered = [key for key, schema in known.items() if "x-not-yet" not in schema]
    place: Place = tuple(error.absolute_path)
    for key in _strangers(error):
        guess, home = _guess(key, known), _home(key, error, place, root)
        if home:
            sentence = f"there is no such key here; {home}"
        elif advice := _ADVICE.get((str(place[-1]) if len(place) > 2 else "", key)):
            sentence = f"there is no such key; {advice}"
        elif guess:
            sentence = f"there is no such key; did you mean `{guess}`?"
        elif len(offered) > 12:
            sentence = "there is no such key (`devbox schema` lists all)"
        else:
            sentence = f"there is no such key; there {'is' if len(offered) == 1 else 'are'} {_list(offered, 'and')}"
        yield document.problem((*place, key), sentence, at_key=True)


def _home(key: str, error: Any, place: Place, root: Mapping[str, Any]) -> str:
    """Where a key belongs that stands on the wrong level, as it does after a slip of the indentation."""
    step = root.get("$defs", {}).get("step", {})
    kinds = {branch["required"][0] for branch in step.get("oneOf", ())}
    if not place:
        return f"`{key}` is a kind of step: put it under `provision`" if key in kinds else ""
    if place[0] != "provision" or not kinds:
        outer = kinds and len(place) == 1 and key in root["properties"]
        return f"it does not belong to `{place[0]}`: indent it less" if outer else ""
    if len(place) == 2:
        for kind in kinds & error.instance.keys():
            if key in _all_properties(step["properties"][kind], root):
                return f"it belongs to `{kind}`: indent it further than that"
    elif len(place) == 3 and key in step["properties"] and key not in kinds:
        return f"it belongs to the step: indent it as much as `{place[2]}`"
    return ""


def _resolved(schema: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    while isinstance(schema, dict) and str(schema.get("$ref", "")).startswith("#/"):
        target: Any = root
        for part in schema["$ref"][2:].split("/"):
            target = target[part]
        schema = {**target, **{key: value for key, value in schema.items() if key != "$ref"}}
    return schema if isinstance(schema, dict) else {}


def _all_properties(schema: Any, root: Mapping[str, Any]) -> set[str]:
    schema = _resolved(schema, root)
    branches = [*schema.get("oneOf", ()), *schema.get("anyOf", ())]
    return {*schema.get("properties", {})}.union(*(_all_properties(branch, root) for branch in branches))


def _alternatives(error: Any, document: Document, root: Mapping[str, Any]) -> Iterator[Problem]:
    """Decide which of several forms is meant, and speak of that one only."""
    place: Place = tuple(error.absolute_path)
    branches: Sequence[Any] = error.validator_value
    if all(branch.keys() == {"required"} for branch in branches):
        sentence = _exactly_one(error, [branch["required"][0] for branch in branches])
        if sentence:
            yield document.problem(place, sentence)
        return
    by_branch: dict[int, list[Any]] = {}
    for inner in error.context:
        by_branch.setdefault(inner.schema_path[0], []).append(inner)
    fitting = [inner for inner in by_branch.values() if not any(_wrong_type(one) for one in inner)]
    if isinstance(error.instance, dict | list) and len(fitting) > 1:
        fitting = [min(fitting, key=len)]
    precise = isinstance(error.instance, dict | list) or "errorMessage" not in error.schema
    if len(fitting) == 1 and (precise or all(one.validator in {"minimum", "maximum"} for one in fitting[0])):
        for inner in fitting[0]:
            yield from explain(inner, document, root)
    else:
        types = [kind for branch in branches for kind in _types(_resolved(branch, root))]
        yield document.problem(place, _own_sentence(error, document, place) or _must_be(types, error.instance))


def _wrong_type(error: Any) -> bool:
    return error.validator == "type" and not error.path


def _types(schema: Mapping[str, Any]) -> list[str]:
    kinds = schema.get("type", [])
    return [kinds] if isinstance(kinds, str) else list(kinds)


def _exactly_one(error: Any, names: list[str]) -> str:
    if not isinstance(error.instance, dict):
        return ""  # `required` holds for everything that is no mapping; that it is none is said elsewhere.
    given = [name for name in names if name in error.instance]
    if len(given) > 1:
        if error.schema.get("format") == "step":
            return f"has {_list(given, 'and')}: a step does one thing; make {len(given)} steps of it"
        return f"has {_list(given, 'and')}: give one of them"
    if any(_guess(key, error.schema.get("properties", {})) in {"", *names} for key in _strangers(error)):
        return ""  # Most likely the unknown key is the one that is missing, and is spoken of already.
    if error.schema.get("format") == "step":
        return "does nothing yet: a step needs a kind, such as `packages`, `file`, `service` or `run`"
    known = error.schema.get("properties", {})
    return f"{_list([name for name in names if 'x-not-yet' not in known.get(name, {})], 'or')} is missing"


def _sentence(error: Any, document: Document, place: Place) -> str:
    wanted, value = error.validator_value, error.instance
    if own := _own_sentence(error, document, place):
        return own
    if error.validator == "type":
        return _wrong_type_sentence(_types(error.schema), value, document.written.get(place, ""))
    if error.validator == "enum":
        meant = _condition(place, value) or _ADVICE_ON_WORDS.get(str(value)) or _did_you_mean(value, wanted)
        return f"must be {_list([str(word) for word in wanted], 'or')}, not {show(value)}{meant}"
    if error.validator == "pattern" and str(wanted).startswith("^/"):
        return f"must be an absolute path (it begins with `/`), not {show(value)}"
    examples: list[Any] = next((part.schema["examples"] for part in (error, error.parent) if _has_examples(part)), [])
    example = next((show(one) for one in examples if not isinstance(one, dict | list)), "")
    return {
        "const": f"must be `{wanted}`, not {show(value)}",
        "minimum": f"must be at least {wanted}, not {show(value)}",
        "exclusiveMinimum": f"must be more than {wanted}, not {show(value)}",
        "maximum": f"must be at most {wanted}, not {show(value)}",
        "minLength": "must not be empty",
        "maxLength": f"is too long: {wanted} characters at most",
        "minItems": "must not be an empty list",
        "maxItems": f"has too many entries: {wanted} at most",
        "minProperties": "must not be empty",
        "uniqueItems": "has the same entry twice",
    }.get(error.validator, f"{show(value)} is not what is expected here" + (f"; an example: {example}" * bool(example)))


def _has_examples(error: Any) -> bool:
    return error is not None and isinstance(error.schema, dict) and "examples" in error.schema


def _own_sentence(error: Any, document: Document, place: Place) -> str:
    """The schema's own sentence, with the value and what was probably meant; "" where it has none."""
    own = str(error.schema.get("errorMessage", "")) if isinstance(error.schema, dict) else ""
    if error.instance is None:
        if not place:
            return "the file is empty"
        return f"has no value; give it one, or leave the {'`-`' if isinstance(place[-1], int) else 'key'} out"
    form, value = error.schema.get("format", ""), error.instance
    if form == "step" and isinstance(value, str):
        if value.strip() in error.schema.get("properties", {}):
            return f"must be a mapping with a kind; did you mean `{value.strip()}: {{}}`?"
        return f"must be a mapping with a kind; did you mean `run: {show(value)[1:-1]}`?"
    if not own or not own.startswith("must"):
        return own
    written = document.written.get(place, value)
    guess = values.likely(form, value)
    return f"{own}, not {show(written)}" + (f"; did you mean {show(guess)}?" if guess else "")


def _wrong_type_sentence(types: list[str], value: Any, written: str) -> str:
    if types == ["string"] and isinstance(value, bool | int | float):
        return f'must be text; put it in quotes: "{written or show(value)[1:-1]}"'
    if types == ["boolean"] and str(value).lower() in {"yes", "on", "y", "no", "off", "n"}:
        return f"must be `true` or `false`; did you mean `{str(str(value).lower() in {'yes', 'on', 'y'}).lower()}`?"
    if types in (["integer"], ["number"]) and isinstance(value, str) and value.strip("-").isdecimal():
        return "must be a number: leave out the quotes"
    return _must_be(types, value)


def _must_be(types: list[str], value: Any) -> str:
    kind = "text" if isinstance(value, str) else ""
    wanted = _list([_TYPES[name] for name in dict.fromkeys(types)], "or", quote="")
    return f"must be {wanted}, not {kind and kind + ' '}{f'({show(value)})' if kind else show(value)}"


def _condition(place: Place, value: Any) -> str:
    return "; a condition is written as `if`" if place[-1] == "when" and " " in str(value) else ""


def _did_you_mean(value: Any, wanted: Sequence[Any]) -> str:
    close = difflib.get_close_matches(str(value).lower(), [str(word) for word in wanted], 1, 0.6)
    return f"; did you mean `{close[0]}`?" if close else ""


def _list(words: list[str], joint: str, *, quote: str = "`") -> str:
    quoted = [f"{quote}{word}{quote}" for word in words]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} {joint} {quoted[-1]}"
