"""Little Devboxfiles made by chance, drift made by chance, a step that fails by chance: what the engine promises must
hold for each. One shell, since the shells are compared elsewhere.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from devbox.config.model import StepSpec
from devbox.errors import DevboxError
from devbox.provision.apply import Options, Report, provision
from devbox.provision.plan import Status
from tests.unit.provision.fake import FakeGuest, step

WALKS = settings(
    max_examples=6,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate),
)  # shrinking takes minutes
MODES = st.sampled_from(["0644", "0600", "0755"])
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12)
NAME = st.sampled_from(["a", "b c", "it's", 'q"$x', "-n", "*"])
KINDS = ("file", "directory", "template", "run")
# One step for each folder, so that none depends on an earlier one.
ASKED = st.lists(st.tuples(st.sampled_from(KINDS), NAME, TEXT, MODES), min_size=1, max_size=5)
DRIFT = st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["gone", "text", "mode", "link"])), max_size=4)


class Walk:
    """A guest of its own, with what a Devboxfile asks of it."""

    def __init__(self, root: Path, asked: list[tuple[str, str, str, str]]) -> None:
        self.guest = FakeGuest(root / "guest", "dash")
        self.context = self.guest.context(root)
        self.places = [self.guest.path(f"box/{number}") / name for number, (_, name, _, _) in enumerate(asked)]
        self.steps = tuple(
            self._step(number, *one, place) for number, (one, place) in enumerate(zip(asked, self.places, strict=True))
        )

    def _step(self, number: int, kind: str, name: str, text: str, mode: str, place: Path) -> StepSpec:
        options: Any = {
            "file": {"path": str(place), "content": text, "mode": mode},
            "template": {"path": str(place), "content": "{{ vars.text }}", "vars": {"text": text}, "mode": mode},
            "directory": {"path": str(place), "mode": mode},
            "run": {"run": 'mkdir -p "${made%/*}"; echo x >>"$made"', "creates": str(place)},
        }[kind]
        return step(kind, options, f"{number} {kind}", env={"made": str(place)})

    def go(self, *steps: StepSpec, **options: Any) -> Report:
        self.guest.channels = 0
        return provision(self.guest, steps or self.steps, self.context, Options(**options))

    def drift(self, number: int, how: str) -> None:
        place = self.places[number % len(self.places)]
        kind = self.steps[number % len(self.places)].kind
        if how == "mode" and place.exists() and not place.is_symlink():
            place.chmod(0o700)
        elif how == "gone" or (how == "text" and kind != "directory"):
            self._remove(place)
            if how == "text":
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text("drifted")
        elif how == "link" and kind in ("file", "template"):
            self._remove(place)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(self.guest.path("elsewhere"))

    @staticmethod
    def _remove(place: Path) -> None:
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)

    def assert_settled(self) -> None:
        report = self.go()
        assert {outcome.status for outcome in report.outcomes} == {Status.SAME}
        assert self.guest.channels == 1


def names(report: Report, *statuses: Status) -> list[str]:
    return [outcome.name for outcome in report.outcomes if outcome.status in statuses]


@WALKS
@given(ASKED, DRIFT)
def test_what_a_preview_says_is_what_changes_and_then_nothing_does(
    asked: list[tuple[str, str, str, str]], drift: list[tuple[int, str]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        walk = Walk(Path(folder), asked)
        for changes in ([], drift):
            for number, how in changes:
                walk.drift(number, how)
            told = names(walk.go(check=True), Status.WOULD_CHANGE, Status.UNKNOWN)
            assert walk.guest.channels == 1
            done = walk.go()
            assert names(done, Status.CHANGED) == told
            assert walk.guest.channels == (2 if told else 1)
            walk.assert_settled()
        assert not walk.guest.path("elsewhere").exists(), "a link in a file's place is replaced, not followed"


@WALKS
@given(ASKED, st.integers(0, 5), DRIFT)
def test_a_run_that_fails_is_resumed_and_repeats_nothing(
    asked: list[tuple[str, str, str, str]], at: int, drift: list[tuple[int, str]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        walk = Walk(Path(folder), asked)
        flag, count = walk.guest.path("flag"), walk.guest.path("count")
        failing = step("run", f"test -e {flag} && echo x >>{count}", "failing")
        at = min(at, len(walk.steps))
        steps = (*walk.steps[:at], failing, *walk.steps[at:])
        for _ in range(2):
            with pytest.raises(DevboxError, match="`failing`"):
                walk.go(*steps)
        before = walk.go(*steps, check=True)
        assert names(before, Status.SAME) == [one.name for one in steps[:at]]
        flag.touch()
        resumed = walk.go(*steps)
        assert names(resumed, Status.CHANGED) == [one.name for one in steps[at:]]
        for number, how in drift:
            walk.drift(number, how)
        walk.go(*steps)
        walk.steps = steps
        walk.assert_settled()
        assert count.read_text() == "x\n"


@settings(WALKS, max_examples=4)
@given(ASKED, st.data())
def test_choosing_steps_leaves_the_others_alone(asked: list[tuple[str, str, str, str]], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        walk = Walk(Path(folder), asked)
        chosen = data.draw(st.lists(st.sampled_from([one.name for one in walk.steps]), min_size=1, unique=True))
        done = walk.go(only=tuple(chosen))
        assert set(names(done, Status.CHANGED)) == set(chosen)
        for one, place in zip(walk.steps, walk.places, strict=True):
            assert place.exists() is (one.name in chosen)
        rest = walk.go()
        assert set(names(rest, Status.SAME)) == set(chosen)
        walk.assert_settled()
