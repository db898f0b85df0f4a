import hashlib
import json
import os
from pathlib import Path

import pytest

from devbox import cli
from devbox.box import image, qcow2, recipe, store
from devbox.box.catalogue import locate
from devbox.config.model import Arch, BoxRef
from devbox.errors import ExitCode


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(b"\xeb\x63" + bytes(510))
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def listed(capsys: pytest.CaptureFixture[str]) -> dict[str, list[dict[str, object]]]:
    capsys.readouterr()
    assert cli.run(["box", "list", "--json"]) == ExitCode.DONE
    found: dict[str, list[dict[str, object]]] = json.loads(capsys.readouterr().out)
    return found


def test_list_shows_boxes_recipes_and_what_is_stored(
    disk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(_name: str, _arch: Arch, _packages: tuple[str, ...], target: Path) -> None:
        target.write_bytes(disk.read_bytes())

    monkeypatch.setattr(recipe, "build", build)
    monkeypatch.setattr(qcow2, "inspect", lambda *_, **__: qcow2.Header("qcow2", 512, compressed=False))
    image.ensure(locate(BoxRef(recipe="debian-13"), Arch.AARCH64))
    boxes = {(str(row["name"]), bool(row["recipe"])): row for row in listed(capsys)["boxes"]}
    assert boxes["debian-13", True]["stored"] == {"x86_64": None, "aarch64": digest(disk)}
    assert boxes["debian-13", False]["stored"] == {"x86_64": None, "aarch64": None}
    assert boxes["opensuse-leap-16", False]["pinned"] is False
    assert cli.run(["box", "list"]) == ExitCode.DONE
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("debian-13 ") and line.endswith("box: {recipe: debian-13}") for line in lines)
    assert any(line.startswith("opensuse-leap-16 ") and line.endswith("needs devbox lock") for line in lines)


def test_add_verify_and_prune(disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.chdir(disk.parent)
    assert cli.run(["box", "add", "disk.raw", "--format", "raw"]) == ExitCode.DONE
    out = capsys.readouterr()
    assert out.out == f'box: {{path: "{disk.absolute()}", sha256: {digest(disk)}, format: raw}}\n'
    assert "No digest was given" in out.err
    assert [row["sha256"] for row in listed(capsys)["others"]] == [digest(disk)]
    assert cli.run(["box", "verify"]) == ExitCode.DONE

    assert cli.run(["box", "prune"]) == ExitCode.DONE
    assert "1 stay" in capsys.readouterr().err  # it came a moment ago
    os.utime(store.record_path(digest(disk)), (1, 1))
    assert cli.run(["box", "prune", "--dry-run"]) == ExitCode.DONE
    assert "Would free 1 files" in capsys.readouterr().err
    assert cli.run(["box", "prune"]) == ExitCode.DONE
    assert "disk.raw (" in capsys.readouterr().out
    assert listed(capsys)["others"] == []


def test_verify_fails_and_names_what_is_damaged(disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.run(["box", "add", os.fspath(disk), "--sha256", digest(disk), "--format=raw"])
    blob = store.blob_path(digest(disk))
    blob.chmod(0o644)
    blob.write_bytes(bytes(512))
    assert cli.run(["box", "verify"]) == ExitCode.FAILED
    assert "1 of 1 images are damaged and were set aside: disk.raw" in capsys.readouterr().err
    assert cli.run(["box", "verify"]) == ExitCode.DONE


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["add", "disk.raw", "--sha256", "1" * 64, "--format=raw"], ExitCode.FAILED, "1" * 64),
        (["add", "disk.raw", "--sha256", "xyz"], ExitCode.USAGE, "64 hexadecimal digits"),
        (["add", "disk.raw", "--format", "vmdk"], ExitCode.USAGE, "not qcow2 or raw"),
        (["add", "disk.raw"], ExitCode.FAILED, "not a qcow2 image"),
        (["add", "missing"], ExitCode.USAGE, "cannot be read"),
        (["add", "http://images.test/x"], ExitCode.USAGE, "https"),
        (["build", "debain-12"], ExitCode.USAGE, "Did you mean debian-12?"),
        (["build", "debian-12", "--arch", "sparc"], ExitCode.USAGE, "not an architecture"),
    ],
)
def test_mistakes_are_said_in_a_sentence(
    arguments: list[str], code: ExitCode, said: str, disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.chdir(disk.parent)
    assert cli.run(["box", *arguments]) == code
    assert said in capsys.readouterr().err
    assert store.entries() == ()
