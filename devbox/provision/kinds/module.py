"""`module`: a kernel module, loaded now and at every boot, or neither. `-` and `_` are the same in its name.

Its options count when it is loaded, so those of one that is loaded already count from its next load: taking a module
out may take a disk or the network with it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from shlex import quote
from typing import Any

from devbox.provision.facts import Facts
from devbox.provision.kinds import file as file_kind
from devbox.provision.kinds.file import File
from devbox.provision.step import Action, Kind, Source, State, invalid

LOADED = "/sys/module"
LIBRARY = "/lib/modules"
BOOT = "/etc/modules-load.d"  # systemd's, and OpenRC's too
OPTIONS = "/etc/modprobe.d"


@dataclass(frozen=True, slots=True)
class Module:
    name: str  # with underscores, as the kernel shows it
    present: bool = True
    boot: bool = True
    options: str = ""

    @property
    def boot_file(self) -> File:
        return File(f"{BOOT}/devbox-{self.name}.conf", f"{self.name}\n".encode() if self.boot else b"", "0644")

    @property
    def options_file(self) -> File:
        line = f"options {self.name} {self.options}\n" if self.options else ""
        return File(f"{OPTIONS}/devbox-{self.name}.conf", line.encode(), "0644")


def parse(raw: str | Mapping[str, Any], source: Source) -> Module:  # noqa: ARG001
    stated: Mapping[str, Any] = {"name": raw} if isinstance(raw, str) else raw
    present = stated.get("state", "present") == "present"
    boot: bool = stated.get("boot", present)
    options = _options(stated.get("options", ""))
    if not present and (boot or options):
        raise invalid(f"a module that is to be absent has no `{'boot: true' if boot else 'options'}`")
    return Module(stated["name"].replace("-", "_"), present, boot, options)


def _options(written: str | Mapping[str, Any]) -> str:
    if isinstance(written, str):
        if any(ord(letter) < 32 and letter != "\t" for letter in written.strip()):
            raise invalid("`options` must be one line of text")
        return " ".join(written.split())
    return " ".join(f"{name}={_word(name, value)}" for name, value in written.items())


def _word(name: str, value: Any) -> str:
    if isinstance(value, list):
        return ",".join(_word(name, item) for item in value)
    text = ("N", "Y")[value] if isinstance(value, bool) else str(value)
    if not text or any(not letter.isprintable() or letter in ' "#\\' for letter in text):
        raise invalid(f"the option {name} must be one word without quotes")
    return text


_FUNCTIONS = """
# Of those built into the kernel, only the ones with parameters are below /sys/module.
is_builtin() {
  read -r release </proc/sys/kernel/osrelease
  grep -Eqs "/$pattern\\.ko" "$library/$release/modules.builtin"
}
first_line() { line=''; [ ! -f "$1" ] || read -r line <"$1" || :; }
"""


def _words(module: Module) -> str:
    return (
        f"name={module.name} pattern={quote(module.name.replace('_', '[-_]'))} loaded={LOADED}/{module.name}\n"
        f"library={LIBRARY}\nboot_file={quote(module.boot_file.path)} options_file={quote(module.options_file.path)}\n"
        f"{_FUNCTIONS}"
    )


_PROBE = """if [ -d "$loaded" ] || is_builtin; then field loaded yes; else field loaded no; fi
first_line "$boot_file"
if [ "$line" = "$name" ]; then field boot yes; elif [ -e "$boot_file" ]; then field boot other; else field boot no; fi
first_line "$options_file"
case $line in
  '') [ ! -e "$options_file" ] || field options '' ;;
  "options $name "*) field options "${line#"options $name "}" ;;
  *) field options other ;;
esac"""


def probe(module: Module) -> str:
    return f"{_words(module)}{_PROBE}"


def desired(module: Module, facts: Facts) -> State:  # noqa: ARG001
    state = (("loaded", _yes(module.present)), ("boot", _yes(module.boot)))
    return (*state, ("options", module.options)) if module.options else state


def _yes(value: bool) -> str:  # noqa: FBT001
    return "yes" if value else "no"


_LOAD = """
if [ -d "$loaded" ] || is_builtin; then
  [ -z "$stale" ] || echo "$name is loaded already; its options count from its next load, which is at the next boot."
else
  have modprobe || fail "There is no modprobe in this guest: install the package kmod."
  modprobe "$name" || {
    read -r release </proc/sys/kernel/osrelease
    [ -d "$library/$release" ] || fail "There are no modules of the running kernel $release: reboot into the new one."
    fail "The kernel $release has no module $name that it can load; a kernel made for clouds has few."
  }
fi
"""

_UNLOAD = """
if [ -d "$loaded" ]; then
  [ -e "$loaded/initstate" ] || fail "$name is built into the kernel and cannot be taken out."
  modprobe -r "$name" || fail "$name cannot be taken out: something uses it."
elif is_builtin; then
  fail "$name is built into the kernel and cannot be taken out."
fi
"""


def apply(module: Module, facts: Facts) -> Action:  # noqa: ARG001
    files: dict[str, bytes] = {}
    # Options before the load, for which they count; the list of the boot last, so that it names nothing that fails.
    script = [
        _words(module),
        f'first_line "$options_file"\nstale=\'\'\n[ "$line" = {quote(_line(module))} ] || stale=1\n',
    ]
    script.append(_made(module.options_file, "options", files))
    if module.present:
        script += [_LOAD, _made(module.boot_file, "boot", files)]
    else:
        script += [_made(module.boot_file, "boot", files), _UNLOAD]
    return Action("".join(script).encode(), files)


def _line(module: Module) -> str:
    return module.options_file.content.decode().rstrip("\n")


def _made(file: File, name: str, files: dict[str, bytes]) -> str:
    if not file.content:
        return f"rm -f {quote(file.path)}\n"
    files[name] = file.content
    return file_kind.replacement(file, name)


KIND = Kind(parse=parse, probe=probe, desired=desired, apply=apply)
