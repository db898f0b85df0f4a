import hashlib
import json
from pathlib import Path

import pytest

from devbox import cli
from devbox.box import image, store
from devbox.errors import ExitCode


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "disk.raw").write_bytes(b"\xeb\x63" + bytes(510))
    return tmp_path


def ask_for(project: Path, box: str) -> None:
    (project / "Devboxfile").write_text(f"version: 1\nname: locked\nbox: {box}\n")


def test_an_image_without_a_digest_is_pinned_once(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask_for(project, "{path: disk.raw, format: raw}")
    assert cli.run(["lock", "--approve=all"]) == ExitCode.DONE
    sha256 = hashlib.sha256((project / "disk.raw").read_bytes()).hexdigest()
    assert sha256 in capsys.readouterr().err
    (pin,) = json.loads((project / "Devboxfile.lock").read_text())["machines"]["default"].values()
    assert pin == {"source": "path:disk.raw", "sha256": sha256, "size": 512}
    assert store.have(sha256) is not None

    assert cli.run(["lock"]) == ExitCode.DONE
    assert "pinned already" in capsys.readouterr().err


def test_what_has_a_digest_needs_no_lock(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for box in ("debian-12", "{recipe: debian-12}"):
        ask_for(project, box)
        assert cli.run(["lock", "--arch", "x86_64", "--arch", "aarch64"]) == ExitCode.DONE
        assert capsys.readouterr().err.count("needs no pin") == 2
    assert not (project / "Devboxfile.lock").exists()


def test_nothing_is_fetched_before_approval(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask_for(project, "{url: 'https://images.test/x'}")
    monkeypatch.setattr(image, "pin", lambda _: pytest.fail("fetched"))
    assert cli.run(["lock"]) == ExitCode.FAILED
    assert not (project / "Devboxfile.lock").exists()
