"""What holds for every input: states and their differences, a step's digest, frames, the journal, names."""

import dataclasses
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from devbox.config import steps
from devbox.config.model import StepSpec, When
from devbox.provision import journal
from devbox.provision import step as step_module
from devbox.provision.bind import bind
from devbox.provision.facts import Facts
from devbox.provision.progress import Progress
from devbox.provision.step import Change, State, Step, difference, parse_state, render
from devbox.provision.wire import Frame, Frames, Text
from tests.unit.provision.fake import step

settings.register_profile(
    "properties", max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)
QUICK = settings.get_profile("properties")

FIELD = st.text(st.characters(exclude_characters="=", exclude_categories=("C", "Zl", "Zp")), min_size=1, max_size=8)
VALUE = st.text(st.characters(exclude_categories=("C", "Zl", "Zp")), max_size=12)
STATE: st.SearchStrategy[State] = st.dictionaries(FIELD, VALUE, max_size=6).map(lambda found: tuple(found.items()))
NONCE = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"


def apply_difference(state: State, changes: Sequence[Change]) -> State:
    """A model of what a kind's script does: the fields that differ, and nothing else."""
    model = dict(state)
    for change in changes:
        assert model.get(change.field) == change.old
        if change.new is None:
            del model[change.field]
        else:
            model[change.field] = change.new
    return tuple(model.items())


@QUICK
@given(STATE)
def test_equal_states_do_not_differ(state: State) -> None:
    assert difference(state, state) == ()
    assert difference(state, tuple(reversed(state))) == (), "order is no difference"


@QUICK
@given(STATE, STATE)
def test_a_difference_leads_from_one_state_to_the_other(actual: State, desired: State) -> None:
    reached = apply_difference(actual, difference(actual, desired))
    assert dict(reached) == dict(desired)
    assert difference(reached, desired) == ()


@QUICK
@given(STATE, STATE)
def test_a_difference_is_as_small_as_can_be(actual: State, desired: State) -> None:
    changes = difference(actual, desired)
    assert all(change.old != change.new for change in changes)
    assert len({change.field for change in changes}) == len(changes)
    back = difference(desired, actual)
    assert {(c.field, c.old, c.new) for c in changes} == {(c.field, c.new, c.old) for c in back}


@QUICK
@given(STATE)
def test_a_state_survives_being_printed(state: State) -> None:
    assert parse_state(render(state)) == state


@QUICK
@given(st.text(max_size=60))
def test_whatever_a_probe_prints_is_a_state_or_unknown(text: str) -> None:
    state = parse_state(text)
    if state is not None:
        assert parse_state(render(state)) == state
        assert len(dict(state)) == len(state)


WORD = st.text(st.characters(categories=("L", "N"), include_characters=" ._-'\"$"), min_size=1, max_size=12)
PATH = st.from_regex(r"/[a-z]{1,6}/[a-z]{1,6}", fullmatch=True)
MODE = st.sampled_from(["0644", "0600", "0755", "4755"])
VARS = st.dictionaries(st.from_regex(r"[A-Z]{1,4}", fullmatch=True), WORD, max_size=4)
OPTIONS = st.one_of(
    st.tuples(st.just("directory"), st.fixed_dictionaries({"path": PATH}, optional={"mode": MODE})),
    st.tuples(st.just("file"), st.fixed_dictionaries({"path": PATH, "content": WORD}, optional={"mode": MODE})),
    st.tuples(st.just("run"), st.fixed_dictionaries({"run": WORD.filter(str.strip)}, optional={"creates": PATH})),
    st.tuples(
        st.just("template"),
        st.fixed_dictionaries({"path": PATH, "content": st.just("{{ vars | tojson }}"), "vars": VARS}),
    ),
    st.tuples(
        st.just("packages"), st.fixed_dictionaries({"present": st.just(["git"])}, optional={"latest": st.just(["vim"])})
    ),
    st.tuples(st.just("wait"), st.fixed_dictionaries({"path": PATH}, optional={"timeout": st.integers(1, 59)})),
    st.tuples(
        st.just("sysctl"), st.dictionaries(st.sampled_from(["a.b", "c.d", "e.f"]), st.integers(0, 9), min_size=1)
    ),
)
AROUND = st.fixed_dictionaries({
    "timeout": st.none() | st.floats(1, 99),
    "retries": st.integers(0, 9),
    "when": st.sampled_from(When),
    "needs": st.lists(WORD, max_size=2).map(tuple),
    "tags": st.lists(WORD, max_size=2).map(tuple),
    "position": st.sampled_from(["Devboxfile:1", "Devboxfile:99"]),
    "condition": st.sampled_from([{}, {"arch": "x86_64"}, {"test": "true"}]),
})  # fmt: skip


def digest(spec: StepSpec, root: Path = Path("/")) -> str:
    (bound,) = bind((spec,), root, "dev")
    return bound.digest(Facts())


@QUICK
@given(OPTIONS, AROUND)
def test_a_digest_ignores_when_and_how_often(options: tuple[str, Any], around: Mapping[str, Any]) -> None:
    kind, asked = options
    assume(kind != "sysctl")  # whose file is named after the step
    spec = step(kind, asked, "a name")
    assert digest(dataclasses.replace(spec, name="another", **around)) == digest(spec)


@QUICK
@given(OPTIONS, st.randoms(use_true_random=False))
def test_a_digest_ignores_the_order_of_keys(options: tuple[str, Any], random: Any) -> None:
    kind, asked = options
    assume(kind not in ("sysctl", "template"))  # their order is that of the file's lines
    keys = list(asked)
    random.shuffle(keys)
    assert digest(step(kind, {key: asked[key] for key in keys})) == digest(step(kind, asked))


@QUICK
@given(VARS, VARS)
def test_a_digest_sees_the_environment_but_not_its_order(one: dict[str, str], other: dict[str, str]) -> None:
    turned = dict(reversed(one.items()))
    assert digest(step("run", "x", env=turned)) == digest(step("run", "x", env=one))
    assert (digest(step("run", "x", env=one)) == digest(step("run", "x", env=other))) is (one == other)


@QUICK
@given(OPTIONS, OPTIONS)
def test_a_digest_sees_kind_and_options(one: tuple[str, Any], other: tuple[str, Any]) -> None:
    assume(json.dumps(one, sort_keys=True) != json.dumps(other, sort_keys=True))
    assert digest(step(*one)) != digest(step(*other))


@QUICK
@given(OPTIONS, st.sampled_from(["root", "dev", "www-data"]), st.sampled_from(["", "/srv", "/home"]))
def test_a_digest_sees_account_folder_and_revision(options: tuple[str, Any], user: str, cwd: str) -> None:
    kind, asked = options
    (base,) = bind((step(kind, asked, user="root"),), Path("/"), "dev")
    (moved,) = bind((step(kind, asked, user=user, cwd=cwd),), Path("/"), "dev")
    assert (base.digest(Facts()) == moved.digest(Facts())) is (user == "root" and cwd == "")
    raised: Step[Any] = dataclasses.replace(base, kind=dataclasses.replace(base.kind, revision=base.kind.revision + 1))
    assert raised.digest(Facts()) != base.digest(Facts())


TREE = st.dictionaries(
    st.sampled_from(["a", "b", "d/c", "d/e/f"]), st.tuples(st.binary(max_size=20), st.booleans()), min_size=1
)


def plant(root: Path, tree: Mapping[str, tuple[bytes, bool]], mtime: int) -> Path:
    for name, (data, executable) in tree.items():
        path = root / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(0o755 if executable else 0o644)
        os.utime(path, (mtime, mtime))
    return root


@QUICK
@given(TREE, TREE, st.integers(1, 2_000_000_000))
def test_a_digest_sees_the_bytes_and_modes_of_inputs_alone(
    one: Mapping[str, tuple[bytes, bool]], other: Mapping[str, tuple[bytes, bool]], mtime: int
) -> None:
    spec = step("run", {"run": "make", "inputs": ["in"]})
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        found = digest(spec, plant(Path(first), one, 1))
        again = digest(spec, plant(Path(second), other, mtime))
    assert (found == again) is (one == other)


@QUICK
@given(st.binary(max_size=40), st.binary(max_size=40))
def test_a_digest_sees_the_bytes_of_a_file_of_the_project(one: bytes, other: bytes) -> None:
    spec = step("file", {"path": "/x", "src": "s"})
    found = []
    for data in (one, other):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "s").write_bytes(data)
            (bound,) = bind((spec,), Path(folder), "dev")
            found.append((bound.desired(Facts()), bound.key))
    assert (found[0] == found[1]) is (one == other)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@QUICK
@given(JSON, st.randoms(use_true_random=False))
def test_canonical_json_does_not_depend_on_order(value: Any, random: Any) -> None:
    def shuffled(part: Any) -> Any:
        if isinstance(part, list):
            return [shuffled(item) for item in part]
        if not isinstance(part, dict):
            return part
        keys = list(part)
        random.shuffle(keys)
        return {key: shuffled(part[key]) for key in keys}

    def text(part: Any) -> str:
        return json.dumps(part, default=step_module._canonical, sort_keys=True, separators=(",", ":"))

    assert text(shuffled(value)) == text(value)


def collect(nonce: str, pieces: Sequence[bytes]) -> list[Frame | Text]:
    frames, found = Frames(nonce), list[Frame | Text]()
    for piece in pieces:
        for item in frames.feed(piece):
            if isinstance(item, Text) and found and isinstance(found[-1], Text):
                found[-1] = Text(found[-1].data + item.data)
            else:
                found.append(item)
    return found


PIECE = st.one_of(
    st.binary(max_size=12),
    st.sampled_from(
        [NONCE.encode(), f"{NONCE} ".encode(), f"{NONCE[:7]}".encode(), b"\n", f"\n{NONCE} tick\n".encode()]
    ),
    st.text(max_size=6).map(lambda text: f"{NONCE} end 0 {text}\n".encode()),
)


@QUICK
@given(st.lists(PIECE, max_size=12), st.lists(st.integers(0, 400), max_size=10))
def test_frames_do_not_depend_on_where_the_bytes_are_cut(pieces: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(pieces)
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    parts = [stream[start:end] for start, end in zip(places, places[1:], strict=False)]
    assert collect(NONCE, parts) == collect(NONCE, [stream])
    single = [stream[at : at + 1] for at in range(len(stream))]
    assert collect(NONCE, single) == collect(NONCE, [stream])


OTHER = st.text("0123456789abcdef", min_size=32, max_size=32).filter(lambda nonce: nonce != NONCE)


@QUICK
@given(OTHER, st.lists(st.sampled_from(["end 0 changed 0 1", "done", "busy", "begin 1 /x y", "after 0 0", "lost"])))
def test_no_output_forges_an_event(guess: str, lines: list[str]) -> None:
    output = "".join(f"{guess} {line}\n" for line in lines).encode()
    progress = Progress(NONCE, None)
    progress.feed(f"{NONCE} begin 0 /log step\n".encode() + output)
    assert set(progress.steps) == {0}
    assert (progress.steps[0].outcome, progress.done, progress.busy, progress.lost) == ("", False, False, "")
    progress.feed(f"{NONCE} end 0 failed 3 5\n{NONCE} done\n".encode())
    progress.finish()
    assert (progress.steps[0].outcome, progress.done) == ("failed", True)


LINE = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        [
            "step=a",
            "step=b",
            "finished=1",
            "finished=x",
            "finished=\u00b2",  # a digit, and no number
            "ms=\u0662",
            "ms=7",
            "need=x:y",
            "need=",
            "pending=a.pending r",
            "pending=",
        ]
    ),
)


@QUICK
@given(st.lists(LINE, max_size=12))
def test_the_journal_is_read_whatever_it_holds(lines: list[str]) -> None:
    found = journal.parse("\n".join(lines))
    assert set(found.receipts) <= {line.removeprefix("step=") for line in "\n".join(lines).splitlines()}
    for key in found.pending:
        found.is_pending(key)


NAME = st.text(st.characters(exclude_categories=("C", "Zl", "Zp")), min_size=1, max_size=60)


@QUICK
@given(NAME, NAME)
def test_names_of_logs_are_safe_and_differ_where_the_steps_do(one: str, other: str) -> None:
    assert re.fullmatch(r"[a-z0-9-]{1,60}", journal.slug(one))
    assert (journal.slug(one) == journal.slug(other)) is (one == other)
    assert (journal.key(one) == journal.key(other)) is (one == other)


@QUICK
@given(st.sampled_from(["run", "file", "packages", "sysctl"]), JSON | st.text(max_size=120))
def test_a_default_name_is_one_short_printable_line(kind: str, options: Any) -> None:
    name = steps.default_name(kind, options)
    assert name.startswith(kind)
    assert name.isprintable()
    assert len(name) <= len(kind) + 81
    assert name == steps.default_name(kind, options)


@QUICK
@given(st.lists(st.from_regex(r"/[a-z]{1,3}", fullmatch=True), min_size=2, max_size=5))
def test_default_names_differ_where_paths_do(paths: list[str]) -> None:
    names = [steps.default_name("file", {"path": path, "content": ""}) for path in paths]
    assert len(set(names)) == len(set(paths))


@pytest.mark.parametrize("value", [object(), {1, 2}, 1j])
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        step_module._canonical(value)
