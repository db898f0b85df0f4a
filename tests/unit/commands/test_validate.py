from pathlib import Path

import pytest

from tests.unit.commands.invoke import invoke


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ("provision: [{file: {path: /etc/a, src: nowhere}}]", "nowhere"),
        ("provision: [{template: {path: /etc/a, content: '{{ nope'}}]", "template"),
        ('message: "{{ nope"', "`message`"),
        ('ports: ["[::1]:8080:80"]', "IPv6"),
        ("box: debain-12", "did you mean `debian-12`"),
    ],
)
def test_mistakes_that_no_schema_sees(rest: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box = "" if rest.startswith("box") else "box: debian-12\n"
    (tmp_path / "Devboxfile").write_text(f"version: 1\n{box}{rest}\n")
    monkeypatch.chdir(tmp_path)
    shown = invoke("validate")
    assert shown.status == 2
    assert words in shown.stderr
