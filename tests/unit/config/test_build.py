import json
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devbox.config import build
from devbox.config.model import Arch, BoxRef, Digest, Folder, FolderType, Network, Port, Project, When
from devbox.config.values import Host
from devbox.errors import DevboxError, ExitCode

HOST = Host("x86_64", 4, 8 << 30)
Load = Callable[..., Project]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    root = tmp_path / "My Shop"
    root.mkdir()

    def loaded(text: str, local: str | None = None, host: Host = HOST) -> Project:
        (root / "Devboxfile").write_text(f"version: 1\n{text}\n")
        if local is not None:
            (root / "Devboxfile.local").write_text(local)
        return build.load(root, host)

    return loaded


def trouble(load: Load, text: str, local: str | None = None) -> str:
    with pytest.raises(DevboxError) as caught:
        load(text, local)
    assert caught.value.exit_code is ExitCode.USAGE
    return f"{caught.value.id}\n{caught.value.message}"


def test_two_keys_are_enough(load: Load) -> None:
    project = load("box: debian-12")
    machine = project.machine
    assert project.name == machine.hostname == "my-shop"
    assert machine.box == BoxRef(name="debian-12")
    assert (machine.arch, machine.cpus, machine.memory, machine.disk) == (Arch.X86_64, 2, 2 << 30, 20 << 30)
    assert machine.folders == (Folder(project.root.resolve(), PurePosixPath("/workspace")),)
    assert (machine.ports, machine.steps, machine.network) == ((), (), Network.INTERNET)


def test_defaults_fit_a_small_computer(load: Load) -> None:
    machine = load("box: debian-12", host=Host("aarch64", 1, 1 << 30)).machine
    assert (machine.arch, machine.cpus, machine.memory) == (Arch.AARCH64, 1, 1 << 30)


def test_everything_that_is_written_arrives(load: Load, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    machine = load(
        "box: debian-12\nname: shop\nhostname: db.shop\narch: aarch64\ncpus: 4\nmemory: 1.5GB\ndisk: 40GiB\n"
        "folders: ['.:/src:ro', {host: ../elsewhere, guest: /e/, type: rsync, ignore: [tmp/]}]\n"
        "ports: [8080:80, 80, '127.0.0.1:5353:53/udp', '127.0.0.2:90:9', {guest: 81, host: auto, name: web}]\n"
        "env: {A: 010, B: 1.10, C: true, D: '', E: text}\nnetwork: host\nhosts: {a.test: 10.0.2.2}\ndns: [9.9.9.9]\n"
    ).machine
    assert (machine.arch, machine.cpus, machine.hostname) == (Arch.AARCH64, 4, "db.shop")
    assert machine.memory == 1_500_000_000 // (1 << 20) * (1 << 20)
    assert machine.folders[0].readonly
    assert machine.folders[1] == Folder(
        (tmp_path / "elsewhere").resolve(), PurePosixPath("/e"), FolderType.RSYNC, ignore=("tmp/",)
    )
    assert machine.ports == (
        Port(80, 8080),
        Port(80),
        Port(53, 5353, "127.0.0.1", "udp"),
        Port(9, 90, "127.0.0.2"),
        Port(81, name="web"),
    )
    assert dict(machine.env) == {"A": "010", "B": "1.10", "C": "true", "D": "", "E": "text"}
    assert (dict(machine.hosts), machine.dns) == ({"a.test": "10.0.2.2"}, ("9.9.9.9",))


def test_no_folders_is_an_answer(load: Load) -> None:
    assert load("box: debian-12\nfolders: []").machine.folders == ()


def test_a_folder_is_the_one_its_links_lead_to(load: Load, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "My Shop" / "link").symlink_to(tmp_path / "secret")
    assert load("box: debian-12\nfolders: [link:/x]").machine.folders[0].host == (tmp_path / "secret").resolve()


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ("debian-12", {Arch.X86_64: BoxRef(name="debian-12"), Arch.AARCH64: BoxRef(name="debian-12")}),
        (
            "{recipe: debian-12, packages: [git]}",
            dict.fromkeys(Arch, BoxRef(recipe="debian-12", packages=("git",))),
        ),
        (
            f"{{url: 'https://x.example/a', sha512: {'AB' * 64}, format: raw, user: me}}",
            {
                Arch.X86_64: BoxRef(
                    url="https://x.example/a", digest=Digest("sha512", "ab" * 64), format="raw", user="me"
                )
            },
        ),
        (
            "{x86_64: debian-12, aarch64: {url: 'https://x.example/a'}}",
            {Arch.X86_64: BoxRef(name="debian-12"), Arch.AARCH64: BoxRef(url="https://x.example/a")},
        ),
    ],
)
def test_the_forms_of_a_box(load: Load, box: str, expected: dict[Arch, BoxRef]) -> None:
    assert dict(load(f"box: {box}").machine.boxes) == expected


def test_a_box_path_is_relative_to_the_devboxfile(load: Load, tmp_path: Path) -> None:
    image = tmp_path / "My Shop" / "disk.img"
    image.touch()
    assert load("box: {path: disk.img, format: raw}").machine.box.path == image.resolve()


def test_steps(load: Load) -> None:
    first, second, third, fourth, fifth = load(
        "box: debian-12\n"
        "provision:\n"
        "  - packages: [nginx, git]\n"
        "  - file: {path: /etc/motd, content: x, mode: 0644}\n"
        "  - file: {path: /etc/motd, content: y, mode: 0o600}\n"
        "  - name: build\n"
        "    run: make\n"
        "    as: root\n"
        "    when: once\n"
        "    needs: [file:/etc/motd#2]\n"
        "    if: {os: debian}\n"
        "    timeout: 1h30m\n"
        "    retries: 2\n"
        "    env: {LEVEL: 1.0}\n"
        "    cwd: /srv\n"
        "  - run: |\n"
        "      echo a long   command that has more than forty letters\n"
        "      second line\n"
    ).machine.steps
    assert (first.name, first.kind, first.options) == ("packages:nginx,git", "packages", ["nginx", "git"])
    assert (second.name, second.options["mode"], second.position) == ("file:/etc/motd", "0644", "Devboxfile:5")
    assert (third.name, third.options["mode"]) == ("file:/etc/motd#2", "0600")
    assert (fourth.name, fourth.user, fourth.when, fourth.timeout) == ("build", "root", When.ONCE, 5400.0)
    assert (fourth.needs, fourth.retries, fourth.cwd) == (("file:/etc/motd#2",), 2, "/srv")
    assert (dict(fourth.env), dict(fourth.condition)) == ({"LEVEL": "1.0"}, {"os": "debian"})
    assert fifth.name == "run:echo a long command that has more than f"


def test_local_overrides(load: Load) -> None:
    machine = load(
        "box: {recipe: debian-12}\nmemory: 1GiB\nenv: {A: a, B: 1.10}\nports: [8080:80]",
        "box: {path: Devboxfile}\nmemory: 2GiB\nenv: {B: b, C: 010}\nports: [81]\n",
    ).machine
    assert machine.box.path is not None
    assert machine.box.recipe == ""
    assert machine.memory == 2 << 30
    assert dict(machine.env) == {"A": "a", "B": "b", "C": "010"}
    assert machine.ports == (Port(81),)


def test_a_mistake_in_local_is_told_with_its_own_line(load: Load) -> None:
    told = trouble(load, "box: debian-12\nenv: {A: a}\ncpuz: 1", "\nmemory: 2G\nenv:\n  B: [1]\nuser: {nam: x}\n")
    assert "in Devboxfile and Devboxfile.local:" in told
    assert "  Devboxfile:4:1: cpuz: " in told
    assert "  Devboxfile.local:2:9: memory: " in told
    assert "  Devboxfile.local:4:3: env.B: " in told
    assert "  Devboxfile.local:5:8: user.nam: " in told


def test_an_empty_local_file_is_none(load: Load) -> None:
    assert load("box: debian-12", "# nothing yet\n").machine.cpus == 2


def test_a_file_for_another_devbox_is_refused_alone(load: Load, tmp_path: Path) -> None:
    told = trouble(load, "requires: '>=99.1, <100'\nnew_key: 1")
    assert told.startswith("config.requires\nDevboxfile:2:11: this file asks for devbox `>=99.1, <100`, and this is")
    assert "new_key" not in told
    (tmp_path / "My Shop" / "Devboxfile").write_text("version: 2\nnew_key: 1\n")
    with pytest.raises(DevboxError, match="written in format 2") as caught:
        build.load(tmp_path / "My Shop", HOST)
    assert caught.value.id == "config.version"


def test_a_computer_of_another_kind(load: Load) -> None:
    with pytest.raises(DevboxError) as caught:
        load("box: debian-12", host=Host("riscv64", 4, 8 << 30))
    assert caught.value.id == "config.native-arch"
    assert load("box: debian-12\narch: aarch64", host=Host("riscv64", 4, 8 << 30)).machine.arch is Arch.AARCH64


def test_many_mistakes_are_counted_and_not_all_shown(load: Load) -> None:
    told = trouble(load, "box: debian-12\n" + "\n".join(f"x{number}: 1" for number in range(100)))
    assert "There are 100 mistakes in Devboxfile:" in told
    assert told.endswith("… and 40 more")


def test_text_of_the_file_cannot_break_the_message(load: Load) -> None:
    told = trouble(load, 'box: debian-12\nnetwork: "a\\nb\\e[31mc' + "x" * 500 + '"')
    assert len(told.split("\n")) == 3
    assert "\x1b" not in told
    assert len(told) < 300


def test_a_key_of_the_file_cannot_break_the_message(load: Load) -> None:
    told = trouble(load, 'box: debian-12\n"a\\nb\\e[31m": 1\nhosts: {a: "x\\ny"}\nenv: {"A\\rB": 1}')
    assert len(told.split("\n")) == 5
    assert told.replace("\n", "").isprintable()


def test_a_final_newline_does_not_pass_as_a_name(load: Load) -> None:
    assert "name: must be made of" in trouble(load, 'box: debian-12\nname: "shop\\n"')


def test_what_is_known_to_be_right_is_not_checked_again(load: Load, tmp_path: Path, devbox_dirs: Path) -> None:
    root = tmp_path / "My Shop"
    kept = devbox_dirs / "cache" / "documents"
    text = "box: debian-12\nenv: {A: 1.10}\nfolders: [sub:/x]\nprovision:\n  - run: make"
    (root / "sub").mkdir()
    first = load(text)
    assert not kept.exists()  # a project without a machine leaves nothing behind
    (root / ".devbox").mkdir()
    assert load(text) == first
    (file,) = kept.iterdir()
    assert load(text) == first
    # The rules between the file and this computer are checked every time, with lines.
    (root / "sub").rmdir()
    assert "Devboxfile:4:11: folders[0]: the folder `sub` does not exist" in trouble(load, text)
    assert "cpuz" in trouble(load, text + "\ncpuz: 1")  # another text is another document
    file.write_text(json.dumps({"key": json.loads(file.read_text())["key"]}))  # damaged
    (root / "sub").mkdir()
    assert load(text) == first


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 70_000) | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", ".", "8080:80", "2GiB", "2G", "debian-12", "/x", "../x", "x", "root", "a\nb", "10m", "~"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["url", "path", "recipe", "x86_64", "sha256", "host", "guest", "type", "name", "run", "file", "packages"]
            + ["needs", "if", "os", "arch", "uid", "env", "mode", "content", "bind", "docker", "when", "x y", "timeout"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=8,
)  # fmt: skip
_KEYS = ["box", "memory", "cpus", "ports", "folders", "provision", "env", "user", "hosts", "dns", "ca_certs", "arch"]
_KEYS += ["name", "requires", "version", "machines", "message", "hostname", "proxy"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(_KEYS), _VALUES, max_size=6))
def test_any_data_gives_a_project_or_one_error(tmp_path: Path, data: dict[str, object]) -> None:
    (tmp_path / "Devboxfile").write_text(json.dumps({"version": 1, "box": "debian-12", **data}))
    known = {"config.invalid", "config.requires", "config.version"}
    try:
        build.load(tmp_path, HOST)
    except DevboxError as error:
        if error.id not in known or error.exit_code is not ExitCode.USAGE:
            pytest.fail(f"{error.id}: {error}")


def test_checks(load: Load) -> None:
    first, second = load(
        "box: debian-12\n"
        "checks:\n"
        "  - {name: plain, run: make}\n"
        "  - {name: full, run: x, as: root, timeout: 2m, retries: 2, cwd: /srv, env: {V: 1.10}}\n"
    ).machine.checks
    assert (first.user, first.timeout, first.retries, first.cwd, dict(first.env)) == ("", 60.0, 0, "", {})
    assert (second.user, second.timeout, second.retries, second.cwd) == ("root", 120.0, 2, "/srv")
    assert (dict(second.env), second.position) == ({"V": "1.10"}, "Devboxfile:5")
