"""`repository`: a source of packages and its key, as the guest's own package manager writes them.

The state is what its list says, field by field, and the digest of its key. A change makes the package index old.
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from shlex import quote
from typing import Any
from urllib.parse import urlsplit

from devbox.provision import artefacts, inputs, rendering
from devbox.provision.facts import Facts
from devbox.provision.kinds import file
from devbox.provision.kinds.packages import MANAGERS
from devbox.provision.step import Action, Kind, Reads, Source, State, invalid

ETC = "/etc"
_KEY = "key"  # its name among the step's files, or among its large ones
_LIST = "list"


@dataclass(frozen=True, slots=True)
class Key:
    """Its bytes, or where they come from."""

    sha256: str
    content: bytes = b""
    url: str = ""
    name: str = ""  # the file's, for apk: the index of a repository names the key that it is signed with


@dataclass(frozen=True, slots=True)
class Repository:
    name: str
    present: bool = True
    url: str = ""
    suite: str = ""
    components: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    key: Key | None = None
    gpgcheck: bool = True

    @property
    def key_name(self) -> str:
        """What the file of an apk key is called."""
        return (self.key.name if self.key else "") or f"{self.name}.rsa.pub"


def parse(raw: Mapping[str, Any], source: Source) -> Repository:
    suite, components = raw.get("suite", ""), tuple(raw.get("components", ()))
    for title in ("url", "suite"):
        rendering.check(raw.get(title, ""), title)
    if suite.endswith("/") and components:
        raise invalid("a suite that ends in `/` is a folder, and has no components")
    present = raw.get("state", "present") == "present"
    if present and "url" not in raw:
        raise invalid("url is missing")
    key = _key(raw["key"], source, present=present) if "key" in raw else None
    architectures = tuple(raw.get("architectures", ()))
    return Repository(
        raw["name"], present, raw.get("url", ""), suite, components, architectures, key, raw.get("gpgcheck", True)
    )


def _key(raw: Mapping[str, Any], source: Source, *, present: bool) -> Key:
    if "url" in raw:
        sha256 = artefacts.digest(raw) if present else ""  # nothing is fetched to be taken away
        return Key(sha256, url=raw["url"], name=raw.get("name", "") or _last(urlsplit(raw["url"]).path))
    content = raw["content"].encode() if "content" in raw else inputs.read_file(source.root, raw["src"])
    # An OpenPGP packet begins with a byte above 127; all else is armoured, as the keys of apk are, too.
    if b"-----BEGIN " not in content and content[:1] <= b"\x7f":
        raise invalid(f"{raw.get('src', 'the content of key')} is not a public key")
    return Key(hashlib.sha256(content).hexdigest(), content, name=raw.get("name", "") or _last(raw.get("src", "")))


def _last(path: str) -> str:
    name = PurePosixPath(path).name
    return name if name.endswith(".pub") else ""


def render(repository: Repository, facts: Facts) -> Repository:
    """With the names that `url` and `suite` refer to filled in, and the guest's own suite where none is asked for."""
    url, suite = (_render(repository, title, facts) for title in ("url", "suite"))
    components = repository.components
    if facts.manager == "apt" and repository.present:
        suite = suite or facts.codename
        if not suite:
            raise invalid("this guest has no codename, so suite must be stated")
        components = components or (() if suite.endswith("/") else ("main",))
    return dataclasses.replace(repository, url=url, suite=suite, components=components)


def _render(repository: Repository, title: str, facts: Facts) -> str:
    text: str = getattr(repository, title)
    text = rendering.render(text, facts.names, title) if "{" in text else text
    if any(letter.isspace() for letter in text):
        raise invalid(f"{title} has a space in it: {text!r}")
    return text


def reads(repository: Repository) -> Reads:
    name = repository.name
    return Reads(
        files=(
            f"{ETC}/apt/keyrings/{name}.asc",
            f"{ETC}/apt/keyrings/{name}.gpg",
            f"{ETC}/pki/rpm-gpg/RPM-GPG-KEY-devbox-{name}",
            f"{ETC}/apk/keys/{repository.key_name}",
            f"{ETC}/pacman.d/devbox-{name}.key",
        )
    )


def probe(repository: Repository) -> str:
    return f"probe_repository {quote(repository.name)} {quote(repository.key_name)}"


def _fields(asked: Repository, manager: str) -> State:
    """What the list says, in its own words and order. Raises `step.invalid` for what this family does not know."""
    words = (("suite", asked.suite), ("components", asked.components), ("architectures", asked.architectures))
    unknown = [name for name, value in words if value and manager != "apt"]
    unknown += ["gpgcheck: false"] if manager == "apk" and not asked.gpgcheck else []
    if unknown:
        raise invalid(f"{manager} has no {', '.join(unknown)}; choose the step by `if: {{os: …}}`")
    check = "1" if asked.gpgcheck else "0"
    fields: State
    if manager == "apt":
        fields = (
            ("Types", "deb"),
            ("URIs", asked.url),
            ("Suites", asked.suite),
            ("Components", " ".join(asked.components)),
            ("Architectures", " ".join(asked.architectures)),
            ("Trusted", "" if asked.gpgcheck else "yes"),
            ("Signed-By", _KEY if asked.key else ""),
        )
    elif manager in ("dnf", "zypper"):
        fields = (
            ("section", f"[{asked.name}]"),
            ("name", asked.name),
            ("baseurl", asked.url),
            ("enabled", "1"),
            ("autorefresh", "1" if manager == "zypper" else ""),
            ("gpgcheck", check),
            ("gpgkey", f"file://{ETC}/pki/rpm-gpg/RPM-GPG-KEY-devbox-{asked.name}" if asked.key else ""),
        )
    elif manager == "pacman":
        fields = (("Server", asked.url), ("SigLevel", "" if asked.gpgcheck else "Never"))
    else:
        fields = (("url", asked.url),)
    return tuple((name, value) for name, value in fields if value)


def desired(repository: Repository, facts: Facts) -> State:
    asked = render(repository, facts)
    if not asked.present:
        return ()
    key = (("key", asked.key.sha256),) if asked.key else ()
    return (*_fields(asked, facts.manager), *key)


def _list(asked: Repository, manager: str) -> str:
    """The list's text; where apt finds the key is told in the guest, which knows what sort of key it is."""
    head = {"apk": f"# devbox: {asked.name}\n", "pacman": f"[{asked.name}]\n"}
    text = head.get(manager, "# Written by devbox.\n")
    for name, value in _fields(asked, manager):
        if name == "section" or manager == "apk":
            text += f"{value}\n"
        elif name != "Signed-By":
            text += f"{name}{': ' if manager == 'apt' else ' = ' if manager == 'pacman' else '='}{value}\n"
    return text


_READABLE = file.File("/", b"", mode="0644")  # apt reads list and key as an account of its own
_PUT = f"""put() (
path=$2
load_paths "$path"
path_state "$path" || type=''
[ "$type" != directory ] || fail "$path is a folder."
{file.replacing(_READABLE, 'cat "$1" >"$aside"')}{file.own(_READABLE)})
"""


@cache
def _shell() -> str:
    return _PUT + Path(__file__).with_suffix(".sh").read_text()


def apply(repository: Repository, facts: Facts) -> Action:
    asked, key = render(repository, facts), repository.key if repository.present else None
    files = {}
    if asked.present and facts.manager in MANAGERS:
        files[_LIST] = _list(asked, facts.manager).encode()
    if key and not key.url:
        files[_KEY] = key.content
    words = (
        f"name={quote(asked.name)} key_name={quote(asked.key_name)} unwanted=''\n"
        f"key_sha256={key.sha256 if key else chr(39) * 2} key_comes={'1' if key and key.url else ''}\n"
    )
    incoming = {_KEY: artefacts.path(key.sha256)} if key and key.url else {}
    return Action(f"{words}{_shell()}".encode(), files, incoming=incoming)


def fetch(repository: Repository) -> None:
    if repository.present and repository.key and repository.key.url:
        artefacts.ensure(repository.key.url, repository.key.sha256, title=f"key of {repository.name}")


KIND = Kind(parse=parse, probe=probe, desired=desired, apply=apply, reads=reads, identity=render, fetch=fetch)
