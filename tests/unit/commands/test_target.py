"""What a verb may do with a machine whose first `up` was interrupted."""

from pathlib import Path

import pytest

from devbox.commands import clone, target
from devbox.disk import chain, fork, identity, overlay
from devbox.errors import DevboxError
from tests.unit.commands.invoke import invoke
from tests.unit.disk import machines


@pytest.mark.parametrize("first_boot", [True, False])
def test_nothing_is_kept_of_a_machine_that_is_not_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, first_boot: bool
) -> None:
    record, image = machines.record(tmp_path)
    overlay.ensure(record, image)
    target.require_finished(record)
    if first_boot:
        record.dir.first_boot.touch()
    else:
        identity.begin(record)
    (record.project / "Devboxfile").touch()
    monkeypatch.chdir(record.project)
    for words in (("snapshot", "save", "one"), ("clone", "two")):
        shown = invoke(*words)
        assert (shown.status, "not ready yet" in shown.stderr, "`devbox up`" in shown.stderr) == (1, True, True)
    assert not record.dir.snapshots.exists()
    assert chain.parents(record.dir) == (record.dir.parent(image.sha256),)


def test_a_machine_is_not_cloned_until_its_disk_is_too_deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record, image = machines.record(tmp_path)
    overlay.ensure(record, image)
    monkeypatch.setattr(clone, "_DEEPEST", 3)
    for _ in range(2):
        clone._freeze(record)
    with pytest.raises(DevboxError, match="one file more") as refused:
        clone._freeze(record)
    assert refused.value.id == "clone.state"
    assert len(chain.parents(record.dir)) == 3
    assert fork.freeze(record).exists()
