"""What a recipe would build: the mmdebstrap command, the files, the digest of the inputs. Nothing is built here."""

import io
import shlex
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from devbox.box import bootstrap, mirror, recipe
from devbox.box.mirror import Entry, Mirror
from devbox.config.model import Arch, Firmware
from devbox.errors import DevboxError, ExitCode

FOUND = Mirror((Entry("http://m.example/debian", "bookworm", ("main",), mirror.KEYRING),), ('Acquire::Retries "3";',))


def words(plan: bootstrap.Plan, *, target: Path, found: Mirror = FOUND) -> tuple[str, ...]:
    keys = {mirror.KEYRING: Path(mirror.KEYRING)}
    return bootstrap.argv(
        plan, found, tars=(Path("/a b/files.tar"), Path("/a b/sources.tar")), keys=keys, target=target
    )


@pytest.mark.parametrize("name", recipe.RECIPES)
def test_traits(name: str) -> None:
    amd64, arm64 = (recipe.traits(name, arch) for arch in (Arch.X86_64, Arch.AARCH64))
    assert amd64.os == arm64.os == "debian"
    assert amd64.firmware == (Firmware.BIOS, Firmware.UEFI)
    assert arm64.firmware == (Firmware.UEFI,)
    assert "9p" in amd64.lacks


def test_the_command() -> None:
    command = words(recipe.plan("debian-12", Arch.X86_64, ("git",)), target=Path("/x"))
    assert command[0] == "mmdebstrap"
    assert "--architectures=amd64" in command
    assert '--aptopt=Acquire::Retries "3";' in command
    included = next(word for word in command if word.startswith("--include=")).removeprefix("--include=").split(",")
    assert {"git", "linux-image-cloud-amd64", "cloud-init", "openssh-server", "sudo", "python3"} <= set(included)
    assert command[-3:-1] == ("bookworm", "/dev/null")
    assert command[-1] == f"deb [signed-by={mirror.KEYRING}] http://m.example/debian bookworm main"


def test_paths_with_spaces_and_quotes_stay_one_word_for_mmdebstrap() -> None:
    target = Path("/it's a, target/x.part")
    command = words(recipe.plan("debian-12", Arch.AARCH64, ()), target=target)
    hooks = [shlex.split(word.split("=", 1)[1]) for word in command if word.startswith("--customize-hook=")]
    assert hooks[-1] == ["download", "/disk.qcow2", str(target)]
    assert hooks[0] == ["tar-in", "/a b/sources.tar", "/"]


def test_the_digest_is_stable_and_follows_every_input(monkeypatch: pytest.MonkeyPatch) -> None:
    first = recipe.inputs_digest("debian-12", Arch.X86_64, ("git", "make"))
    assert first == recipe.inputs_digest("debian-12", Arch.X86_64, ("make", "git"))
    others = {
        recipe.inputs_digest("debian-12", Arch.X86_64, ("git",)),
        recipe.inputs_digest("debian-12", Arch.AARCH64, ("git", "make")),
        recipe.inputs_digest("debian-13", Arch.X86_64, ("git", "make")),
    }
    monkeypatch.setattr(bootstrap, "disk_script", lambda: "another")
    others.add(recipe.inputs_digest("debian-12", Arch.X86_64, ("git", "make")))
    assert len(others | {first}) == 5


def test_the_mirror_is_not_part_of_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    first = recipe.inputs_digest("debian-12", Arch.X86_64, ())
    monkeypatch.setenv(mirror.VARIABLE, "http://other.example/debian")
    assert recipe.inputs_digest("debian-12", Arch.X86_64, ()) == first


@pytest.mark.parametrize("package", ["git=1.0", "a,b", "--x", "?essential", "Git", "./x.deb", "git\n"])
def test_a_package_that_is_none(package: str) -> None:
    with pytest.raises(DevboxError, match="not the name of a Debian package") as caught:
        recipe.plan("debian-12", Arch.X86_64, (package,))
    assert caught.value.exit_code is ExitCode.USAGE


def test_the_files_of_the_image() -> None:
    files = recipe.plan("debian-12", Arch.X86_64, ()).files
    assert files["/usr/local/sbin/boot-sync"][0] == 0o755
    assert files["/etc/kernel/postinst.d/zz-boot-sync"][0] == 0o755
    assert files["/etc/cloud/cloud.cfg.d/90-devbox.cfg"][0] == 0o644


@pytest.mark.parametrize(
    "script", sorted(bootstrap.SCRIPTS.rglob("*.sh")) + [bootstrap.SCRIPTS / "debian/usr/local/sbin/boot-sync"]
)
def test_scripts_are_posix_shell(script: Path) -> None:
    done = subprocess.run(["sh", "-n", script], capture_output=True, check=False)
    assert done.stderr == b""


def test_no_script_names_a_mirror() -> None:
    for path in [*bootstrap.SCRIPTS.rglob("*"), *Path(bootstrap.__file__).parent.glob("*.py")]:
        if path.is_file():
            assert "debian.org" not in path.read_text(), path


def test_the_archive_is_roots_and_has_no_folders() -> None:
    data = bootstrap.archive({"/etc/x": (0o600, b"text")})
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        (member,) = tar.getmembers()
    assert (member.name, member.uid, member.gid, member.mode, member.size) == ("etc/x", 0, 0, 0o600, 4)


def test_a_mirrors_own_key_goes_with_the_image(tmp_path: Path) -> None:
    key = tmp_path / "ours.asc"
    key.write_text("the key")
    found = replace(FOUND, entries=(Entry("http://m.example/debian", "bookworm", ("main",), str(key)),))
    files = bootstrap.guest_apt(found, {str(key): key})
    assert files["/etc/apt/keyrings/devbox-0.asc"] == (0o644, b"the key")
    assert b"Signed-By: /etc/apt/keyrings/devbox-0.asc" in files["/etc/apt/sources.list.d/debian.sources"][1]


def test_everything_that_is_missing_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "_is_there", lambda program: program not in {"mmdebstrap", "mcopy"})
    with pytest.raises(DevboxError) as caught:
        bootstrap.check_tools(Arch.X86_64)
    assert caught.value.id == "recipe.tools"
    assert {"mmdebstrap", "mtools"} <= set(caught.value.hint.split())


def test_an_x86_64_box_is_not_built_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.uname", lambda: SimpleNamespace(machine="aarch64"))
    with pytest.raises(DevboxError, match="x86_64 computer") as caught:
        bootstrap.check_tools(Arch.X86_64)
    assert caught.value.id == "recipe.arch"


def test_a_failed_build_shows_the_last_lines(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = tmp_path / "mmdebstrap"
    fake.write_text("#!/bin/sh\necho 'I: beginning'\necho 'E: the mirror is gone' >&2\nexit 25\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(bootstrap, "check_tools", lambda arch: None)
    monkeypatch.setattr(mirror, "find", lambda suite: FOUND)
    with pytest.raises(DevboxError) as caught:
        recipe.build("debian-12", Arch.X86_64, (), tmp_path / "image.qcow2")
    assert caught.value.id == "recipe.failed"
    assert caught.value.details.splitlines() == ["I: beginning", "E: the mirror is gone"]
    assert "✗ Building the box debian-12" in capsys.readouterr().err
