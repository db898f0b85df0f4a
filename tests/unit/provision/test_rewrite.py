"""The rewrites of rewrite.sh against a small model in Python, under each awk that is installed here."""

import re
import shutil
import subprocess
from pathlib import Path
from shlex import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devbox.provision import shell

AWKS = tuple(name for name in ("mawk", "gawk", "original-awk", "busybox") if shutil.which(name))
WORDS = ("a", "aa", "b", "1", "1.0", "01", "0x1", "\\n", "\\", "&", "%s", " ", "'", '"', "$x", "é", "#", "\t", "[", "=")
# In words that Python and grep understand alike.
PATTERNS = ("^a", "b$", "a{2}", "[ab]1", "^#? ?a", "^$", "\\\\n", "é", "1|&", "^[^a]*$")
BEGIN, END = "# BEGIN devbox x", "# END devbox x"

lines = st.lists(st.sampled_from(WORDS), max_size=3).map("".join)
rows = lines | st.sampled_from(("a", "b", "1", "1.0"))
line_endings = st.sampled_from(("", "", "", "\r"))
files = st.builds(
    lambda texts, returns, last: "".join(f"{text}{returns}\n" for text in texts) + last,
    st.lists(rows, max_size=6),
    line_endings,
    rows,
)
maybe = st.sampled_from(("", *PATTERNS))
line_calls = st.tuples(
    st.sampled_from(("present", "absent")), rows, maybe, st.sampled_from(("after", "before", "start")), maybe
)
marked = st.lists(st.sampled_from((BEGIN, END, "a", "b", "1", "1.0", "# BEGIN devbox y")), max_size=9)
block_files = st.builds(
    lambda texts, returns: "".join(f"{text}{returns}\n" for text in texts), marked | marked.map(sorted), line_endings
)
block_calls = st.tuples(
    st.sampled_from(("present", "absent")),
    st.just(BEGIN),
    st.just(END),
    st.lists(st.sampled_from(("a", "b", "1", "")), min_size=1, max_size=3).map("\n".join),
)


def split(text: str) -> list[str]:
    return text.removesuffix("\n").split("\n") if text else []


def join(texts: list[str]) -> str:
    return "".join(f"{text}\n" for text in texts)


def line_model(text: str, state: str, line: str, match: str, side: str, place: str) -> tuple[str, str]:
    """How the file stands, and its new text."""
    old = split(text)
    equal = [at for at, one in enumerate(old) if one.removesuffix("\r") == line]
    matched = [at for at, one in enumerate(old) if match and re.search(match, one)]
    if state == "absent":
        gone = matched if match else equal
        return "present" if gone else "absent", join([one for at, one in enumerate(old) if at not in gone])
    if set(equal) - set(matched) or (matched and matched[-1] in equal):
        return "present", join(old)
    if matched:
        last = matched[-1]
        end = "\r" if old[last].endswith("\r") else ""
        return "differs", join([*old[:last], line + end, *old[last + 1 :]])
    places = [at for at, one in enumerate(old) if place and re.search(place, one)]
    at = len(old)
    if side == "start":
        at = 0
    elif places:
        at = places[-1] + (side == "after")
    return "missing", join([*old[:at], line + ("\r" if old and old[0].endswith("\r") else ""), *old[at:]])


def block_model(text: str, state: str, begin: str, end: str, content: str) -> tuple[str, str]:
    old = split(text)
    signs = "".join("B" if x == begin else "E" if x == end else "." for x in (y.removesuffix("\r") for y in old))
    if not re.fullmatch(r"(\.*B\.*E)*\.*", signs):
        return "broken", ""
    blocks = [match.span() for match in re.finditer(r"B\.*E", signs)]
    outside = [one for at, one in enumerate(old) if not any(first <= at < last for first, last in blocks)]
    if state == "absent":
        return "present" if blocks else "absent", join(outside)
    returns = "\r" if old and old[0].endswith("\r") else ""
    wanted = [begin, *content.split("\n"), end]
    new = [one + returns for one in wanted]
    at = blocks[0][0] if blocks else len(outside)
    result = join([*outside[:at], *new, *outside[at:]])
    if not blocks:
        return "missing", result
    first, last = blocks[0]
    same = len(blocks) == 1 and [one.removesuffix("\r") for one in old[first:last]] == wanted
    return "present" if same else "differs", result


@pytest.fixture(params=AWKS)
def tools(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tools")
    (folder / "awk").symlink_to(str(shutil.which(request.param)))
    if request.param == "busybox":
        (folder / "grep").symlink_to(str(shutil.which("busybox")))
    return folder


def rewritten(tools: Path, function: str, cases: list[tuple[str, tuple[str, ...]]]) -> list[tuple[str, bytes]]:
    """For each text and call what the functions print: how it stands, and the new text. One shell for all of them."""
    work, parts = tools / "work", [shell.file("prelude")]
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    for at, (text, words) in enumerate(cases):
        (work / f"f={at}").write_bytes(text.encode())
        rest = " ".join(map(quote, words))
        for what in ("verdict", "text"):
            parts.append(f"{function} '{work}/f={at}' {what} {rest} >'{work}/{what}.{at}'\n")
    done = subprocess.run(
        ["dash"],
        input="".join(parts),
        env={"PATH": f"{tools}:/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return [
        ((work / f"verdict.{at}").read_text().strip(), (work / f"text.{at}").read_bytes()) for at in range(len(cases))
    ]


several = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@several
@given(cases=st.lists(st.tuples(files, line_calls), min_size=1, max_size=12))
def test_a_line(tools: Path, cases: list[tuple[str, tuple[str, ...]]]) -> None:
    found = rewritten(tools, "rewrite_line", cases)
    wanted = [line_model(text, *words) for text, words in cases]
    assert [(how, new.decode()) for how, new in found] == wanted
    again = rewritten(
        tools, "rewrite_line", [(new.decode(), words) for (_, new), (_, words) in zip(found, cases, strict=True)]
    )
    for (how, new), (_, once), (_, words) in zip(again, found, cases, strict=True):
        state, line, *_ = words
        assert how == state, "the result is as it must be"
        assert new == once, "and the rewrite leaves it"
        if state == "present":
            assert line.encode() in [one.removesuffix(b"\r") for one in new.split(b"\n")]


@several
@given(cases=st.lists(st.tuples(block_files, block_calls), min_size=1, max_size=12))
def test_a_block(tools: Path, cases: list[tuple[str, tuple[str, ...]]]) -> None:
    found = rewritten(tools, "rewrite_block", cases)
    assert [(how, new.decode()) for how, new in found] == [block_model(text, *words) for text, words in cases]
    whole = [(new.decode(), words) for (how, new), (_, words) in zip(found, cases, strict=True) if how != "broken"]
    for (how, new), (once, words) in zip(rewritten(tools, "rewrite_block", whole), whole, strict=True):
        assert (how, new.decode()) == (words[0], once)


def test_no_pattern_is_no_answer(tools: Path) -> None:
    calls = [("present", "x", "(", "after", ""), ("present", "x", "", "after", "("), ("absent", "", "[z", "after", "")]
    assert rewritten(tools, "rewrite_line", [("a\n", call) for call in calls]) == [("", b"")] * 3


def test_what_grep_knows_and_the_awk_of_debian_does_not(tools: Path) -> None:
    text = "#  Port 22\nPort\t2\n"
    call = ("present", "Port 2222", "^#?[[:space:]]*Port[[:space:]]+[0-9]{2,}$", "after", "")
    assert rewritten(tools, "rewrite_line", [(text, call)]) == [("differs", b"Port 2222\nPort\t2\n")]


def test_bytes_that_are_no_text_stay(tools: Path) -> None:
    (tools / "odd").write_bytes(b"caf\xe9 \x01\xff\nb")
    done = subprocess.run(
        ["dash", "-c", f"{shell.file('prelude')}rewrite_line '{tools}/odd' text present é '^b' after ''"],
        env={"PATH": f"{tools}:/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == (b"caf\xe9 \x01\xff\n\xc3\xa9\n", b"")


def test_long_texts(tools: Path) -> None:
    long = "x" * 60000
    content = "\n".join(f"{at} {'y' * 200}" for at in range(3000))
    found = rewritten(tools, "rewrite_block", [("a\n", ("present", BEGIN, END, content))])
    assert found == [("missing", f"a\n{BEGIN}\n{content}\n{END}\n".encode())]
    assert rewritten(tools, "rewrite_line", [(f"{long}\n", ("present", long, "", "after", ""))])[0][0] == "present"
