"""The lock is the truth: what it holds is taken and nothing else, from wherever it is still to be had."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from devbox import fs, paths
from devbox.box import catalogue, image, online, recipe, store
from devbox.commands import locking
from devbox.config import lock as locks
from devbox.config.lock import Lock, Pin
from devbox.config.model import Arch, BoxRef, Digest, Firmware, StepSpec, When
from devbox.disk import record as records
from devbox.errors import DevboxError, ExitCode
from devbox.provision import artefacts
from tests.unit.commands.invoke import invoke
from tests.unit.commands.world import NEW, OLD, TOOL, World, sha256, sha512, worlds
from tests.unit.disk import machines


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    yield from worlds(tmp_path, monkeypatch)


def refused(world: World) -> DevboxError:
    with pytest.raises(DevboxError) as caught:
        world.resolve()
    return caught.value


def download(url: str, name: str = "tool", digest: str = "") -> str:
    more = f", sha256: {digest}" if digest else ""
    return f'{{name: {name}, download: {{url: "{url}", path: /opt/{name}{more}}}}}'


def test_the_first_up_writes_it_and_says_so(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    url, tool = world.publish("/old.img", OLD), world.publish("/tool", TOOL)
    world.catalogue(url, OLD)
    world.ask("deb", download(tool, digest=sha256(TOOL).upper()))
    assert world.resolve() == OLD
    told = capsys.readouterr().err.splitlines()
    assert [line for line in told if "lock" in line] == ["✓ Wrote Devboxfile.lock: commit it."]
    written = json.loads(world.lock_text())
    assert written["machines"]["default"]["x86_64"] == {
        "source": "deb",
        "url": url,
        "digest": f"sha512:{sha512(OLD)}",
        "sha256": sha256(OLD),
        "size": len(OLD),
    }
    assert written["downloads"] == {tool: {"sha256": sha256(TOOL)}}
    artefacts.ensure(tool, sha256(TOOL), title="as a step does")
    locking.settle(world.project(), None, locked=False)
    assert json.loads(world.lock_text())["downloads"] == {tool: {"sha256": sha256(TOOL), "size": len(TOOL)}}


def test_it_is_not_written_again_when_nothing_has_changed(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.catalogue(world.publish("/old.img", OLD), OLD)
    world.ask()
    world.resolve()
    before, text = (world.root / "Devboxfile.lock").stat(), world.lock_text()
    (world.root / "Devboxfile.lock").write_text(text.replace('"devbox": "', '"devbox": "0.'))  # an older devbox's
    capsys.readouterr()
    world.forget()
    world.resolve()
    after = (world.root / "Devboxfile.lock").stat()
    assert (before.st_ino, world.lock_text() != text) == (after.st_ino, True)
    assert "lock" not in capsys.readouterr().err


def test_a_newer_image_in_the_catalogue_moves_nobody_who_has_a_lock(world: World) -> None:
    world.catalogue(world.publish("/old.img", OLD), OLD)
    world.ask()
    world.resolve()
    world.catalogue(world.publish("/new.img", NEW), NEW)
    text = world.lock_text()
    assert world.resolve() == OLD
    world.forget()  # on another computer, too
    assert world.resolve() == OLD
    assert world.asked() == ["/old.img"]
    assert world.lock_text() == text


@pytest.mark.parametrize("catalogue_follows", [False, True])
def test_other_bytes_at_the_locked_address_are_refused(world: World, *, catalogue_follows: bool) -> None:
    url = world.publish("/deb.img", OLD)
    world.catalogue(url, OLD)
    world.ask()
    world.resolve()
    world.forget()
    world.publish("/deb.img", NEW)
    if catalogue_follows:
        world.catalogue(url, NEW)
    trouble = refused(world)
    assert trouble.id == "lock.changed"
    assert sha512(OLD) in trouble.message
    assert sha512(NEW) in trouble.message
    assert trouble.hint.endswith("devbox lock --update deb")
    assert store.entries() == ()
    assert invoke("lock", "--update", "deb").status == (0 if catalogue_follows else 1)
    if catalogue_follows:
        assert world.resolve() == NEW


def test_a_local_image_that_was_changed_is_refused(world: World) -> None:
    (world.root / "disk.raw").write_bytes(OLD)
    world.ask("{path: disk.raw, format: raw}")
    assert invoke("lock", "--approve=all").status == 0
    world.forget()
    assert world.resolve() == OLD
    (world.root / "disk.raw").write_bytes(NEW)
    world.forget()
    trouble = refused(world)
    assert (trouble.id, trouble.hint.rpartition(": ")[2]) == ("lock.changed", "devbox lock --update disk.raw")
    assert sha256(OLD) in trouble.message
    assert sha256(NEW) in trouble.message
    assert invoke("lock", "--update", "disk.raw").status == 0
    assert world.resolve() == NEW


def prefer(text: str) -> None:
    fs.make_private_dir(paths.preferences_file().parent)
    paths.preferences_file().write_text(text)


@pytest.mark.parametrize("status", [404, 410])
def test_an_image_that_is_gone_is_told_with_the_command(world: World, status: int) -> None:
    world.catalogue(world.publish("/old.img", OLD), OLD)
    world.ask()
    world.resolve()
    world.forget()
    world.publish("/old.img", OLD, status=[status, status])
    trouble = refused(world)
    assert trouble.id == "lock.gone"
    assert sha512(OLD) in trouble.message
    assert "Update devbox, whose catalogue may have a newer build, then: devbox lock --update deb" in trouble.hint
    assert str(paths.preferences_file()) in trouble.hint
    world.catalogue(world.publish("/new.img", NEW), NEW)
    assert refused(world).hint.startswith("Take what there is now: devbox lock --update deb\n")


def test_the_mirrors_of_the_user_are_tried_in_turn(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    url = world.publish("/pool/old.img", OLD)
    world.catalogue(url, OLD)
    world.ask()
    world.resolve()
    base = url.removesuffix("/pool/old.img")
    prefer(f"mirrors:\n  {base}/pool: ['{base}/none', {base}/other/, {base}/good, {base}/never]\n")
    for path, body, how in (
        ("/pool/old.img", OLD, {"status": [404, 404]}),
        ("/none/old.img", OLD, {"status": [410]}),
        ("/other/old.img", NEW, {}),
        ("/good/old.img", OLD, {}),
        ("/never/old.img", OLD, {}),
    ):
        world.publish(path, body, **how)
    world.forget()
    text = world.lock_text()
    capsys.readouterr()
    assert world.resolve() == OLD
    assert world.asked() == ["/pool/old.img", "/none/old.img", "/other/old.img", "/good/old.img"]
    assert "Trying your mirror 127.0.0.1." in capsys.readouterr().err
    assert world.lock_text() == text  # the lock is everybody's, a mirror is one person's

    world.forget()
    world.publish("/pool/old.img", OLD, status=[404])
    for path in ("/none/old.img", "/good/old.img", "/never/old.img"):
        del world.server.resources[path]
    trouble = refused(world)
    assert trouble.id == "lock.gone"
    assert trouble.details.count("your mirror: ") == 4
    assert store.entries() == ()


def test_a_mirror_serves_what_steps_fetch_too(world: World) -> None:
    url = world.publish("/a/tool", TOOL, status=[404])
    prefer(f"mirrors: {{'{url.removesuffix('/tool')}': ['{url.removesuffix('/a/tool')}/b']}}\n")
    world.publish("/b/tool", TOOL)
    assert artefacts.ensure(url, sha256(TOOL), title="x").read_bytes() == TOOL


def test_a_step_whose_file_has_changed_names_the_command(world: World) -> None:
    url = world.publish("/tool", TOOL)
    with pytest.raises(DevboxError, match=r"devbox lock --update http://127.0.0.1:[0-9]+/tool`") as caught:
        artefacts.ensure(url, sha256(b"other"), title="x")
    assert caught.value.id == "download.digest"


def test_everything_that_is_not_locked_is_named_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    urls = [world.publish(f"/{name}", TOOL) for name in ("img", "one", "two", "key")]
    world.catalogue(urls[0], OLD)
    key = f'{{name: repo, repository: {{name: r, url: "https://deb.test", key: {{url: "{urls[3]}"}}}}}}'
    world.ask("deb", download(urls[1], "one"), download(urls[2], "two", sha256(TOOL)), key)
    for verb in ("up", "verify"):
        shown = invoke(verb, "--locked")
        assert shown.status == ExitCode.USAGE
        assert "the box deb (x86_64): it has none" in shown.stderr
        for name, url in zip(("one", "two", "repo"), urls[1:], strict=True):
            assert f"{name}: it has no digest for {url}" in shown.stderr
        assert "devbox lock" in shown.stderr
    monkeypatch.setenv("CI", "true")
    for verb in ("up", "verify"):
        shown = invoke(verb)
        assert "since `CI` is set" in shown.stderr
        assert shown.status == ExitCode.USAGE
    assert "gives its sha256" not in invoke("up", "--no-locked").stderr
    assert "nothing says which file" in invoke("up", "--no-locked").stderr
    assert world.asked() == []
    assert not (world.root / "Devboxfile.lock").exists()


def test_a_committed_lock_satisfies_ci(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    tool, key = world.publish("/tool", TOOL), world.publish("/key", b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n")
    world.catalogue(world.publish("/img", OLD), OLD)
    step = f'{{repository: {{name: r, url: "https://deb.test", key: {{url: "{key}"}}}}}}'
    world.ask("deb", download(tool), step)
    assert invoke("lock").status == 0
    monkeypatch.setenv("CI", "1")
    project, text = world.project(), world.lock_text()
    locking.require(project, None, locked=None)
    assert project.machine.steps[0].options["sha256"] == sha256(TOOL)
    assert project.machine.steps[1].options["key"]["sha256"]
    assert locking.find_image(project, None, locked=None).path.read_bytes() == OLD
    assert invoke("validate").status == 0
    assert world.lock_text() == text


@pytest.mark.parametrize(
    ("value", "locked"),
    [("", False), ("0", False), ("false", False), ("No", False), ("1", True), ("true", True), ("woodpecker", True)],
)
def test_ci_is_where_the_variable_says_so(value: str, *, locked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    assert locking.is_asked(None) is False
    monkeypatch.setenv("CI", value)
    assert locking.is_asked(None) is locked
    assert [locking.is_asked(flag) for flag in (True, False)] == [True, False]


def test_a_stale_lock_is_refused_in_ci_and_brought_up_to_date_elsewhere(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.catalogue(world.publish("/old.img", OLD), OLD)
    world.catalogue(world.publish("/other.img", NEW), NEW, "other")
    world.ask("deb")
    world.resolve()
    world.ask("other")
    assert list(locking.unlocked(world.project(), locks.read(world.root))) == [
        "the box other (x86_64): it has one for deb"
    ]
    capsys.readouterr()
    assert world.resolve() == NEW
    told = capsys.readouterr().err
    assert f"deb → other (x86_64): sha512:{sha512(OLD)[:16]}… → sha512:{sha512(NEW)[:16]}…" in told
    assert list(locking.unlocked(world.project(), locks.read(world.root))) == []


def test_a_digest_in_the_devboxfile_that_the_lock_has_not_is_told(world: World) -> None:
    url, tool = world.publish("/x.img", OLD), world.publish("/tool", TOOL)
    world.ask(f'{{url: "{url}", format: raw, sha256: {sha256(OLD)}}}', download(tool, digest=sha256(TOOL)))
    world.resolve()
    world.ask(f'{{url: "{url}", format: raw, sha256: {"a1" * 32}}}', download(tool, digest="b2" * 32))
    (first, second) = locking.unlocked(world.project(), locks.read(world.root))
    assert first.endswith(f"it has sha256:{sha256(OLD)}, and the Devboxfile asks for sha256:{'a1' * 32}")
    assert second == f"tool: it has sha256:{sha256(TOOL)}, and the Devboxfile asks for sha256:{'b2' * 32}"


def test_what_others_have_locked_stays(world: World) -> None:
    world.catalogue(world.publish("/old.img", OLD), OLD)
    world.ask()
    theirs = Lock(world.root).with_pin("default", Arch.AARCH64, Pin("deb", "", None, "1" * 64, 5))
    theirs = theirs.with_pin("second", Arch.X86_64, Pin("deb", "", None, "2" * 64, 5))
    locks.write(world.root, theirs)
    world.resolve()
    now = locks.read(world.root)
    assert now.pins.keys() == {*theirs.pins, ("default", Arch.X86_64)}
    assert {key: now.pins[key] for key in theirs.pins} == theirs.pins


def test_a_project_that_cannot_be_written_to_fails_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world.catalogue(world.publish("/old.img", OLD), OLD)
    world.ask()

    def read_only(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(locks, "write", read_only)
    assert world.resolve() == OLD
    assert "Devboxfile.lock could not be written (Read-only file system)" in capsys.readouterr().err


def test_the_lock_cannot_send_a_name_to_another_server(world: World) -> None:
    world.catalogue(world.publish("/old.img", OLD), OLD)
    world.ask()
    foreign = Pin("deb", "https://evil.test/deb.img", Digest("sha256", sha256(NEW)), sha256(NEW), 5)
    locks.write(world.root, Lock(world.root).with_pin("default", Arch.X86_64, foreign))
    trouble = refused(world)
    assert trouble.id == "lock.foreign"
    assert "evil.test" in trouble.message
    assert world.asked() == []


def test_only_what_everybody_has_is_locked(world: World) -> None:
    world.catalogue(world.publish("/old.img", OLD), OLD)
    world.catalogue(world.publish("/own.img", NEW), NEW, "own")
    world.ask()
    (world.root / "Devboxfile.local").write_text("box: own\n")
    assert world.resolve() == NEW
    assert not (world.root / "Devboxfile.lock").exists()
    (world.root / "Devboxfile.local").write_text("memory: 1GiB\n")
    assert world.resolve() == OLD
    text = world.lock_text()
    (world.root / "Devboxfile.local").write_text("box: own\n")
    assert world.resolve() == NEW
    assert world.lock_text() == text
    shown = invoke("up", "--locked").stderr
    assert "the box own (x86_64): it has one for deb" in shown
    assert "Devboxfile.local" in shown


ANOTHER = b"another!" * 64


def test_a_lock_cannot_paint_the_terminal(world: World) -> None:
    world.catalogue(world.publish("/old.img", OLD), OLD)
    world.ask()
    locks.write(
        world.root, Lock(world.root).with_pin("default", Arch.X86_64, Pin("\x1b[31mred\u202e", sha256="1" * 64))
    )
    shown = invoke("up", "--locked").stderr
    assert "it has one for" in shown
    assert not {"\x1b", "\u202e"} & set(shown)


def recipes(world: World, monkeypatch: pytest.MonkeyPatch, inputs: str) -> None:
    """A recipe that has these inputs, and makes an image of them."""
    monkeypatch.setattr(recipe, "inputs_digest", lambda *_: inputs)
    monkeypatch.setattr(recipe, "build", lambda name, arch, packages, target: target.write_bytes(inputs.encode() * 8))
    monkeypatch.setattr(catalogue, "locate", _raw(catalogue.locate))
    world.ask("{recipe: debian-12}")


def _raw(locate: "object") -> "object":
    from dataclasses import replace

    return lambda *words: replace(locate(*words), format="raw")  # type: ignore[operator]


def test_a_recipe_is_held_to_its_inputs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = "a" * 64, "b" * 64
    recipes(world, monkeypatch, old)
    made = world.resolve()
    (pin,) = locks.read(world.root).pins.values()
    assert pin == Pin("recipe:debian-12", inputs=old, sha256=sha256(made), size=len(made))
    with monkeypatch.context() as other_day:  # another build of the same inputs has other bytes, and that is right
        other_day.setattr(recipe, "build", lambda *words: words[3].write_bytes(ANOTHER))
        world.forget()
        locking.require(world.project(), None, locked=True)
        assert world.resolve() == ANOTHER
    assert locks.read(world.root).pins == {("default", Arch.X86_64): pin}
    with monkeypatch.context() as newer:
        newer.setattr(recipe, "inputs_digest", lambda *_: new)
        locking.require(world.project(), None, locked=True)  # what it became is in the store still
        assert world.resolve() == ANOTHER
        world.forget()
        trouble = refused(world)
        assert trouble.id == "lock.changed"
        assert old in trouble.message
        assert new in trouble.message
        assert trouble.hint.endswith("devbox lock --update debian-12")
        shown = invoke("up", "--locked")
        assert old in shown.stderr
        assert new in shown.stderr
        assert "devbox lock --update debian-12" in shown.stderr
        assert invoke("lock", "--update", "debian-12").status == 0
        locking.require(world.project(), None, locked=True)
        assert locks.read(world.root).pins == {("default", Arch.X86_64): Pin("recipe:debian-12", inputs=new)}


@pytest.fixture
def no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any attempt to reach another computer, or this one by its network, fails the test."""
    import socket

    import httpx

    def forbidden(*words: object, **_: object) -> None:
        pytest.fail(f"went to the network: {words}")

    monkeypatch.setattr(httpx, "Client", forbidden)
    monkeypatch.setattr(socket.socket, "connect", forbidden)
    monkeypatch.setattr(socket, "getaddrinfo", forbidden)


def locked_world(world: World) -> tuple[str, str]:
    tool, key = world.publish("/tool", TOOL), world.publish("/key", b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n")
    url = world.publish("/old.img", OLD)
    world.catalogue(url, OLD)
    other = f'{{name: else, if: {{os: fedora}}, download: {{url: "{url}", sha256: {"c3" * 32}, path: /y}}}}'
    gone = '{repository: {name: old, state: absent, key: {url: "https://no.test/k"}}}'
    step = f'{{name: repo, repository: {{name: r, url: "https://deb.test", key: {{url: "{key}"}}}}}}'
    world.ask("deb", download(tool), step)
    assert invoke("lock").status == 0
    world.ask("deb", download(tool), step, other, gone)
    return tool, key


def test_offline_with_everything_here_goes_nowhere(world: World, request: pytest.FixtureRequest) -> None:
    tool, _ = locked_world(world)
    asked = world.asked()
    request.getfixturevalue("no_connection")
    with online.forbidden(when=True):
        project = world.project()
        locking.require(project, None, locked=False)
        assert world.resolve() == OLD
        for step in project.machine.steps[:1]:
            assert artefacts.ensure(tool, step.options["sha256"], title="x").read_bytes() == TOOL
    assert world.asked() == asked


def test_offline_names_all_that_is_missing_before_anything_starts(world: World, request: pytest.FixtureRequest) -> None:
    tool, key = locked_world(world)
    world.forget()
    request.getfixturevalue("no_connection")
    shown = invoke("up", "--offline")
    assert shown.status == ExitCode.FAILED
    for line in (f"the box deb (x86_64), from {tool.removesuffix('/tool')}/old.img", f"tool: {tool}", f"repo: {key}"):
        assert line in shown.stderr
    assert "else:" not in shown.stderr  # it is for fedora
    assert "tool:" not in invoke("up", "--offline", "--no-provision").stderr
    assert world.asked() == []
    assert list((paths.state_dir() / "machines").glob("*")) == []


def test_offline_a_step_that_acts_after_all_is_refused_its_file(world: World, no_connection: None) -> None:
    with online.forbidden(when=True), pytest.raises(DevboxError, match="`--offline` forbids") as caught:
        artefacts.ensure("https://x.test/tool.tgz", "1" * 64, title="x")
    assert caught.value.id == "download.offline"


def test_offline_builds_no_recipe(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "build", lambda *_: pytest.fail("built"))
    source = catalogue.locate(BoxRef(recipe="debian-12"), Arch.X86_64)
    with online.forbidden(when=True), pytest.raises(DevboxError, match="recipe debian-12"):
        image.ensure(source)


def test_offline_a_local_image_is_no_matter_of_the_network(world: World, no_connection: None) -> None:
    (world.root / "disk.raw").write_bytes(OLD)
    world.ask(f"{{path: disk.raw, format: raw, sha256: {sha256(OLD)}}}")
    with online.forbidden(when=True):
        locking.require(world.project(), None, locked=False)
        assert world.resolve() == OLD


@pytest.mark.parametrize(
    ("step", "may"),
    [
        (StepSpec("a", "download", {}), True),
        (StepSpec("a", "download", {}, when=When.MANUAL), False),
        (StepSpec("a", "download", {}, condition={"arch": "aarch64"}), False),
        (StepSpec("a", "download", {}, condition={"arch": ["aarch64", "x86_64"]}), True),
        (StepSpec("a", "download", {}, condition={"os": ["fedora", "opensuse-leap"]}), True),
        (StepSpec("a", "download", {}, condition={"os": "debian"}), False),
    ],
)
def test_a_step_that_cannot_act_needs_no_file(step: StepSpec, *, may: bool) -> None:
    assert locking.may_apply(step, Arch.X86_64, "opensuse") is may
    assert locking.may_apply(StepSpec("a", "run", "x", condition={"os": "debian"}), Arch.X86_64, "unknown") is True


def made_machine(world: World, image_sha256: str) -> records.Record:
    """The project's machine, as it was made from the image of this digest."""
    from dataclasses import replace

    plain = machines.image(world.root.parent / "blobs")
    record = records.ensure(world.project(), replace(plain, sha256=image_sha256), Firmware.BIOS)
    record.dir.disk.touch()
    return record


def test_a_machine_from_before_the_lock_gets_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    url = world.publish("/old.img", OLD)
    world.catalogue(url, OLD)
    world.ask()
    world.resolve()
    (world.root / "Devboxfile.lock").unlink()
    record = made_machine(world, sha256(OLD))
    monkeypatch.setattr("devbox.disk.overlay.held_image", lambda _: "its own")
    assert locking.find_image(world.project(), record, locked=False) == "its own"  # type: ignore[comparison-overlap]
    (pin,) = locks.read(world.root).pins.values()
    assert (pin.url, pin.digest, pin.sha256) == (url, Digest("sha512", sha512(OLD)), sha256(OLD))


def test_a_machine_that_is_another_than_the_lock_says_so(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world.catalogue(world.publish("/old.img", OLD), OLD)
    world.ask()
    world.resolve()
    text = world.lock_text()
    record = made_machine(world, "7" * 64)
    monkeypatch.setattr("devbox.disk.overlay.held_image", lambda _: None)
    locking.find_image(world.project(), record, locked=False)
    assert "another image by now than this machine was made from" in capsys.readouterr().err
    assert world.lock_text() == text


def test_the_store_remembers_what_an_image_came_as(world: World) -> None:
    import gzip

    packed = gzip.compress(OLD)
    url = world.publish("/old.img.gz", packed)
    world.catalogue(url, packed)
    world.ask()
    assert world.resolve() == OLD
    (pin,) = locks.read(world.root).pins.values()
    assert (pin.sha256, pin.size) == (sha256(packed), len(packed))
    # An image that an older devbox stored: its published digest is proof enough.
    for index in (paths.cache_dir() / "index").glob("*.json"):
        about = json.loads(index.read_bytes())
        assert about.pop("came_as") == {"sha256": sha256(packed), "size": len(packed)}
        index.write_text(json.dumps(about))
    (world.root / "Devboxfile.lock").unlink()
    world.resolve()
    (pin,) = locks.read(world.root).pins.values()
    assert (pin.digest, pin.sha256, pin.size) == (Digest("sha512", sha512(packed)), "", 0)
    assert store.came_as(f"sha512-{sha512(packed)}") is None
