"""Stand-ins for package managers, over a folder: a program by its name, started as `python managers.py PROGRAM WORD…`.

The outputs are in the words and columns of the real programs, from where test_packages.py says.
"""

import fnmatch
import json
import sys
from pathlib import Path
from typing import Any

Versions = dict[str, str]
PROGRAMS = {
    "apt": ("apt-get", "apt-cache", "apt-mark", "dpkg", "dpkg-query"),
    "dnf": ("dnf", "rpm"),
    "zypper": ("zypper", "rpm"),
    "apk": ("apk",),
    "pacman": ("pacman", "pacman-conf"),
}


class World:
    """installed: name → version; offered: name → versions, newest first; provided: other name → name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.installed: Versions = self._read("installed")
        self.offered: dict[str, list[str]] = self._read("offered")
        self.provided: Versions = self._read("provided")
        self.status: Versions = self._read("status")  # dpkg's, when it is not `installed`
        self.arches: Versions = self._read("arches")

    def _read(self, name: str) -> Any:
        path = self.folder / f"{name}.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def save(self) -> None:
        (self.folder / "installed.json").write_text(json.dumps(self.installed))

    def locked(self) -> bool:
        """Whether another program holds the lock; each look brings its end nearer."""
        path = self.folder / "locked"
        if not path.exists():
            return False
        left = int(path.read_text()) - 1
        path.write_text(str(left))
        if left < 0:
            path.unlink()
        return left >= 0

    def select(self, name: str, pattern: str = "*") -> str | None:
        return next((v for v in self.offered.get(name, ()) if fnmatch.fnmatchcase(v, pattern)), None)

    def newer(self, name: str) -> str | None:
        if name not in self.installed or not self.offered.get(name):
            return None
        newest = self.offered[name][0]
        return newest if newest != self.installed[name] else None

    def log(self, words: list[str]) -> None:
        with (self.folder / "log").open("a") as log:
            log.write(" ".join(words) + "\n")


def fail(message: str, status: int = 1) -> int:
    sys.stderr.write(f"{message}\n")
    return status


def apt_get(world: World, words: list[str]) -> int:
    names = [word for word in words if not word.startswith("-") and "::" not in word]
    verb, names = names[0], names[1:]
    if verb == "update":
        if world.locked():
            return fail(
                "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 1043 (apt-get)\n"
                "E: Unable to lock directory /var/lib/apt/lists/",
                100,
            )
        return fail("E: The repository does not have a Release file.", 100) if offline(world) else 0
    held = (world.folder / "held").read_text().split() if (world.folder / "held").exists() else []
    for word in names:
        name, _, version = word.partition("=")
        if verb == "remove" or (word.endswith("-") and word not in world.offered):
            world.installed.pop(name.removesuffix("-"), None)
            continue
        if name not in world.offered:
            return fail(f"E: Unable to locate package {name}", 100)
        chosen = world.select(name, version or "*")
        if chosen is None or "*" in version[:-1]:
            return fail(f"E: Version '{version}' for '{name}' was not found", 100)
        if name in held and chosen != world.installed.get(name):
            return fail("E: Held packages were changed and -y was used without --allow-change-held-packages.", 100)
        world.installed[name] = chosen
    return 0


def apt_cache(world: World, words: list[str]) -> int:
    if words[0] == "madison":
        for version in world.offered.get(words[1], ()):
            print(f"{words[1]:>10} | {version} | http://deb.example.org/debian bookworm/main amd64 Packages")
        return 0
    for name in words[2:]:
        if name not in world.offered:
            fail(f"N: Unable to locate package {name}")
            continue
        print(f"{name}:\n  Installed: {world.installed.get(name, '(none)')}\n  Candidate: {world.offered[name][0]}")
        print("  Version table:\n *** 1 500\n        100 /var/lib/dpkg/status")
    return 0


def apt_mark(world: World, words: list[str]) -> int:  # noqa: ARG001
    print((world.folder / "held").read_text() if (world.folder / "held").exists() else "", end="")
    return 0


def dpkg(world: World, words: list[str]) -> int:
    audit = world.folder / "audit"
    if words == ["--audit"] and audit.exists():
        print("The following packages are only half configured, probably due to problems\n nginx  web server")
    if words[0] == "--configure":
        audit.unlink(missing_ok=True)
    return 0


def dpkg_query(world: World, words: list[str]) -> int:
    if "Provides" in words[2]:
        for virtual, name in world.provided.items():
            print(f"installed|, {virtual} (= 1.0), other,\n" if name in world.installed else "deinstall|, x,")
        return 0
    missing = 0
    for asked in words[4:]:
        name, _, arch = asked.partition(":")
        if name not in world.installed:
            missing = fail(f"dpkg-query: no packages found matching {asked}")
            continue
        own = world.arches.get(name, "amd64")
        if arch in ("", own):
            print(world.status.get(name, "installed"), name, own, world.installed[name])
    return missing


def rpm(world: World, words: list[str]) -> int:
    if "--whatprovides" in words:
        return 0 if world.provided.get(words[-1]) in world.installed else fail(f"no package provides {words[-1]}")
    missing = 0
    for asked in words[words.index("--") + 1 :]:
        name = asked.removesuffix(".x86_64")
        if name not in world.installed:
            print(f"package {asked} is not installed")
            missing += 1
            continue
        for version in world.installed[name].split(","):
            print(f"{name} {version}\n{name}.x86_64 {version}")
    return missing


def find(world: World, word: str, separator: str) -> tuple[str, str | None]:
    """Name and version of `name-version`, `name=version`: the longest name that is offered."""
    for name in sorted(world.offered, key=len, reverse=True):
        if word == name:
            return name, world.offered[name][0]
        if word.startswith(name + separator):
            asked = word[len(name) + 1 :]
            return name, world.select(name, asked) or world.select(name, f"{asked}-*")
    return word, None


def dnf(world: World, words: list[str]) -> int:
    five = (world.folder / "dnf5").exists()
    names = [word for word in words if not word.startswith("-")]
    verb, names = names[0], names[1:]
    if verb == "check-update":
        return dnf_check_update(world, names, five=five, cache="-C" in words)
    if world.locked():
        return fail("Failed to obtain the transaction lock (logged in as: root).", 1 if five else 200)
    if five:
        fail("Updating and loading repositories:\nRepositories loaded.")
    for word in names:
        name, version = find(world, word, "-")
        if verb == "remove":
            world.installed.pop(word, None)
        elif version is None:
            heading = (
                "No match for argument" if not five else "Failed to resolve the transaction:\nNo match for argument"
            )
            return fail(f"{heading}: {word}\nError: Unable to find a match: {word}")
        elif verb == "upgrade" or name not in world.installed or word != name:
            world.installed[name] = version
    if verb == "makecache" and offline(world):
        return fail("Error: Failed to download metadata for repo 'fedora'")
    return 0


def offline(world: World) -> bool:
    return (world.folder / "offline").exists()


def dnf_check_update(world: World, names: list[str], *, five: bool, cache: bool) -> int:
    if (world.folder / "no-cache").exists():
        return fail('Error: Cache-only enabled but no cache for "fedora"') if cache else 1
    found = [(name, newest) for name in world.offered if (newest := world.newer(name)) and (not names or name in names)]
    if not found:
        return 0
    if not five:
        print()
    for name, newest in found:
        if five or len(name) < 30:
            print(f"{name}.x86_64{' ' * (40 - len(name))}{newest}{' ' * 20}updates")
        else:
            print(f"{name}.x86_64\n{' ' * 40}{newest}{' ' * 20}updates")
    print("Obsoleting packages" if five else "Obsoleting Packages")
    print("current.x86_64                 1.0-1.fc41          updates\n    old.x86_64    0.9-1.fc40     @System")
    return 100


def zypper(world: World, words: list[str]) -> int:
    names = [word for word in words if not word.startswith("-") and word != "package"]
    verb, names = names[0], names[1:]
    if verb == "list-updates":
        print("S | Repository | Name                     | Current Version | Available Version | Arch")
        print("--+------------+--------------------------+-----------------+-------------------+-------")
        for name in world.offered:
            if newest := world.newer(name):
                print(f"v | tool       | {name:24} | {world.installed[name]:15} | {newest:17} | x86_64")
        return 0
    if verb == "search":
        print("S | Name | Type    | Version | Arch   | Repository\n--+------+---------+---------+--------+-----------")
        for offered in world.offered.get(names[0], ()):
            print(f"  | {names[0]} | package | {offered} | x86_64 | Main")
        return 0
    if world.locked():
        return fail(
            "System management is locked by the application with pid 1043 (zypper).\nClose this application.", 7
        )
    for word in names:
        name, version = find(world, word, "=")
        if verb == "remove":
            world.installed.pop(word, None)
        elif version is None:
            return fail(f"No provider of '{word}' found.", 104)
        else:
            if name in world.installed and word != name and "--oldpackage" not in words:
                return fail("Nothing to do.", 0)
            world.installed[name] = version
    status = world.folder / "zypper-status"
    return int(status.read_text()) if status.exists() else 0


def apk(world: World, words: list[str]) -> int:
    if words[0] == "info" and words[1] == "-v":
        fail("WARNING: opening from cache: No such file or directory")
        for name, version in world.installed.items():
            print(f"{name}-{version}")
        return 0
    if words[0] == "info":
        return 0 if words[-1] in world.installed or world.provided.get(words[-1]) in world.installed else 1
    if words[0] == "version":
        print("Installed:                                Available:")
        for name in words[4:]:
            if newest := world.newer(name):
                print(f"{f'{name}-{world.installed[name]}':40}< {newest} ")
        return 0
    patient, words = words[:2] == ["--wait", "300"], words[2:]
    if not patient and world.locked():
        return fail("ERROR: Unable to lock database: Resource temporarily unavailable", 99)
    names = [word for word in words[1:] if not word.startswith("-")]
    for word in names:
        name, _, asked = word.replace("~", "=~").partition("=")
        pattern = f"{asked[1:]}*" if asked.startswith("~") else asked or "*"
        if words[0] == "del":
            world.installed.pop(word, None)
            world.installed.pop(
                (world.folder / "orphan").read_text() if (world.folder / "orphan").exists() else "", None
            )
            continue
        chosen = world.select(name, pattern)
        if chosen is None:
            return fail(
                f"ERROR: unable to select packages:\n  {word} (no such package):\n    required by: world[{word}]"
            )
        if asked or "--upgrade" in words or name not in world.installed:
            world.installed[name] = chosen
    return 0


def pacman_question(world: World, words: list[str]) -> int | None:
    names = [word for word in words if not word.startswith("-")]
    if words[0] == "-Q":
        for name in names:
            if name in world.installed:
                print(f"{name} {world.installed[name]}")
            else:
                fail(f"error: package '{name}' was not found")
        return 0 if set(names) <= set(world.installed) else 1
    if words[0] == "-Qu":
        old = [name for name in names if world.newer(name)]
        for name in old:
            print(f"{name} {world.installed[name]} -> {world.newer(name)}")
        return 0 if old else 1
    if words[0] == "-T":
        absent = [n for n in names if n not in world.installed and world.provided.get(n) not in world.installed]
        print("\n".join(absent))
        return 127 if absent else 0
    return None


def pacman(world: World, words: list[str]) -> int:
    if (answer := pacman_question(world, words)) is not None:
        return answer
    names = [word for word in words if not word.startswith("-")]
    if (world.folder / "db.lck").exists():
        return fail(
            "error: failed to init transaction (unable to lock database)\nerror: could not lock database: File exists"
        )
    if words[0] == "-Sy":
        return fail("this breaks the guest")
    if words[0] == "-Syu":
        world.installed.update({name: str(world.newer(name) or world.installed[name]) for name in world.installed})
    for word in names:
        name, version = find(world, word, "=")
        if words[0] == "-R":
            world.installed.pop(word)
        elif version is None or "*" in word:
            return fail(f"error: target not found: {word}")
        else:
            world.installed[name] = version
    return 0


def pacman_conf(world: World, words: list[str]) -> int:  # noqa: ARG001
    print(f"{world.folder}/")
    return 0


def main() -> int:
    program, words = Path(sys.argv[1]), sys.argv[2:]
    world = World(program.parent.parent / "packages")
    world.log([program.name, *words])
    status: int = globals()[program.name.replace("-", "_")](world, words)
    world.save()
    return status


if __name__ == "__main__":
    sys.exit(main())
