"""Every file of tests/cases: options and what a probe printed → desired state, difference, outcome. No guest."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from devbox.config.model import StepSpec, When
from devbox.errors import DevboxError
from devbox.provision.apply import Options
from devbox.provision.bind import KINDS, bind
from devbox.provision.facts import Facts, Volatile, from_lines
from devbox.provision.journal import Journal, Receipt
from devbox.provision.kinds.settings import Settings
from devbox.provision.plan import decide
from devbox.provision.step import parse_state, render
from devbox.provision.wire import Answer, Probed

ROOT = Path(__file__).parents[3]
CASES = sorted((ROOT / "tests/cases").glob("*/*.json"))
INTERNAL = {"disk", "mount", "settings"}
NAMES = {
    "name": "demo",
    "hostname": "box",
    "user": {"name": "dev", "uid": 1000, "gid": 1000, "home": "/home/dev"},
    "ports": {"web": 8080},
    "env": {"STAGE": "test"},
}


def spec_of(kind: str, case: dict[str, Any]) -> StepSpec:
    common, options = dict(case.get("step", {})), case["options"]
    if "when" in common:
        common["when"] = When(common["when"])
    if kind == "settings":
        certificates = tuple(text.encode() for text in options.pop("ca_certs", ()))
        lists = {name: tuple(map(_tuple, value)) for name, value in options.items() if isinstance(value, list)}
        options = Settings(**{**options, **lists, "ca_certs": certificates})
    return StepSpec("the step", kind, options, position="Devboxfile:3", **common)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def case_id(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


@pytest.mark.parametrize("path", CASES, ids=case_id)
def test_case(path: Path, tmp_path: Path) -> None:
    case: dict[str, Any] = json.loads(path.read_text())
    kind, expect = path.parent.name, case["expect"]
    for name, text in case.get("project", {}).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    spec = spec_of(kind, case)
    facts = from_lines(
        {"os": "debian", "version": "12", "arch": "x86_64", "manager": "apt", **case.get("facts", {})}, NAMES
    )
    if "error" in expect:
        with pytest.raises(DevboxError) as mistake:
            bind((spec,), tmp_path, "dev")[0].desired(facts)
        assert expect["error"] in mistake.value.message
        return
    if kind not in INTERNAL:
        schema = json.loads((ROOT / f"schemas/kinds/{kind}.schema.json").read_text())
        jsonschema.validate(case["options"], schema)
    (step,) = bind((spec,), tmp_path, "dev")
    digest = step.digest(facts)

    def filled(text: str) -> str:
        return text.replace("@digest", digest)

    desired = step.desired(facts)
    assert render(desired).splitlines() == [filled(line) for line in expect["desired"]]
    receipt = case.get("receipt")
    receipts = {step.key: Receipt("the step", filled(receipt), "run.0", {}, 1, 1)} if receipt else {}
    actual = case["actual"]
    probed = Probed(None if actual is None else parse_state(filled("\n".join(actual))), case.get("inapplicable", ""))
    answer = Answer({}, Volatile(), Journal(receipts, {}), "", {0: probed})
    (decision,) = decide({0: step}, answer, facts, Options(), {step.name: step.key})
    assert [[c.field, c.old, c.new] for c in decision.changes] == [
        [field, *(None if value is None else filled(value) for value in values)]
        for field, *values in expect["difference"]
    ]
    assert decision.status == expect["outcome"]
    assert expect.get("reason", decision.reason) == decision.reason
    script = step.kind.apply(step.options, facts).script.decode()
    for part in expect.get("script", ()):
        assert part in script


def test_every_kind_has_its_cases() -> None:
    for kind in KINDS:
        assert len([path for path in CASES if path.parent.name == kind]) >= 10, kind


def test_a_digest_without_facts_is_that_of_an_action() -> None:
    """The probe run needs the digest of an action before it knows the guest."""
    (step,) = bind((StepSpec("x", "run", "true"),), ROOT, "dev")
    assert step.digest(Facts()) == step.digest(from_lines({"os": "debian", "arch": "x86_64"}, NAMES))
