"""The filter of secrets: in every form, at every cut, and in every sink of the host."""

import base64
import json
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devbox import bug, fs, redact, ui
from devbox.errors import DevboxError

AWKWARD = 'it\'s "50% off" $HOME\\n é <a&b>/+'
KEY = "-----BEGIN KEY-----\nMIIEowIBAAKCAQEA7x/+q\nshort\n-----END KEY-----"
AWK = Path(redact.__file__).parent / "provision/redact.awk"


@pytest.mark.parametrize("value", [AWKWARD, KEY, "hunter2", "p'a''ss'", "tab\tand\\back", "a b c d"])
@pytest.mark.parametrize(
    "spell",
    [
        str,
        quote,
        quote_plus,
        lambda value: quote(value, safe=""),
        lambda value: re.sub("%..", lambda code: code[0].lower(), quote(value, safe="")),
        lambda value: quote(value, safe="!'()*"),
        json.dumps,
        lambda value: json.dumps(value, ensure_ascii=False),
        repr,
        shlex.quote,
        lambda value: value.replace("\n", "\r\n"),
        lambda value: base64.b64encode(value.encode()).decode(),
        lambda value: base64.b64encode(b"user:" + value.encode() + b"\n").decode(),
        lambda value: base64.b64encode(b"ab" + value.encode() + b"cd").decode(),
        lambda value: base64.urlsafe_b64encode(b"a" + value.encode()).decode(),
    ],
)
def test_every_spelling_goes(value: str, spell: Callable[[str], str]) -> None:
    redact.install({"NAME": value})
    shown = redact.text(f"before {spell(value)} after")
    assert "‹NAME›" in shown
    assert shown.startswith("before ")
    assert shown.endswith(" after")
    # Of base64 a letter at each end depends on the neighbours, and of a form in quotes these may be left.
    assert len(shown) <= len("before  after‹NAME›") + 12
    for line in value.splitlines():
        assert line not in shown


@pytest.mark.parametrize("shell", ["dash", "busybox sh", "bash"])
@pytest.mark.parametrize("value", [AWKWARD, "p'a''ss'", "a b c d", "two\nlines of it", "tab\tand\\back"])
def test_what_a_shell_traces_goes(shell: str, value: str) -> None:
    redact.install({"NAME": value})
    for locale in ("C", "C.UTF-8"):
        traced = subprocess.run(
            [*shell.split(), "-xc", 'echo "x$V" >/dev/null; printf %s "$V"; : "$V"'],
            env={"V": value, "LC_ALL": locale, "PATH": "/usr/bin:/bin"},
            capture_output=True,
            check=True,
        )
        seen = redact.data(traced.stdout + traced.stderr)
        assert seen.count("‹NAME›".encode()) >= 4, traced.stderr
        for part in value.encode().split(b"\n"):
            assert part not in seen


@pytest.mark.parametrize(
    "value", ["back\\slash\\n @line of it\\", "a\\tb\\\\c \\0101bc", "first part\\cnever said", "a\\b\\f\\vok"]
)
def test_what_an_echo_makes_of_it_goes(value: str) -> None:
    redact.install({"NAME": value})
    for shell in ("dash", "busybox sh", "bash"):
        for command in ('echo "$V"', 'printf "%b\\n" "$V"'):
            said = subprocess.run(
                [*shell.split(), "-c", command], env={"V": value}, capture_output=True, check=True
            ).stdout
            seen = redact.data(said).replace("‹NAME›".encode(), b"").strip()
            assert len(seen) <= 1, (shell, command, said)


def test_wrapped_base64_goes() -> None:
    value = "".join(chr(33 + at * 7 % 90) for at in range(400))
    redact.install({"NAME": value})
    for shown in (
        subprocess.run(["base64"], input=value.encode(), capture_output=True, check=True).stdout,
        subprocess.run(["base64", "-w64"], input=value.encode(), capture_output=True, check=True).stdout,
    ):
        left = redact.data(shown).replace("‹NAME›".encode(), b"")
        assert len(left.replace(b"\n", b"")) <= 6


def test_overlapping_values_leave_nothing() -> None:
    redact.install({"A": "abcdef", "B": "defghijk", "C": "ghijklmnopqr"})
    assert redact.text("-abcdefghijklmnopqr-") == "-‹A›-"


def test_a_name_that_is_its_own_value() -> None:
    redact.install({"TOKEN": "TOKEN", "OTHER": "secret word"})
    assert redact.text("TOKEN and secret word") == "*** and ‹OTHER›"


def test_it_changes_nothing_before_it_knows_a_value() -> None:
    assert redact.text(AWKWARD) == AWKWARD
    assert redact.Stream().feed(b"abc") == b"abc"


@given(st.text(min_size=4, max_size=30).filter(lambda value: len(value.strip()) >= 4 and "\0" not in value), st.data())
def test_no_value_comes_through_a_stream_in_pieces(value: str, data: st.DataObject) -> None:
    redact._installed.clear()
    redact.install({"NAME": value})
    mask = redact.text(value)
    whole = b"".join(
        data.draw(st.lists(st.sampled_from([value.encode(), b"x", b"\n", value.encode()[:-1]]), max_size=8))
    )
    stream, out, at = redact.Stream(), b"", 0
    while at < len(whole):
        size = data.draw(st.integers(1, 12))
        out += stream.feed(whole[at : at + size])
        at += size
    out += stream.end()
    assert out == redact.data(whole)
    assert value.encode() not in out.replace(mask.encode(), b"|") or value in mask


def spans_by_trying(shown: bytes, forms: dict[bytes, bytes]) -> list[tuple[int, int, bytes]]:
    """Where forms stand, by a look for each at each place."""
    found = [
        (at, at + len(form), mask)
        for form, mask in forms.items()
        for at in range(len(shown))
        if shown.startswith(form, at)
    ]
    merged: list[tuple[int, int, bytes]] = []
    for start, end, mask in sorted(found, key=lambda span: (span[0], -span[1])):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]), merged[-1][2])
        else:
            merged.append((start, end, mask))
    return merged


few = st.lists(st.sampled_from([b"a", b"b", b"\n", b"]", b"\xff"]), min_size=1, max_size=9).map(b"".join)


@given(st.dictionaries(few, st.sampled_from([b"1", b"2"]), min_size=1, max_size=12), st.lists(few).map(b"".join))
def test_forms_are_found_wherever_they_stand_or_begin(forms: dict[bytes, bytes], shown: bytes) -> None:
    known = redact._Known(forms)
    assert redact._spans(shown, known) == spans_by_trying(shown, forms)
    begins = [at for at in range(len(shown)) if any(f != shown[at:] and f.startswith(shown[at:]) for f in forms)]
    assert redact._begun(shown, known) == min(begins, default=len(shown))


def test_a_long_value_is_looked_for_in_few_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key's bundle has thousands of forms; what costs a look at each, for each line or each other, takes minutes."""
    lines = [base64.b64encode(bytes((number * 7 + at) % 251 for at in range(36))).decode() for number in range(1300)]
    value = "\n".join(f"{number:05} {line}" for number, line in enumerate(lines))
    redact.install({"BUNDLE": value})
    looks = 0
    look = redact._Known.at

    def counted(known: redact._Known, shown: bytes, start: int) -> bytes:
        nonlocal looks
        looks += 1
        return look(known, shown, start)

    monkeypatch.setattr(redact._Known, "at", counted)
    assert redact.text("Get:1 http://deb.debian.org/debian bookworm/main amd64 Packages [8,792 kB]\n" * 100)
    assert looks < 1000
    assert redact.text(f"<{value}>") == "<‹BUNDLE›>"


def test_a_stream_keeps_nothing_back_that_cannot_be_a_value() -> None:
    redact.install({"KEY": KEY, "NAME": "hunter2"})
    stream = redact.Stream()
    assert stream.feed(b"all of this at once\n") == b"all of this at once\n"
    assert stream.feed(b"hun") == b""
    assert stream.feed(b"ting\n") == b"hunting\n"
    assert stream.feed(b"-----BEGIN KEY-----\n") == b""
    assert stream.feed(b"other\n") == "‹KEY›\nother\n".encode()
    assert stream.feed(b"hunter") + stream.end() == b"hunter"


@pytest.mark.parametrize("awk", ["mawk", "busybox awk"])
@pytest.mark.parametrize("blocks", [1, 40])
def test_the_guests_pass_does_what_ours_does(awk: str, blocks: int, tmp_path: Path) -> None:
    values = {"A": AWKWARD, "KEY": KEY, "B": "hunter2", "C": "ter2abc", "D": "x\n\ny & \\1"}
    filler = "".join(f"line {n} of what a step says\n" for n in range(120 if blocks > 1 else 3))
    text = "".join(
        f"{filler}{AWKWARD}{AWKWARD}|{KEY}\n{KEY[10:]}hunter2abc {json.dumps(KEY)}\nhunter\n{values['D']}\n"
        for _ in range(blocks)
    ).encode()
    forms = redact.forms(values)
    (tmp_path / "forms").write_bytes(b"".join(b"%d %s\n%s\n" % (f.count(b"\n") + 1, m, f) for f, m in forms))
    done = subprocess.run(
        [*awk.split(), "-v", f"list={tmp_path}/forms", "-f", AWK],
        input=text,
        env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        check=True,
    )
    redact.install(values)
    assert done.stdout == redact.data(text)
    assert b"hunter2" not in done.stdout
    (tmp_path / "forms").write_bytes(b"2 ***\nonly one\n")
    assert subprocess.run([*awk.split(), "-v", f"list={tmp_path}/forms", "-f", AWK], input=b"x", check=False).returncode


def test_every_sink_of_this_process(tmp_path: Path, devbox_dirs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    redact.install({"NAME": AWKWARD, "KEY": KEY})
    for say in (ui.note, ui.done, ui.warn, ui.failed, ui.say, ui.emit):
        say(f"{AWKWARD} {KEY}")
    ui.note(f'it\'s "50% \x1b[1moff" $HOME\\n é <a&b>/+{KEY[10:]}')
    ui.emit_json({AWKWARD: [KEY, {"x": (AWKWARD,)}], "n": 1})
    ui.table([[AWKWARD]], ["x"])
    with ui.step(AWKWARD) as step:
        step.update(KEY)
    trouble = DevboxError("a.b", AWKWARD, hint=AWKWARD, details=KEY)
    fs.append_event(tmp_path / "log", event="x", message=AWKWARD, more=[KEY])
    bug.report(["up", AWKWARD], ValueError(KEY))
    (report,) = (devbox_dirs / "state/bugs").iterdir()
    shown = capsys.readouterr()
    everything = [shown.out, shown.err, str(trouble), trouble.message, trouble.hint, trouble.details]
    everything += [report.read_text(), (tmp_path / "log").read_text()]
    for text in everything:
        assert "‹" in text or "\\u2039" in text
        assert "50% off" not in text
        assert "MIIE" not in text
    assert "secret" not in repr(trouble)
