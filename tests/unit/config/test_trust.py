from collections.abc import Callable
from pathlib import Path

import pytest

from devbox.config import build, trust
from devbox.config.model import Project
from devbox.config.values import Host

Load = Callable[[str], Project]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    root = tmp_path / "project"
    root.mkdir()
    (tmp_path / "other").mkdir()

    def loaded(text: str) -> Project:
        (root / "Devboxfile").write_text(
            f"version: 1\n{text if 'box:' in text else f'box: debian-12{chr(10)}{text}'}\n"
        )
        return build.load(root, Host("x86_64", 4, 8 << 30))

    return loaded


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ports: [8080:80, 80, '127.0.0.2:9000:9']",
        "folders: ['.:/a', 'sub:/b:ro']",
        "box: {recipe: debian-12}",
        "network: none",
        "ca_certs: [Devboxfile]",
        "secrets: [{name: KEY, file: Devboxfile}]",
    ],
)
def test_what_typing_up_implies_is_not_asked(load: Load, text: str, tmp_path: Path) -> None:
    (tmp_path / "project" / "sub").mkdir()
    assert trust.missing(load(text)) == ()


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("folders: ['../other:/x:ro']", ["folder:ro:{}/other"]),
        ("folders: ['link:/x']", ["folder:rw:{}/other"]),
        ("folders: ['..:/x']", ["folder:rw:{}"]),
        ("ports: ['0.0.0.0:8080:80']", ["port:tcp:0.0.0.0:8080:80"]),
        ("ports: [80:80, {guest: 1, bind: '0.0.0.0'}]", ["port:tcp:0.0.0.0:auto:1", "port:tcp:127.0.0.1:80:80"]),
        ("box: {url: 'https://x.example/a'}", ["box:url:https://x.example/a"]),
        ("box: {path: Devboxfile}", ["box:path:project/Devboxfile"]),
        ("network: host", ["network:host"]),
        ("forward_agent: true", ["agent"]),
        ("ca_certs: [../ca.pem]", ["cert:{}/ca.pem"]),
        ("secrets: [{name: A, env: B}, {name: C, env: B}]", ["secret:env:B"]),
        ("secrets: [{name: A, file: ../ca.pem}]", ["secret:file:{}/ca.pem"]),
        ("secrets: [{name: A, file: link/key}]", ["secret:file:{}/other/key"]),
        ("secrets: [{name: A, command: [pass, 'a b']}]", ['secret:command:["pass", "a b"]']),
        ("secrets: [{name: A, keyring: {service: s, username: u}}]", ['secret:keyring:["s", "u"]']),
    ],
)
def test_what_goes_further_is_asked_once(load: Load, text: str, ids: list[str], tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    (tmp_path / "project" / "link").symlink_to(tmp_path / "other")
    project = load(text)
    assert [one.id for one in trust.missing(project)] == [id.format(tmp_path.resolve()) for id in ids]
    trust.approve(project)
    assert trust.missing(project) == ()


def test_only_growth_is_asked(load: Load) -> None:
    trust.approve(load("forward_agent: true\nnetwork: host"))
    assert trust.missing(load("forward_agent: true")) == ()
    grown = load("forward_agent: true\nports: ['0.0.0.0:8080:80']")
    assert [one.id for one in trust.missing(grown)] == ["port:tcp:0.0.0.0:8080:80"]
    trust.approve(grown)  # `network: host` is not asked for any more, so it is not approved any more
    assert [one.id for one in trust.missing(load("network: host"))] == ["network:host"]


def test_an_approval_is_for_one_checkout_and_private(load: Load, tmp_path: Path, devbox_dirs: Path) -> None:
    project = load("forward_agent: true")
    trust.approve(project)
    (file,) = (devbox_dirs / "state" / "approvals").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    copy = tmp_path / "copy"
    (tmp_path / "project").rename(copy)
    assert [one.id for one in trust.missing(build.load(copy))] == ["agent"]
    file.write_text("{}")
    assert [one.id for one in trust.missing(project)] == ["agent"]


def test_a_hash_names_exactly_what_is_asked(load: Load) -> None:
    one, two = load("forward_agent: true"), load("forward_agent: true\nnetwork: host")
    assert trust.digest(trust.missing(one)) == trust.digest(trust.missing(load("forward_agent: true\ncpus: 1")))
    assert trust.digest(trust.missing(one)) != trust.digest(trust.missing(two))


def test_sentences_name_what_is_at_stake(load: Load, tmp_path: Path) -> None:
    sentences = {
        one.id: str(one) for one in trust.capabilities(load("ports: ['0.0.0.0:80:8080']\nforward_agent: true"))
    }
    assert sentences["folder:rw:project/."] == "the machine may read and change the project's folder"
    assert "other computers" in sentences["port:tcp:0.0.0.0:80:8080"]
    assert "SSH keys" in sentences["agent"]


def test_what_is_asked_of_a_secret_says_where_it_is(load: Load, tmp_path: Path) -> None:
    project = load(
        "secrets: [{name: A, env: TOKEN}, {name: B, file: ../k}, {name: C, command: [pass, show, a b]}, "
        "{name: D, keyring: {service: s, username: u}}, {name: E, file: own}]"
    )
    assert [str(one) for one in trust.capabilities(project) if one.id.startswith("secret:")] == [
        "the machine's steps may read the output of `pass show 'a b'`, which runs on this computer",
        "the machine's steps may read your environment variable TOKEN",
        f"the machine's steps may read the file {tmp_path.resolve()}/k",
        "the machine's steps may read the file own",
        "the machine's steps may read the keyring entry of u for s",
    ]
