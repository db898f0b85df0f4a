"""The `python` kind: the project's own function, called from the bytes that were approved."""

import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from devbox import redact
from devbox.config.model import StepSpec
from devbox.errors import DevboxError, ExitCode
from devbox.guest.connection import FabricGuest
from devbox.provision.apply import Options, provision
from devbox.provision.bind import bind
from tests.unit.provision.fake import FakeGuest, step
from tests.unit.provision.host_side import NOWHERE, Side, approve, over_ssh
from tests.unit.provision.test_apply import statuses


class Standin:
    """A guest whose connection only remembers."""

    def __init__(self) -> None:
        self.connection = SimpleNamespace(done=[])
        self.closed = False

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def side(project: Path) -> Side:
    return Side(project, Standin())


def task(project: Path, text: str, name: str = "setup", **options: object) -> StepSpec:
    (project / "tasks.py").write_text(textwrap.dedent(text))
    common = {key: options.pop(key) for key in ("timeout", "env") if key in options}
    return step("python", {"src": "tasks.py", "task": name, **options}, "task", **common)


def test_it_gets_the_connection_and_its_arguments(side: Side, project: Path) -> None:
    spec = task(project, "def setup(c, rows, name='x'):\n    c.done.append((rows, name))\n", args={"rows": 3})
    assert side.carry_out(spec).changed
    assert side.guest.connection.done == [(3, "x")]


def test_a_fabric_task_is_called_as_well(side: Side, project: Path) -> None:
    from invoke.context import Context

    side.guest.connection = Context()
    spec = task(project, "from fabric import task\n@task\ndef setup(c):\n    print(type(c).__name__)\n")
    side.carry_out(spec)
    assert side.said == "Context\n"


@pytest.mark.parametrize(("returned", "changed"), [("False", False), ("'same'", False), ("None", True), ("0", True)])
def test_only_false_and_same_mean_unchanged(side: Side, project: Path, returned: str, *, changed: bool) -> None:
    assert side.carry_out(task(project, f"def setup(c):\n    return {returned}\n")).changed is changed


def test_what_it_prints_is_the_steps_output(side: Side, project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    spec = task(
        project,
        """
        import sys
        def setup(c):
            print("out", "é")
            print("err", file=sys.stderr)
            sys.stdout.write("no end")
            print(repr(sys.stdin.read()))
        """,
    )
    before = sys.stdout, sys.stderr, sys.stdin
    side.carry_out(spec)
    assert side.said == "out é\nerr\nno end''\n"
    assert capfd.readouterr() == ("", "")
    assert (sys.stdout, sys.stderr, sys.stdin) == before


def test_what_devbox_says_meanwhile_is_not_the_tasks(
    side: Side, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from devbox import ui

    class Loud(bytearray):
        def extend(self, data: object) -> None:
            ui.note(f"heard {data!r}")

    side.output = Loud()
    side.carry_out(task(project, "def setup(c):\n    print('x')\n"))
    assert "heard b'x" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise ValueError('too\\n many')", "tasks.py:3: ValueError: too many"),
        ("raise SystemExit('enough')", "tasks.py:3: SystemExit: enough"),
        ("raise SystemExit(3)", "tasks.py:3: SystemExit: 3"),
        ("import json; json.loads('{')", "tasks.py:3: JSONDecodeError: Expecting property name"),
        ("deeper()", "tasks.py:5: KeyError: 'x'"),
        ("import nowhere_at_all", "tasks.py:3: ModuleNotFoundError"),
    ],
)
def test_a_failure_names_the_line_of_the_file(side: Side, project: Path, body: str, said: str) -> None:
    text = f"import os\ndef setup(c):\n    {body}\ndef deeper():\n    return {{}}['x']\n"
    with pytest.raises(DevboxError) as failure:
        side.carry_out(task(project, text))
    assert failure.value.id == "provision.python"
    assert failure.value.message.startswith(said)
    assert failure.value.exit_code is (ExitCode.USAGE if "import nowhere" in body else ExitCode.FAILED)


@pytest.mark.parametrize("value", ["tok_abcdefghijklmnopqrstuvwxyz0123456789", "two  words\tand more"])
def test_a_failure_tells_no_part_of_a_secret(side: Side, project: Path, value: str) -> None:
    redact.install({"TOKEN": value})
    for before in (285, 270, 0):
        text = f"def setup(c):\n    raise ValueError({'x' * before + ' ' + value!r})\n"
        with pytest.raises(DevboxError) as failure:
            side.carry_out(task(project, text))
        said = failure.value.message
        assert value[:5] not in said
        assert before > 270 or "‹TOKEN›" in said


def test_leaving_with_success_is_success(side: Side, project: Path) -> None:
    assert side.carry_out(task(project, "import sys\ndef setup(c):\n    sys.exit()\n")).changed


def test_ctrl_c_is_nobody_elses(side: Side, project: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        side.carry_out(task(project, "def setup(c):\n    raise KeyboardInterrupt\n"))


def test_modules_beside_it_are_found_and_leave_nothing(side: Side, project: Path) -> None:
    (project / "pack").mkdir()
    (project / "pack/__init__.py").write_text("from pack.inner import word\n")
    (project / "pack/inner.py").write_text("from . import other\nword = other.word\n")
    (project / "pack/other.py").write_text("word = 'pack'\n")
    (project / "lone.py").write_text("def word():\n    import later\n    return later.word\n")
    (project / "later.py").write_text("word = 'later'\n")
    spec = task(
        project,
        """
        from dataclasses import dataclass
        from pathlib import Path
        import lone
        from pack import word
        @dataclass
        class Made:
            name: "str"
        def setup(c):
            print(Made(word), lone.word(), Path(__file__).name, Path.cwd().name)
        """,
    )
    path, modules = list(sys.path), set(sys.modules)
    side.carry_out(spec)
    assert side.said == "Made(name='pack') later tasks.py project\n"
    assert sys.path == path
    assert not {"pack", "pack.inner", "lone", "later"} & set(sys.modules)
    assert {name for name in set(sys.modules) - modules if name.startswith("_devbox")} == set()
    assert list(project.rglob("*.pyc")) == []
    assert Path.cwd().name != "project"


def test_what_lies_beside_it_but_was_not_approved_is_not_loaded(side: Side, project: Path) -> None:
    spec = task(project, "import importlib\ndef setup(c):\n    importlib.import_module('pla' + 'nted')\n")
    (project / "planted.py").write_text("print('planted')\n")
    (project / "__pycache__").mkdir()
    with pytest.raises(DevboxError, match="ModuleNotFoundError"):
        side.carry_out(spec)
    assert "planted" not in side.said.replace("'planted'", "")


def test_a_guest_that_rewrites_the_file_meanwhile_has_no_part_in_it(side: Side, project: Path) -> None:
    """The project's folder may be shared with the guest, which must not get code onto this computer that way."""
    (project / "lone.py").write_text("word = 'approved'\n")
    text = """
        from pathlib import Path
        def setup(c):
            Path("lone.py").write_text("word = 'planted'\\n")
            import lone
            print(lone.word)
        """
    side.carry_out(task(project, text))
    assert side.said == "approved\n"


def test_code_that_was_not_approved_does_not_run(side: Side, project: Path) -> None:
    spec = task(project, "def setup(c):\n    print('ran')\n")
    with pytest.raises(DevboxError) as refused:
        side.carry_out(spec, approved=False)
    assert refused.value.id == "trust.unapproved"
    approve(project, spec)
    side.carry_out(spec, approved=False)
    (project / "tasks.py").write_text("def setup(c):\n    print('other')\n")
    with pytest.raises(DevboxError):
        side.carry_out(spec, approved=False)
    assert side.said == ""


def test_its_environment_is_the_steps_and_ends_with_it(side: Side, project: Path) -> None:
    side.secrets = {"TOKEN": "s3cret"}
    text = "import os\ndef setup(c):\n    print(os.environ['STAGE'], os.environ['TOKEN'])\n"
    side.carry_out(task(project, text, env={"STAGE": "test"}))
    assert side.said == "test s3cret\n"
    assert not {"STAGE", "TOKEN"} & set(os.environ)


def test_its_time_limit_ends_it(side: Side, project: Path) -> None:
    text = """
        import threading
        def setup(c):
            try:
                threading.Event().wait(600)
            except Exception:
                pass
        """
    with pytest.raises(DevboxError) as late:
        side.carry_out(task(project, text, timeout=0.2))
    assert late.value.id == "tool.timeout"
    assert side.guest.closed, "or Fabric would wait for its command"


def test_the_digest_sees_file_module_task_and_arguments(project: Path) -> None:
    (project / "lone.py").write_text("")

    def digest(**options: object) -> str:
        spec = step("python", {"src": "tasks.py", "task": "setup", **options}, "task")
        return bind((spec,), project, "dev")[0].digest(guest_facts)

    from devbox.provision.facts import Facts

    guest_facts = Facts()
    (project / "tasks.py").write_text("import lone\ndef setup(c): ...\ndef other(c): ...\n")
    seen = [digest(), digest(task="other"), digest(args={"n": 1}), digest(args={"n": 2})]
    (project / "lone.py").write_text("x = 1\n")
    seen.append(digest())
    (project / "unrelated.py").write_text("x = 1\n")
    assert digest() == seen[-1]
    assert len(set(seen)) == 5


def test_through_the_engine(guest: FakeGuest, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    guest.connection = SimpleNamespace(done=[])  # type: ignore[attr-defined]
    first = task(project, "def setup(c):\n    print('from here')\n    c.done.append(1)\n")
    later = step("run", "true", "after", needs=("task",))
    context = replace(guest.context(project), connect=lambda: guest, endpoint=NOWHERE)
    approve(project, first)
    assert statuses(provision(guest, (first, later), context, Options())) == ["changed", "changed"]
    (log,) = guest.path("var/log/devbox").glob("task-*.log")
    assert log.read_text() == "from here\n"
    before = guest.channels
    assert statuses(provision(guest, (first, later), context, Options())) == ["same", "same"]
    assert guest.channels == before + 1
    bad = task(project, "def setup(c):\n    1 / 0\n")
    approve(project, bad)
    with pytest.raises(DevboxError) as failure:
        provision(guest, (bad, later), context, Options())
    assert "tasks.py:2: ZeroDivisionError" in failure.value.message
    assert guest.connection.done == [1]  # type: ignore[attr-defined]
    capsys.readouterr()


def test_over_real_ssh(tmp_path: Path, project: Path) -> None:
    target = tmp_path / "made"
    text = f"""
        from fabric import task
        @task
        def setup(c, word):
            done = c.run("echo $0 {target}; echo oops >&2")
            assert done.ok
            c.run(f"printf %s {{word}} >{target}", hide=True)
        @task
        def fail(c):
            c.run("echo why >&2; exit 7")
        @task
        def hang(c):
            c.run("exec sleep 600")
        """
    with over_ssh(tmp_path / "sshd", project) as side:
        assert side.carry_out(task(project, text, args={"word": "hello"})).changed
        assert target.read_text() == "hello"
        assert f"{target}\n" in side.said
        assert "oops" in side.said
        with pytest.raises(DevboxError) as failure:
            side.carry_out(task(project, text, "fail"))
        command = "the command `echo why >&2; exit 7` ended with status 7"
        assert failure.value.message == f"tasks.py:10: {command}"
        assert "why" in side.said
        with pytest.raises(DevboxError) as late:
            side.carry_out(task(project, text, "hang", timeout=1.0))
        assert late.value.id == "tool.timeout"
        # That has ended the connection, and the next attempt makes one of its own.
        made: list[FabricGuest] = []
        connect = side.connect
        assert connect is not None
        side.connect = lambda: made.append(connect()) or made[-1]  # type: ignore[func-returns-value]
        target.unlink()
        side.carry_out(task(project, text, args={"word": "again"}, timeout=60.0))
        assert target.read_text() == "again"
        assert [guest.connection.is_connected for guest in made] == [False]


def test_fabric_is_not_needed_to_read_a_step(project: Path) -> None:
    """A check of the Devboxfile must not pay for it, nor run the project's code."""
    (project / "tasks.py").write_text("import fabric\nraise SystemExit\ndef setup(c): ...\n")
    code = (
        "import sys; from pathlib import Path; from devbox.config.model import StepSpec;"
        "from devbox.provision.bind import bind;"
        f"bind((StepSpec('x', 'python', {{'src': 'tasks.py', 'task': 'setup'}}),), Path({str(project)!r}), 'dev');"
        "sys.exit('fabric' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, env={**os.environ}).returncode == 0
