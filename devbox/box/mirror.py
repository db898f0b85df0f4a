"""The Debian mirror that this computer's apt already uses, for a recipe: apt's own files in, archive entries out.

Parsing and choosing are pure. `find` runs `apt-config` and asks the mirror which suites it has; it changes nothing.
"""

import os
import re
import shlex
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from devbox import proc
from devbox.errors import DevboxError

VARIABLE = "DEVBOX_DEBIAN_MIRROR"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_HELPER = "/usr/lib/apt/apt-helper"
# What of the host's apt settings a mirror may need to be reached, or its dates to be believed.
_SETTINGS = re.compile(
    r"Acquire::(https?|Retries|Check-Date|Check-Valid-Until|AllowInsecureRepositories)\b", re.IGNORECASE
)
_FOREVER = re.compile(r"Acquire::Check-(Date|Valid-Until)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Entry:
    """One archive. `signed_by` is a keyring's path, a fingerprint, a key's text, or "" (the host's trusted keys)."""

    uri: str
    suite: str
    components: tuple[str, ...] = ("main",)
    signed_by: str = ""
    trusted: bool = False


@dataclass(frozen=True, slots=True)
class Mirror:
    """`entries` for the build, `settings` of the host's apt for it; some of those the guest's apt needs too."""

    entries: tuple[Entry, ...]
    settings: tuple[str, ...] = ()

    @property
    def guest_settings(self) -> tuple[str, ...]:
        return tuple(line for line in self.settings if _FOREVER.match(line.split(" ")[0]))


def parse_list(text: str) -> tuple[Entry, ...]:
    """The entries of a one-line `sources.list`."""
    found = []
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[([^]]*)\]\s+)?(\S+)\s+([^\s#]+)([^#]*)", line)
        if match:
            options = dict(word.split("=", 1) for word in (match[1] or "").split() if "=" in word)
            found.append(
                Entry(
                    match[2].rstrip("/"),
                    match[3],
                    tuple(match[4].split()),
                    options.get("signed-by", ""),
                    options.get("trusted", "").lower() in {"yes", "true", "1"},
                )
            )
    return tuple(found)


def parse_deb822(text: str) -> tuple[Entry, ...]:
    """The entries of a deb822 `.sources` file: one for each URI and suite."""
    found = []
    for fields in _stanzas(text):
        words = {name: tuple(value.split()) for name, value in fields.items()}
        if "deb" not in words.get("types", ()) or fields.get("enabled", "yes").lower() in {"no", "false", "0"}:
            continue
        found += [
            Entry(
                uri.rstrip("/"),
                suite,
                words.get("components", ()),
                fields.get("signed-by", ""),
                fields.get("trusted", "").lower() in {"yes", "true", "1"},
            )
            for uri in words.get("uris", ())
            for suite in words.get("suites", ())
        ]
    return tuple(found)


def _stanzas(text: str) -> Iterator[dict[str, str]]:
    fields: dict[str, str] = {}
    name = ""
    for line in [*text.splitlines(), ""]:
        if line.startswith("#"):
            continue
        if not line.strip():
            if fields:
                yield fields
            fields, name = {}, ""
        elif line[0] in " \t" and name:
            # A line that holds only a dot stands for an empty one (a key's text has one after its headers).
            fields[name] += "\n" + ("" if line.strip() == "." else line.strip())
        elif ":" in line:
            name, value = line.split(":", 1)
            name = name.strip().lower()
            fields[name] = value.strip()


def choose(host: tuple[Entry, ...], suite: str, has: Callable[[str, str], bool]) -> tuple[Entry, ...]:
    """The entries for Debian's `suite`, `-updates` and `-security` with it, out of what the host's apt uses.

    What the host does not name is taken from the same mirror if `has(uri, suite)` finds it there. Empty without a
    Debian mirror. Other archives use Debian's suite names too, so the best-looking one is taken; the
    signature is what decides in the end.
    """
    debian = sorted((entry for entry in host if _likeness(entry) > 0 and "main" in entry.components), key=_likeness)[
        ::-1
    ]
    main = next((e for e in debian if e.suite == suite and not _is_security(e)), None) or next(
        (e for e in debian if not _is_security(e) and "-" not in e.suite), None
    )
    if main is None:
        return ()
    security = next((e for e in debian if _is_security(e)), None)
    wanted = [replace(main, suite=suite), replace(main, suite=f"{suite}-updates")]
    wanted += [replace(security, suite=f"{suite}-security")] if security else []
    named = {(entry.uri, entry.suite) for entry in host}
    has_suite = any(entry.suite == suite for entry in debian)
    kept = [
        entry
        for entry in wanted
        if entry.suite == suite or (entry.uri, entry.suite) in named or (not has_suite and has(entry.uri, entry.suite))
    ]
    return tuple(replace(entry, components=("main",)) for entry in kept)


def _likeness(entry: Entry) -> int:
    """How much this looks like Debian's own archive; 0 is not at all."""
    path = urlsplit(entry.uri).path.rstrip("/")
    if Path(path).name in {"ubuntu", "ubuntu-ports"} or "ubuntu" in entry.signed_by:
        return 0
    return 2 * ("debian-archive" in entry.signed_by) + (Path(path).name in {"debian", "debian-security"})


def _is_security(entry: Entry) -> bool:
    return entry.suite.endswith(("-security", "/updates"))


def from_url(url: str, suite: str, has: Callable[[str, str], bool]) -> tuple[Entry, ...]:
    """The entries for a mirror that the user named; its security archive is looked for beside it."""
    url = url.rstrip("/")
    if urlsplit(url).scheme not in {"http", "https", "file"} or not has(url, suite):
        raise DevboxError(
            "recipe.mirror",
            f"{VARIABLE} names {_without_password(url)}, where there is no Debian suite `{suite}`.",
            hint=f"It is the folder above `dists/{suite}`, such as https://SERVER/debian: set {VARIABLE} to that.",
        )
    more = [Entry(url, f"{suite}-updates"), Entry(f"{url}-security", f"{suite}-security")]
    return (Entry(url, suite), *(entry for entry in more if has(entry.uri, entry.suite)))


def find(suite: str) -> Mirror:
    """The mirror for Debian's `suite`. Raises `recipe.no-mirror` and `recipe.mirror`."""
    config = apt_config()
    settings = tuple(f'{key} "{value}";' for key, value in config if _SETTINGS.match(key) and value)
    named = os.environ.get(VARIABLE, "")
    entries = from_url(named, suite, _has_suite) if named else choose(_host_entries(), suite, _has_suite)
    if not entries:
        raise DevboxError(
            "recipe.no-mirror",
            "This computer's apt uses no Debian mirror, and a recipe needs one.",
            hint=f"Name one: set {VARIABLE} to the folder above `dists/{suite}`, such as https://SERVER/debian",
        )
    return Mirror(entries, settings)


def apt_config() -> tuple[tuple[str, str], ...]:
    """apt's settings, in order. Raises `recipe.no-apt`."""
    try:
        dump = proc.run([proc.find_tool("apt-config"), "dump"], timeout=30)
    except DevboxError as missing:
        raise DevboxError(
            "recipe.no-apt",
            "Recipes build a Debian image with apt, and this computer has no apt.",
            hint="Use the ready image instead: `box: debian-12` without `recipe`.",
        ) from missing
    return tuple((match[1], match[2]) for match in re.finditer(r'^(\S+) "(.*)";$', dump.text, re.MULTILINE))


def _host_entries() -> tuple[Entry, ...]:
    names = proc.run(
        [proc.find_tool("apt-config"), "shell", "list", "Dir::Etc::sourcelist/f", "parts", "Dir::Etc::sourceparts/d"],
        timeout=30,
    )
    places = dict(word.split("=", 1) for word in shlex.split(names.text))
    files = [Path(places.get("list", "/etc/apt/sources.list")), *sorted(Path(places.get("parts", "/")).glob("*"))]
    found: list[Entry] = []
    for file in files:
        if file.suffix in {".list", ".sources"} and file.is_file():
            text = file.read_text(errors="replace")
            found += parse_deb822(text) if file.suffix == ".sources" else parse_list(text)
    return tuple(expand(entry) for entry in found)


def expand(entry: Entry) -> Entry:
    """`mirror+file:` names a list of mirrors on this computer: its first is taken. Everything else stays as it is."""
    if not entry.uri.startswith("mirror+file:"):
        return entry
    listing = Path(entry.uri.removeprefix("mirror+file:"))
    lines = listing.read_text(errors="replace").splitlines() if listing.is_file() else []
    first = next((line.split()[0] for line in lines if line.strip() and not line.startswith("#")), entry.uri)
    return replace(entry, uri=first.rstrip("/"))


def _has_suite(uri: str, suite: str) -> bool:
    """Whether the mirror has the suite: asked by apt's own downloader, so with its proxies and accounts."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("InRelease", "Release"):
            asked = proc.run([_HELPER, "download-file", f"{uri}/dists/{suite}/{name}", f"{folder}/{name}"], timeout=60)
            if asked.status == 0:
                return True
    return False


def source_lines(entries: tuple[Entry, ...], keyring: Mapping[str, str]) -> str:
    """The entries as deb822 text. `keyring` maps a `signed_by` to the path it has where the text will be read."""
    stanzas = []
    for entry in entries:
        lines = [
            "Types: deb",
            f"URIs: {entry.uri}",
            f"Suites: {entry.suite}",
            f"Components: {' '.join(entry.components)}",
        ]
        if entry.trusted:
            lines.append("Trusted: yes")
        if entry.signed_by or "" in keyring:
            lines.append(f"Signed-By: {keyring.get(entry.signed_by, entry.signed_by)}")
        stanzas.append("\n".join(lines) + "\n")
    return "\n".join(stanzas)


def for_guest(entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
    """What of it a guest may and can use: no password goes into an image, and a `file:` mirror is out of its reach."""
    return tuple(
        replace(entry, uri=_without_password(entry.uri))
        for entry in entries
        if urlsplit(entry.uri).scheme in {"http", "https"}
    )


def _without_password(uri: str) -> str:
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
