"""Frames out of bytes, however they are cut, and the probe run's answer."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devbox.errors import DevboxError
from devbox.provision.journal import Receipt
from devbox.provision.wire import Frame, Frames, Probed, Text, parse_answer

NONCE = "00112233445566778899aabbccddeeff"


def collect(pieces: list[bytes]) -> list[Frame | Text]:
    """Frames and texts, neighbouring texts joined: how they were cut must not show."""
    frames, found = Frames(NONCE), list[Frame | Text]()
    for piece in pieces:
        for item in frames.feed(piece):
            if isinstance(item, Text) and found and isinstance(found[-1], Text):
                found[-1] = Text(found[-1].data + item.data)
            else:
                found.append(item)
    return found


STREAM = f"{NONCE} begin 0 /log x\nout\nno end{NONCE} end 0 changed 0 12\n{NONCE[:9]} not one\n{NONCE} done\n".encode()


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_cuts_do_not_matter(cuts: list[int]) -> None:
    places = sorted({0, len(STREAM), *cuts})
    pieces = [STREAM[start:end] for start, end in zip(places, places[1:], strict=False)]
    assert collect(pieces) == [
        Frame(("begin", "0", "/log", "x")),
        Text(b"out\nno end"),
        Frame(("end", "0", "changed", "0", "12")),
        Text(f"{NONCE[:9]} not one\n".encode()),
        Frame(("done",)),
    ]


def test_text_is_given_as_soon_as_it_cannot_be_a_frame() -> None:
    frames = Frames(NONCE)
    assert list(frames.feed(b"Reading package lists... ")) == [Text(b"Reading package lists... ")]
    assert list(frames.feed(NONCE[:4].encode())) == []
    assert list(frames.feed(b"zz")) == [Text(NONCE[:4].encode() + b"zz")]


def answer(*lines: str) -> bytes:
    return "".join(f"{line}\n" for line in lines).replace("@", NONCE).encode()


def test_an_answer() -> None:
    found = parse_answer(
        NONCE,
        answer(
            *("@ facts", "os=debian", "arch=x86_64", "@ volatile", "boot=b", "@ journal"),
            *(
                "step=k",
                "name=x",
                "digest=d",
                "change=r.1",
                "need=j:r.0",
                "finished=5",
                "ms=7",
                "pending=p.pending r.2",
            ),
            *("@ running", "@ met 1 1", "@ state 0", "type=file", "mode=0644", "@ ended 0 0"),
            *("@ content 0", base64.b64encode(b"old").decode(), "@ state 1", "why", "@ ended 1 10"),
            *("@ state 2", "type=file", "@ ended 2 1", "@ end"),
        ),
    )
    assert found.stable == {"os": "debian", "arch": "x86_64"}
    assert (found.volatile.boot, found.running) == ("b", "")
    assert found.journal.receipts == {"k": Receipt("x", "d", "r.1", {"j": "r.0"}, 5, 7)}
    assert found.journal.pending == {"p": "r.2"}
    assert found.steps == {
        0: Probed((("type", "file"), ("mode", "0644")), content=b"old"),
        1: Probed(None, "why", met=False),
        2: Probed(None),
    }


def test_an_answer_that_breaks_off_is_no_answer() -> None:
    with pytest.raises(DevboxError) as broken:
        parse_answer(NONCE, answer("@ facts", "os=debian"))
    assert broken.value.id == "provision.probe"


@pytest.mark.parametrize("said", ["", "; rm -rf /", "../../etc", NONCE[:-1]])
def test_the_guest_cannot_name_a_run_that_is_no_run(said: str) -> None:
    assert parse_answer(NONCE, answer("@ running", said, "@ end")).running == ""


def test_a_run_in_progress() -> None:
    other = NONCE[::-1]
    assert parse_answer(NONCE, answer("@ running", other, "@ end")).running == other


@given(st.binary(max_size=300))
def test_no_bytes_break_the_parser(data: bytes) -> None:
    whole = (
        f"{NONCE} journal\n".encode()
        + data
        + f"\n{NONCE} state 0\n".encode()
        + data
        + answer("", "@ ended 0 0", "@ end")
    )
    assert 0 in parse_answer(NONCE, whole).steps
