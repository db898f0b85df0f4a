"""Where secrets come from, and how a step under a local shell sees them while nothing else does."""

import hashlib
import hmac
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from devbox import proc, redact
from devbox.config.model import Arch, Folder, MachineSpec, Secret, StepSpec, When
from devbox.errors import DevboxError
from devbox.guest.openssh import Endpoint
from devbox.provision import bind as bind_module
from devbox.provision import journal, secrets
from devbox.provision.apply import Options, Report, provision
from devbox.provision.bind import bind
from devbox.provision.facts import Facts
from devbox.provision.journal import Places
from devbox.provision.kinds import run
from devbox.provision.secrets import resolve, revealed
from devbox.provision.step import HostResult, HostSide
from tests.unit.provision.fake import FakeGuest, Go, step

VALUE = 'it\'s "50%" $HOME\\ é\n  second line of it'


def statuses(report: Report) -> list[str]:
    return [str(outcome.status) for outcome in report.outcomes]


def read(*secrets: Secret, folders: tuple[Folder, ...] = ()) -> dict[str, str]:
    machine = MachineSpec("default", {}, Arch.X86_64, secrets=secrets, folders=folders)
    return dict(resolve(machine, [step("run", "x", secrets=tuple(one.name for one in secrets))]))


def refusal(*secrets: Secret, folders: tuple[Folder, ...] = ()) -> tuple[str, str]:
    with pytest.raises(DevboxError) as refused:
        read(*secrets, folders=folders)
    assert refused.value.hint
    return refused.value.id, refused.value.message + refused.value.details + refused.value.hint


def script(tmp_path: Path, text: str) -> str:
    path = tmp_path / "program"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", VALUE)
    assert read(Secret("TOKEN", env="MY_TOKEN")) == {"TOKEN": VALUE}
    assert redact.text(f"<{VALUE}>") == "<‹TOKEN›>"
    monkeypatch.delenv("MY_TOKEN")
    assert refusal(Secret("TOKEN", env="MY_TOKEN"))[0] == "secret.missing"


@pytest.mark.parametrize(
    ("data", "value"),
    [(b"abcd\n", "abcd"), (b"abcd", "abcd"), (b"abcd\n\n", "abcd\n"), (b" ab\r\n", " ab"), (VALUE.encode(), VALUE)],
)
def test_the_end_of_the_last_line_does_not_count(data: bytes, value: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(data)
    if len(value.strip()) < 4:
        assert refusal(Secret("KEY", file=tmp_path / "key"))[0] == "secret.unfit"
    else:
        assert read(Secret("KEY", file=tmp_path / "key")) == {"KEY": value}
    assert proc.ask(("/bin/cat", tmp_path / "key"), timeout=5).stdout == data


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b"\n", "empty"),
        (b" \t ", "empty"),
        (b"abc\n", "less than 4"),
        (b"hunter2\0x", "NUL"),
        (b"hunter2\xff", "UTF-8"),
        (b"hunter2" * 10000, "64 KiB"),
    ],
)
def test_what_cannot_be_a_secret(data: bytes, why: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(data)
    id, words = refusal(Secret("KEY", file=tmp_path / "key"))
    assert (id, why in words) == ("secret.unfit", True)
    assert "hunter2" not in words


def test_files_that_are_none(tmp_path: Path) -> None:
    assert refusal(Secret("KEY", file=tmp_path / "no"))[0] == "secret.missing"
    assert refusal(Secret("KEY", file=tmp_path))[0] == "secret.unreadable"
    os.mkfifo(tmp_path / "pipe")
    assert refusal(Secret("KEY", file=tmp_path / "pipe"))[0] == "secret.unreadable"


def test_a_link_that_came_after_the_approval_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    (tmp_path / "private/key").write_text("not for the machine")
    (tmp_path / "link").symlink_to("private/key")
    (tmp_path / "folder").symlink_to("private")
    for path in ("link", "folder/key"):
        id, words = refusal(Secret("KEY", file=tmp_path / path))
        assert id == "secret.unreadable"
        assert "not for" not in words


def test_a_command_is_asked_by_its_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = script(tmp_path, 'echo "prompt $2" >&2; echo "told: $2" >&2; echo "$MORE$2"; pwd >/dev/null')
    odd = "a 'b' \"c\" $(d)"
    assert read(Secret("P", command=(program, "show", odd))) == {"P": odd}
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "prompt ‹P›" in shown.err
    assert "told: ‹P›" in shown.err


def test_commands_that_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = script(tmp_path, "echo hunter2; echo no such entry >&2; exit 3")
    id, words = refusal(Secret("P", command=(program,)))
    assert (id, "exit status 3" in words, "hunter2" in words) == ("secret.unreadable", True, False)
    assert "no such entry" in capsys.readouterr().err
    assert refusal(Secret("P", command=("there-is-no-such-program",)))[0] == "tool.missing"
    with pytest.raises(DevboxError) as late:
        proc.ask(("/bin/sh", "-c", "echo hunter2; sleep 600 & wait"), timeout=0.3)
    assert (late.value.id, late.value.details) == ("tool.timeout", "")


def test_a_program_that_the_machine_may_have_written_is_not_run(tmp_path: Path) -> None:
    shared = Folder(tmp_path, PurePosixPath("/x"))
    marker = tmp_path / "ran"
    secret = Secret("P", command=(script(tmp_path, f"echo abcdef; touch {marker}"),))
    id, words = refusal(secret, folders=(shared,))
    assert (id, "may write" in words) == ("secret.unreadable", True)
    assert not marker.exists()
    assert read(secret, folders=(replace(shared, readonly=True),)) == {"P": "abcdef"}


def test_the_keyring(monkeypatch: pytest.MonkeyPatch) -> None:
    class KeyringError(Exception):
        pass

    def get_password(service: str, username: str) -> str | None:
        if service == "locked":
            raise KeyringError("hunter2")
        return {("s", "u"): "hunter2"}.get((service, username))

    errors = ModuleType("keyring.errors")
    errors.KeyringError = KeyringError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "keyring", SimpleNamespace(get_password=get_password, errors=errors))
    monkeypatch.setitem(sys.modules, "keyring.errors", errors)
    assert read(Secret("Q", keyring=("s", "u"))) == {"Q": "hunter2"}
    assert refusal(Secret("Q", keyring=("s", "other")))[0] == "secret.missing"
    id, words = refusal(Secret("Q", keyring=("locked", "u")))
    assert (id, "hunter2" in words) == ("secret.unreadable", False)
    monkeypatch.setitem(sys.modules, "keyring", None)
    id, words = refusal(Secret("Q", keyring=("s", "u")))
    assert (id, "pip install 'devboxfile[keyring]'" in words) == ("secret.unreadable", True)


def test_nobody_is_asked_for_what_no_chosen_step_names(tmp_path: Path) -> None:
    count = tmp_path / "asked"
    program = script(tmp_path, f"echo x >>{count}; echo hunter2")
    machine = MachineSpec("default", {}, Arch.X86_64, secrets=(Secret("P", command=(program,)), Secret("X", env="NO")))
    specs = (
        step("run", "a", "plain"),
        step("run", "b", "manual", when=When.MANUAL, secrets=("P",)),
        step("run", "c", "one", secrets=("P",)),
        step("run", "d", "two", secrets=("P",)),
    )
    steps = dict(enumerate(bind(specs, tmp_path, "dev")))
    assert revealed({0: steps[0], 1: steps[1]}, machine, key=b"k") == {0: steps[0], 1: steps[1]}
    assert not count.exists()
    found = revealed(steps, machine, key=b"k", asked=())
    assert [dict(one.secrets) for one in found.values()] == [{}, {}, {"P": "hunter2"}, {"P": "hunter2"}]
    assert count.read_text() == "x\n"
    assert revealed({1: steps[1]}, machine, key=b"k", asked=("manual",))[1].secrets == {"P": "hunter2"}
    assert "hunter2" not in repr(found)


def test_a_digest_sees_a_keyed_digest_and_steps_without_secrets_are_as_ever(tmp_path: Path) -> None:
    def digest(value: str = "hunter2", key: bytes = b"k", names: tuple[str, ...] = ("P",)) -> str:
        machine = MachineSpec("default", {}, Arch.X86_64, secrets=(Secret("P", env="P"),))
        os.environ["P"] = value
        try:
            bound = bind((step("run", "true", secrets=names),), tmp_path, "dev")
            return revealed({0: bound[0]}, machine, key=key)[0].digest(Facts())
        finally:
            del os.environ["P"]

    assert digest() == digest()
    assert len({digest(), digest("other"), digest(key=b"l"), digest(names=())}) == 4
    # What devbox 0.1 wrote into the receipts of machines that exist.
    assert digest(names=()) == "827f2c72db61690267f60f688e1a9f141a7aa12c37706434b9acbe8f49507f76"
    (bound,) = bind((step("run", "true", secrets=("P",)),), tmp_path, "dev")
    seal = hmac.digest(b"k", b"P=hunter2", "sha256").hex()
    assert replace(bound, secrets={"P": "x"}, seals={"P": seal}).digest(Facts()) == digest()


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        ("template", {"path": "/x", "content": "{{ secrets.TOKEN }}"}, "asks for `secrets`"),
        ("template", {"path": "/x", "content": "x"}, "sees no secrets"),
        ("file", {"path": "/x", "content": "x"}, "sees no secrets"),
    ],
)
def test_what_stays_on_the_disk_sees_none(kind: str, options: object, says: str, tmp_path: Path) -> None:
    names = () if "asks" in says else ("TOKEN",)
    with pytest.raises(DevboxError) as refused:
        bind((step(kind, options, secrets=names),), tmp_path, "dev")
    assert says in refused.value.message
    assert "$DEVBOX_SECRETS/NAME" in refused.value.message


@pytest.fixture
def go(guest: FakeGuest, project: Path, monkeypatch: pytest.MonkeyPatch) -> Go:
    monkeypatch.setenv("TOKEN", VALUE)
    monkeypatch.setenv("OTHER", "hunter2 is the other")
    secrets = (Secret("TOKEN", env="TOKEN"), Secret("OTHER", env="OTHER"))

    def provision_with(*steps: StepSpec, **options: Any) -> Report:
        return provision(guest, steps, guest.context(project, secrets=secrets), Options(**options))

    return provision_with


def planted(guest: FakeGuest) -> list[str]:
    """The files below the guest's root that hold a secret, or a line of one."""
    parts = [b"hunter2 is", b"second line of it", b'it\'s "50%"']
    found = []
    for path in guest.root.rglob("*"):
        if path.is_file() and stat.S_ISREG(path.lstat().st_mode):
            data = path.read_bytes()
            found += [str(path.relative_to(guest.root)) for part in parts if part in data]
    return found


def until(holds: Callable[[], bool]) -> None:
    for _ in range(1200):
        if holds():
            return
        time.sleep(0.05)
    raise AssertionError("it never came to hold")


def log_of(guest: FakeGuest, name: str) -> str:
    return guest.path(f"var/log/devbox/{journal.slug(name)}.log").read_text()


def test_a_step_sees_its_secrets_and_nothing_keeps_them(
    guest: FakeGuest, go: Go, capsys: pytest.CaptureFixture[str]
) -> None:
    out = guest.path("out")
    text = f"""
        set -x
        printf %s "$TOKEN" | sha256sum >{out}; sha256sum <"$DEVBOX_SECRETS/TOKEN" >>{out}
        ls -ln "$DEVBOX_SECRETS" >>{out}; echo "other: ${{OTHER-none}}" >>{out}
        cat /proc/[0-9]*/cmdline >>{out} 2>/dev/null || :
        echo "$TOKEN"; set +x; printf 'in pie'; printf 'ces: it'; sleep 0.3; printf %s "'s \\"50%"; printf '" $HOM'
        sleep 0.3; printf 'E\\\\ é\\n'; printf '  second line of it\\n'; printf %s "$TOKEN" | base64; printf 'no end'
    """
    after = f"env >{guest.path('env')}; find {guest.path('run')} >{guest.path('found')}; echo kept"
    steps = (step("run", text, "see", secrets=("TOKEN",)), step("run", after, "after"))
    assert statuses(go(*steps)) == ["changed", "changed"]
    shown = capsys.readouterr()
    assert VALUE not in shown.err
    assert "second line" not in shown.out + shown.err
    digest = hashlib.sha256(VALUE.encode()).hexdigest()
    seen = out.read_text()
    assert seen.count(digest) == 2
    assert "-rw-------" in seen
    assert "other: none" in seen, "a step sees what it names and no more"
    assert planted(guest) == []
    log = log_of(guest, "see")
    assert log.count("‹TOKEN›") >= 4
    assert "in pieces: ‹TOKEN›\n" in log
    assert log.endswith("no end\n")
    assert guest.path(f"var/log/devbox/{journal.slug('see')}.log").stat().st_mode & 0o777 == 0o600
    assert "TOKEN" not in guest.path("env").read_text()
    assert "DEVBOX_SECRETS" not in guest.path("env").read_text()
    assert ".secrets" not in guest.path("found").read_text()
    assert ".forms" not in guest.path("found").read_text()
    assert not list(guest.path("run/devbox").glob("*/"))
    assert not any(VALUE in command for command in guest.commands)
    assert statuses(go(*steps)) == ["same", "same"]


def test_a_changed_secret_runs_those_again_that_name_it(
    guest: FakeGuest, go: Go, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = (
        step("run", "true", "a", secrets=("TOKEN",)),
        step("run", "true", "b", secrets=("OTHER",)),
        step("run", "true", "c"),
    )
    go(*steps)
    assert statuses(go(*steps)) == ["same"] * 3
    monkeypatch.setenv("OTHER", "hunter3 is the other")
    assert statuses(go(*steps, check=True)) == ["same", "would change", "same"]
    assert statuses(go(*steps)) == ["same", "changed", "same"]
    monkeypatch.delenv("OTHER")
    assert statuses(go(*steps, only=("a", "c"))) == ["same"] * 2
    with pytest.raises(DevboxError) as missing:
        go(*steps)
    assert missing.value.id == "secret.missing"


def test_guards_see_nothing(guest: FakeGuest, go: Go) -> None:
    seen = guest.path("seen")
    note = f'echo "${{TOKEN-none}} ${{DEVBOX_SECRETS-none}}" >>{seen}'
    options = {"run": "true", "unless": f"{note}; false", "onlyif": f"{note}; true"}
    go(step("run", options, "x", secrets=("TOKEN",), condition={"test": note}))
    assert set(seen.read_text().splitlines()) == {"none none"}


def test_a_state_step_of_ours_sees_them_too(guest: FakeGuest, go: Go) -> None:
    """Kinds whose script is ours run inside the runner's shell, but not with secrets."""
    folder = guest.path("made")
    assert statuses(go(step("directory", str(folder), secrets=("TOKEN",)))) == ["changed"]
    assert folder.is_dir()
    assert planted(guest) == []


@pytest.mark.parametrize("timeout", [None, 1.0])
def test_a_failing_steps_tail_and_log(guest: FakeGuest, go: Go, timeout: float | None) -> None:
    end = "sleep 60" if timeout else "exit 3"
    spec = step(
        "run", f'echo "got $OTHER"; echo "$TOKEN" >&2; {end}', "bad", secrets=("TOKEN", "OTHER"), timeout=timeout
    )
    with pytest.raises(DevboxError) as failure:
        go(spec, step("run", "true", "later", secrets=("TOKEN",)))
    assert failure.value.details.endswith("\ngot ‹OTHER›\n‹TOKEN›")
    assert log_of(guest, "bad") == "got ‹OTHER›\n‹TOKEN›\n"
    assert planted(guest) == []
    assert not list(guest.path("run/devbox").glob("*/"))


def test_retries_have_them_again(guest: FakeGuest, go: Go) -> None:
    flag = guest.path("flag")
    text = f'echo "$OTHER" | sha256sum >>{flag}; [ "$(wc -l <{flag})" = 2 ]'
    assert statuses(go(step("run", text, "again", secrets=("OTHER",), retries=2))) == ["changed"]
    assert len(set(flag.read_text().splitlines())) == 1


def test_without_awk_no_output_is_kept(guest: FakeGuest, go: Go) -> None:
    if guest.shell == "busybox":
        pytest.skip("its shell runs its own awk, whatever the path says")
    guest.program("awk", "exit 1\n")
    go(step("run", 'echo "$OTHER"', "say", secrets=("OTHER",)))
    assert "devbox keeps no output of this step" in log_of(guest, "say")
    assert planted(guest) == []


def test_a_sensitive_step_keeps_no_log_at_all(guest: FakeGuest, go: Go) -> None:
    go(step("run", 'echo "$OTHER"', "say", secrets=("OTHER",), sensitive=True))
    assert list(guest.path("var/log/devbox").iterdir()) == []
    assert planted(guest) == []


def test_what_a_killed_run_leaves_goes_at_the_next(guest: FakeGuest, go: Go) -> None:
    gate = guest.path("gate")
    spec = step("run", f'echo "$OTHER"; until test -e {gate}; do sleep 0.05; done', "long", secrets=("OTHER",))
    guest.lose_at = b"hunter2 is the other"
    with pytest.raises(DevboxError) as lost:
        go(spec)
    assert lost.value.id == "provision.connection-lost"
    assert planted(guest), "while it runs they are there"
    (pid,) = guest.path("run/devbox").glob("*/pid")
    os.kill(int(pid.read_text()), signal.SIGKILL)
    gate.touch()
    until(lambda: not _runs(guest))
    assert statuses(go(spec)) == ["changed"]
    assert planted(guest) == []


def _runs(guest: FakeGuest) -> bool:
    needle = str(guest.root).encode()
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if needle in process.read_bytes() and int(process.parent.name) != os.getpid():
                return True
        except OSError:
            continue
    return False


def test_who_joins_a_run_sees_its_output_without_them(
    guest: FakeGuest, go: Go, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gate = guest.path("gate")
    spec = step(
        "run", f'echo "$OTHER"; until test -e {gate}; do sleep 0.05; done; echo end', "long", secrets=("OTHER",)
    )
    guest.lose_at = b"hunter2 is the other"
    with pytest.raises(DevboxError):
        go(spec)
    # As another process would be: it knows no value, since it was asked for other steps only.
    monkeypatch.setattr(redact, "_installed", {})
    monkeypatch.setattr(redact, "_known", redact._Known({}))
    said: list[bytes] = []
    run = guest.run

    def spied(command: str, **options: Any) -> Any:
        heard: list[bytes] = []
        tell = options.pop("on_output", None)

        def on_output(data: bytes) -> None:
            heard.append(data)
            tell(data)

        if tell:
            options["on_output"] = on_output
        result = run(command, **options)
        said.append(b"".join(heard) + result.stdout + result.stderr)
        if len(said) == 1:
            gate.touch()
        return result

    monkeypatch.setattr(guest, "run", spied)
    report = provision(guest, (step("run", "true", "other"),), guest.context(project), Options())
    assert statuses(report) == ["changed"]
    assert "‹OTHER›\nend\n".encode() in said[1]
    assert b"hunter2" not in b"".join(said)
    assert "hunter2" not in capsys.readouterr().err


def test_a_run_folder_on_a_disk_is_refused(guest: FakeGuest, go: Go, project: Path) -> None:
    secrets = (Secret("OTHER", env="OTHER"),)
    context = replace(guest.context(project, secrets=secrets), places=Places(str(guest.root)))
    steps = (step("run", "true", "x", secrets=("OTHER",)),)
    if _file_system(guest.root) in {"tmpfs", "ramfs"}:
        pytest.skip("the tests' own folder is in memory")
    with pytest.raises(DevboxError) as refused:
        provision(guest, steps, context, Options())
    assert refused.value.id == "secret.on-disk"
    assert "run/devbox in the machine lies on a disk" in refused.value.message
    assert planted(guest) == []
    assert not guest.path("var/lib/devbox").exists()
    assert not list(guest.path("run/devbox").glob("*/"))
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        assert _file_system(Path(memory)) == "tmpfs"
        guest.path("run/devbox").rmdir()
        guest.path("run").rmdir()
        guest.path("run").symlink_to(memory)
        assert statuses(provision(guest, steps, context, Options())) == ["changed"]


def _file_system(folder: Path) -> str:
    words = ("stat", "-f", "-c", "%T", str(folder))
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def test_a_step_of_this_computer_has_them_and_its_log_has_not(
    guest: FakeGuest, go: Go, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[dict[str, str]] = []

    def host(options: object, side: HostSide) -> HostResult:
        seen.append(dict(side.secrets))
        for piece in (b"says hunt", b"er2 is the ", b"other\n", b"and hunter2 is"):
            side.output(piece)
        return HostResult()

    monkeypatch.setattr(bind_module, "KINDS", {**bind_module.KINDS, "here": replace(run.KIND, host=host)})
    context = guest.context(project, secrets=(Secret("OTHER", env="OTHER"),))
    context = replace(context, connect=lambda: guest, endpoint=Endpoint(1, "root", project, project))
    steps = (step("here", "work", "here", secrets=("OTHER",)),)
    assert statuses(provision(guest, steps, context, Options())) == ["changed"]
    assert statuses(provision(guest, steps, context, Options())) == ["same"]
    assert seen == [{"OTHER": "hunter2 is the other"}]
    assert log_of(guest, "here") == "says ‹OTHER›\nand hunter2 is"
    assert "is the other" not in capsys.readouterr().err
    assert not [name for name in planted(guest) if not name.startswith("var/log")]


def test_a_key_is_one_for_each_machine(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(f"private key {name}")
    assert secrets.key(tmp_path / "one") == secrets.key(tmp_path / "one") != secrets.key(tmp_path / "two")
    assert len(secrets.key(tmp_path / "one")) == 32
