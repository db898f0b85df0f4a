"""`sysctl`: kernel settings, set now by /proc/sys and at every boot by one file in /etc/sysctl.d, which is the step's
own: a setting that is taken out of the step is taken out of that file, and keeps its value until the next boot.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from shlex import quote
from typing import Any

from devbox.provision import journal
from devbox.provision.facts import Facts
from devbox.provision.kinds import file as file_kind
from devbox.provision.kinds.file import CONTENT, File
from devbox.provision.step import Action, Kind, Source, State, invalid

PROC = "/proc/sys"
FOLDER = "/etc/sysctl.d"
_BOOT = " at boot"  # the field of what the file says


@dataclass(frozen=True, slots=True)
class Setting:
    name: str  # with dots: net.ipv4.conf.eth0/1.rp_filter
    value: str

    @property
    def path(self) -> str:
        return f"{PROC}/{self.name.translate(_SWAPPED)}"


@dataclass(frozen=True, slots=True)
class Sysctl:
    settings: tuple[Setting, ...]
    file: str

    @property
    def content(self) -> bytes:
        lines = "".join(f"{setting.name} = {setting.value}\n" for setting in self.settings)
        return f"# Written by devbox from a `sysctl` step of the Devboxfile.\n{lines}".encode()


_SWAPPED = str.maketrans("./", "/.")


def _name(written: str) -> str:
    """As sysctl reads names: the first separator decides, and the other sign then stands for itself."""
    first = next((sign for sign in written if sign in "./"), "")
    name = written.translate(_SWAPPED) if first == "/" else written
    if not first or any(part in ("", "/", "//") for part in name.split(".")):
        raise invalid(f"{written} is not the name of a kernel setting, such as vm.swappiness")
    return name


def _value(name: str, written: Any) -> str:
    text = str(written)
    if "\n" in text.strip() or not text.strip():
        raise invalid(f"the value of {name} must be one line of text")
    return " ".join(text.split())  # the kernel itself separates several numbers by tabs


def parse(raw: Mapping[str, Any], source: Source) -> Sysctl:
    detailed = "settings" in raw
    stated: Mapping[str, Any] = raw["settings"] if detailed else raw
    settings = tuple(Setting(_name(name), _value(name, value)) for name, value in stated.items())
    names = [setting.name for setting in settings]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise invalid(f"named more than once: {', '.join(twice)}")
    file = raw.get("file", "") if detailed else ""
    return Sysctl(settings, f"{FOLDER}/{file or f'60-devbox-{journal.slug(source.spec.name)}.conf'}")


# `squeeze` makes one space of each gap.
_FUNCTIONS = f"""squeeze() {{ name=$1; shift; field "$name" "$*"; }}
boot_settings() {{
  [ -f "$1" ] || return 0
  while IFS= read -r line; do
    case $line in
      '' | '#'* | ';'*) ;;
      *' = '*) field "${{line%%' = '*}}{_BOOT}" "${{line#*' = '}}" ;;
      *) field "$1" other ;;
    esac
  done <"$1"
}}"""


def probe(sysctl: Sysctl) -> str:
    paths = " ".join(quote(setting.path) for setting in sysctl.settings)
    # Most of these files give a shell's `read`, which takes one byte at a time, only the first one.
    lines = [f'settings=$(grep -H "" {paths} 2>/dev/null) || :']
    for setting in sysctl.settings:
        lines.append(f'! find_line {quote(setting.path + ":")} "$settings" || squeeze {quote(setting.name)} $found')
    return "\n".join((_FUNCTIONS, *lines, f"boot_settings {quote(sysctl.file)}", ":"))


def desired(sysctl: Sysctl, facts: Facts) -> State:  # noqa: ARG001
    now = ((setting.name, setting.value) for setting in sysctl.settings)
    boot = ((f"{setting.name}{_BOOT}", setting.value) for setting in sysctl.settings)
    return (*now, *boot)


_SET = """
# set_setting NAME PATH VALUE
set_setting() {
  wanted=$3
  old=$(cat "$2" 2>/dev/null) || old=''
  # shellcheck disable=SC2086
  [ "$(printf '%s ' $old)" = "$wanted " ] || (printf '%s\\n' "$wanted" >"$2") 2>/dev/null || refused "$@"
}
refused() {
  [ -e "$2" ] || fail "This kernel has no setting $1. Perhaps a module must be loaded first, by a \\`module\\` step."
  [ -f "$2" ] || fail "$1 is a group of settings, not one."
  fail "The kernel does not take the value '$3' for $1."
}
"""


def apply(sysctl: Sysctl, facts: Facts) -> Action:  # noqa: ARG001
    # Now before at boot: what the kernel refuses must not be tried at every boot.
    lines = [
        " ".join(("set_setting", quote(setting.name), quote(setting.path), quote(setting.value)))
        for setting in sysctl.settings
    ]
    file = File(sysctl.file, sysctl.content, "0644")
    script = "\n".join((_SET, *lines, file_kind.replacement(file)))
    return Action(script.encode(), {CONTENT: sysctl.content})


KIND = Kind(parse=parse, probe=probe, desired=desired, apply=apply)
