from pathlib import Path

import pytest

from devbox.commands import logs


class EnoughError(Exception):
    """Ends the following, which has no end of its own."""


def test_what_the_guest_writes_cannot_paint_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    console = tmp_path / "serial.log"
    console.write_bytes(b"one\n\x1b[31mtwo\x1b[0m\n")
    rounds = iter([b"three \x1b]0;title\x07\n", b"short\n"])

    def meanwhile(_seconds: float) -> None:
        text = next(rounds, None)
        if text is None:
            raise EnoughError
        if text == b"short\n":
            console.write_bytes(text)  # the machine was started again
        else:
            with console.open("ab") as file:
                file.write(text)

    monkeypatch.setattr("devbox.commands.logs.time.sleep", meanwhile)
    with pytest.raises(EnoughError):
        logs._console(console, 0, follow=True)
    assert capsys.readouterr().out == "one\ntwo\nthree \nshort\n"
