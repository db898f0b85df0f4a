"""The `ansible` kind: real Ansible over a real sshd, and the guest's own against a stand-in."""

import json
import os
import shutil
import tarfile
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from devbox import paths, redact
from devbox.config.model import StepSpec, When
from devbox.errors import DevboxError
from devbox.guest.openssh import Endpoint
from devbox.provision import playbook
from devbox.provision.apply import Options, provision
from devbox.provision.bind import bind
from devbox.provision.facts import Facts
from tests.unit.provision.fake import FakeGuest, step
from tests.unit.provision.host_side import NOWHERE, Side, approve, over_ssh, with_ansible
from tests.unit.provision.test_apply import statuses


def write(project: Path, **files: str) -> None:
    for name, text in files.items():
        path = project / name.replace("__", "/").replace("_yml", ".yml").replace("_cfg", ".cfg")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))


def play(tmp_path: Path, tasks: str, *, hosts: str = "all") -> str:
    body = textwrap.indent(textwrap.dedent(tasks), "    ")
    return f"- hosts: {hosts}\n  gather_facts: false\n  vars: {{out: '{tmp_path}/out'}}\n  tasks:\n{body}"


def ansible(options: object = "site.yml", **common: Any) -> StepSpec:
    return step("ansible", options, "play", **common)


@pytest.fixture
def side(tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Side]:
    with_ansible(monkeypatch)
    (tmp_path / "out").mkdir()
    with over_ssh(tmp_path / "sshd", project) as made:
        yield made


TWO_FILES = """
- name: one
  copy: {dest: "{{ out }}/one", content: "{{ word | default('x') }}\\n"}
- name: two
  template: {dest: "{{ out }}/two", src: two.j2}
- name: three
  debug: {msg: "in {{ group_names | join(' ') }} as {{ inventory_hostname }}"}
"""


def test_first_run_changes_second_changes_nothing(side: Side, tmp_path: Path, project: Path) -> None:
    write(project, site_yml=play(tmp_path, TWO_FILES, hosts="web"), templates__two="")
    (project / "templates/two.j2").write_text("n={{ number + 1 }}\n")
    spec = ansible({"playbook": "site.yml", "groups": ["web", "db"], "extra_vars": {"word": "it's $x", "number": 4}})
    first = side.carry_out(spec)
    assert (first.changed, first.note) == (True, "2 of 3 tasks changed")
    assert (tmp_path / "out/one").read_text() == "it's $x\n"
    assert (tmp_path / "out/two").read_text() == "n=5\n"
    assert "in db web as box" in side.said
    assert "PLAY RECAP" in side.said
    assert "\x1b[" not in side.said
    second = side.carry_out(spec)
    assert (second.changed, second.note) == (False, "0 of 3 tasks changed")
    (tmp_path / "out/one").write_text("drift")
    assert side.carry_out(spec).note == "1 of 3 tasks changed"


def test_nothing_is_left_running_or_lying_about(
    side: Side, tmp_path: Path, project: Path, devbox_dirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(project, site_yml=play(tmp_path, "- ping:\n"))
    before = {path.relative_to(project) for path in project.rglob("*")}
    side.carry_out(ansible())
    assert {path.relative_to(project) for path in project.rglob("*")} == before
    assert list(paths.runtime_root().iterdir()) == []
    assert list(playbook.CALLBACK.parent.glob("__pycache__")) == []


def test_a_failing_task_is_named(side: Side, tmp_path: Path, project: Path) -> None:
    tasks = """
    - name: rescued
      block: [{name: inner, command: /bin/false}]
      rescue: [{debug: {msg: rescued}}]
    - {name: ignored, command: /bin/false, ignore_errors: true}
    - name: the bad one
      fail: {msg: "no such\\nthing"}
    """
    write(project, site_yml=play(tmp_path, tasks))
    with pytest.raises(DevboxError) as failure:
        side.carry_out(ansible())
    assert failure.value.id == "provision.ansible"
    assert failure.value.message == "The playbook failed at the task `the bad one`: no such thing"


def test_a_file_that_is_not_among_its_inputs_is_told(side: Side, tmp_path: Path, project: Path) -> None:
    (project / "dist").mkdir()
    (project / "dist/app").touch()
    tasks = "- copy: {src: \"{{ 'dist' }}/app\", dest: '{{ out }}/app'}\n"
    write(project, site_yml=play(tmp_path, tasks))
    with pytest.raises(DevboxError, match=r"the playbook sees files that it names.* and its `inputs`"):
        side.carry_out(ansible())
    assert side.carry_out(ansible({"playbook": "site.yml", "inputs": ["dist"]})).changed


def test_a_broken_playbook_is_told_in_ansibles_words(side: Side, project: Path) -> None:
    write(project, site_yml="- hosts: all\n  tasks:\n    - no_such_module: {}\n")
    with pytest.raises(DevboxError) as failure:
        side.carry_out(ansible())
    assert "no_such_module" in failure.value.message
    assert "ERROR" in failure.value.message


def test_what_ansible_said_tells_no_part_of_a_secret(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = "tok_abcdefghijklmnopqrstuvwxyz0123456789"
    redact.install({"TOKEN": value})
    for before in (285, 270, 0):
        said = "x" * before + " " + value
        for message in (
            playbook._failure({"task": "t", "message": said}, unreachable=False),
            playbook._complaint(said),
        ):
            assert "tok_" not in message
            assert before > 270 or "‹TOKEN›" in message
    # Where the tail that is kept begins within one.
    program = tmp_path / "bin/ansible-playbook"
    program.parent.mkdir()
    rest = playbook._TAIL - len(value) // 2 - len(" ERROR\n")
    program.write_text(f"#!/bin/sh\nprintf '%s %0{rest}d ERROR\\n' {value} 0\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    write(project, site_yml="- hosts: all\n")
    with pytest.raises(DevboxError) as failure:
        Side(project, None).carry_out(ansible())
    assert "status 3" in failure.value.message
    assert value[-12:] not in failure.value.message


def test_a_playbook_for_other_hosts_is_no_success(side: Side, tmp_path: Path, project: Path) -> None:
    write(project, site_yml=play(tmp_path, "- ping:\n", hosts="web"))
    with pytest.raises(DevboxError, match="No play of the playbook is for this machine"):
        side.carry_out(ansible())


def test_an_unreachable_guest_is_told(side: Side, tmp_path: Path, project: Path) -> None:
    write(project, site_yml=play(tmp_path, "- ping:\n"))
    side.endpoint = replace(side.endpoint, port=9)
    with pytest.raises(DevboxError, match="does not reach the machine: .*onnection refused"):
        side.carry_out(ansible())


def test_another_host_key_is_not_talked_to(side: Side, tmp_path: Path, project: Path) -> None:
    write(project, site_yml=play(tmp_path, "- ping:\n"))
    other = tmp_path / "other"
    other.mkdir()
    from tests.unit.guest import sshd

    known = sshd.client(other, sshd.host_key(other)[1]).known_hosts
    side.endpoint = replace(side.endpoint, known_hosts=known)
    with pytest.raises(DevboxError, match="Host key verification failed"):
        side.carry_out(ansible())


def test_the_project_has_its_settings_roles_and_variables(side: Side, tmp_path: Path, project: Path) -> None:
    write(
        project,
        a__ansible_cfg="[defaults]\nroles_path = ../shared\ncallback_result_format = yaml\nhost_key_checking = False\n",
        a__group_vars__web_yml="word: from the group\n",
        a__site_yml="- import_playbook: other.yml\n- hosts: web\n  gather_facts: false\n  roles: [near, far]\n",
        a__other_yml=play(tmp_path, "- include_tasks: '{{ playbook_dir }}/../more/extra.yml'\n", hosts="web"),
        a__roles__near__tasks__main_yml="- debug: {msg: 'near {{ word }}'}\n",
        shared__far__tasks__main_yml='- debug: {msg: \'far {{ lookup("file", "data") }}\'}\n',
        shared__far__files__data="carried",
        more__extra_yml="- debug: {msg: extra}\n",
    )
    side.carry_out(ansible({"playbook": "a/site.yml", "groups": ["web"], "inputs": ["shared"]}))
    for word in ("near from the group", "far carried", "extra"):
        assert word in side.said


def test_tags_choose_tasks(side: Side, tmp_path: Path, project: Path) -> None:
    tasks = "".join(f"- {{debug: {{msg: said-{tag}}}, tags: {tag}}}\n" for tag in ("a", "b", "c"))
    write(project, site_yml=play(tmp_path, tasks))
    side.carry_out(ansible({"playbook": "site.yml", "tags": ["a", "b"], "skip_tags": ["b"]}))
    assert [word in side.said for word in ("said-a", "said-b", "said-c")] == [True, False, False]


def test_env_and_secrets_reach_lookups(side: Side, tmp_path: Path, project: Path) -> None:
    write(
        project, site_yml=play(tmp_path, "- debug: {msg: \"{{ lookup('env', 'STAGE') + lookup('env', 'TOKEN') }}\"}\n")
    )
    side.secrets = {"TOKEN": "s3"}
    side.carry_out(ansible(env={"STAGE": "test-"}))
    assert "test-s3" in side.said


def test_what_the_guest_writes_meanwhile_is_not_run(side: Side, tmp_path: Path, project: Path) -> None:
    tasks = f"- copy: {{dest: '{project}/late.yml', content: '- debug: {{msg: planted}}'}}\n- include_tasks: late.yml\n"
    write(project, site_yml=play(tmp_path, tasks), late_yml="- debug: {msg: approved}\n")
    side.carry_out(ansible())
    assert "planted" in (project / "late.yml").read_text()
    assert '"msg": "approved"' in side.said


def test_what_was_not_approved_does_not_run(side: Side, tmp_path: Path, project: Path) -> None:
    write(project, site_yml=play(tmp_path, "- ping:\n"))
    approve(project, ansible())
    write(project, group_vars__all_yml="x: 1\n")
    with pytest.raises(DevboxError) as refused:
        side.carry_out(ansible(), approved=False)
    assert refused.value.id == "trust.unapproved"


def test_its_time_limit_ends_all_that_it_started(side: Side, tmp_path: Path, project: Path) -> None:
    tasks = "- shell: echo $$ >{{ out }}/pid; exec sleep 600\n  delegate_to: localhost\n"
    write(project, site_yml=play(tmp_path, tasks, hosts="all"))
    spec = ansible({"playbook": "site.yml", "extra_vars": {"ansible_connection": "local"}}, timeout=20.0)
    with pytest.raises(DevboxError) as late:
        side.carry_out(replace(spec, timeout=8.0))
    assert late.value.id == "tool.timeout"
    pid = int((tmp_path / "out/pid").read_text())
    assert not Path(f"/proc/{pid}").exists() or "State:\tZ" in Path(f"/proc/{pid}/status").read_text()


def test_requirements_are_installed_once(side: Side, tmp_path: Path, project: Path) -> None:
    write(tmp_path, role__tasks__main_yml="- debug: {msg: from the role}\n", role__meta__main_yml="galaxy_info: {}\n")
    with tarfile.open(tmp_path / "role.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "role", "role")
    write(
        project,
        requirements_yml=f"- {{name: fetched, src: 'file://{tmp_path}/role.tar.gz'}}\n",
        site_yml="- hosts: all\n  gather_facts: false\n  roles: [fetched]\n",
    )
    spec = ansible({"playbook": "site.yml", "requirements": "requirements.yml"})
    side.carry_out(spec)
    assert "ansible-galaxy install" in side.said
    assert "from the role" in side.said
    (tmp_path / "role.tar.gz").unlink()
    side.carry_out(spec)
    assert "ansible-galaxy install" not in side.said
    assert "from the role" in side.said
    assert len(list((paths.cache_dir() / "ansible").iterdir())) == 1


def test_requirements_that_cannot_be_had_are_not_kept(side: Side, tmp_path: Path, project: Path) -> None:
    write(project, requirements_yml=f"- {{name: x, src: 'file://{tmp_path}/no.tar.gz'}}\n")
    write(project, site_yml=play(tmp_path, "- ping:\n"))
    with pytest.raises(DevboxError, match=r"What requirements\.yml asks for"):
        side.carry_out(ansible({"playbook": "site.yml", "requirements": "requirements.yml"}))
    assert list((paths.cache_dir() / "ansible").iterdir()) == []


def test_ansible_that_is_missing_is_told_with_how_to_get_it(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(project, site_yml=play(tmp_path, "- ping:\n"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DevboxError) as missing:
        Side(project, None).carry_out(ansible())
    assert "pipx install ansible-core" in missing.value.hint


def test_when_always_asks_ansible(side: Side, tmp_path: Path, project: Path) -> None:
    guest = FakeGuest(tmp_path / "guest", "dash")
    write(project, site_yml=play(tmp_path, TWO_FILES.replace("two.j2", "two.txt")))
    (project / "two.txt").touch()
    context = replace(guest.context(project), connect=lambda: guest, endpoint=side.endpoint)
    plain, always = ansible(), ansible(when=When.ALWAYS)
    after = step("run", "true", "after", needs=("play",))
    approve(project, plain)
    assert statuses(provision(guest, (plain, after), context, Options())) == ["changed", "changed"]
    before = guest.channels
    assert statuses(provision(guest, (plain, after), context, Options())) == ["same", "same"]
    assert guest.channels == before + 1, "Ansible is not asked"
    assert statuses(provision(guest, (always, after), context, Options())) == ["same", "same"]
    (tmp_path / "out/one").write_text("drift")
    assert statuses(provision(guest, (always, after), context, Options())) == ["changed", "changed"]


def test_the_inventory_pins_the_guest(tmp_path: Path) -> None:
    endpoint = Endpoint(2222, "dev", tmp_path / "a key", tmp_path / 'known "hosts"')
    found = json.loads(playbook.inventory("box", playbook.host_variables(endpoint), ("web",)))["all"]
    assert found["children"] == {"web": {"hosts": {"box": {}}}}
    words = found["hosts"]["box"]["ansible_ssh_common_args"]
    assert f"-F {os.devnull}" in words
    assert "-o StrictHostKeyChecking=yes" in words
    assert "-o IdentitiesOnly=yes" in words


# In the guest.

ANSIBLE = """
echo "$PWD" "$@" >>'{log}'
for word do
  case $word in @*) cat "${{word#@}}" >>'{log}' ;; */inventory.json) cat "$word" >>'{log}' ;; esac
done
find . ! -type d | sort >>'{log}'
echo said
printf '%s' '{stats}' >"$DEVBOX_ANSIBLE_STATS"
exit {status}
"""


def stand_in(
    guest: FakeGuest, *, stats: str = '{"hosts": 1, "ok": 2, "changed": 1, "failures": 0}', status: int = 0
) -> Path:
    log = guest.path("ansible.log")
    guest.program("ansible-playbook", ANSIBLE.format(log=log, stats=stats, status=status))
    return log


LOCAL = {"playbook": "a/site.yml", "groups": ["web"], "extra_vars": {"q": "it's $x"}, "tags": ["x y"], "local": True}


def test_local_runs_in_the_guest(guest: FakeGuest, project: Path) -> None:
    log = stand_in(guest)
    write(project, a__site_yml="[]", a__roles__r__tasks__main_yml="", b="not sent")
    (project / "a/roles/r/tool").write_text("#!/bin/sh\n")
    (project / "a/roles/r/tool").chmod(0o755)
    (project / "a/roles/link").symlink_to("r")

    def go() -> list[str]:
        return statuses(provision(guest, (ansible(LOCAL),), guest.context(project), Options()))

    assert go() == ["changed"]
    said = log.read_text()
    first, rest = said.split("\n", 1)
    assert first.endswith("--tags x y site.yml")
    assert "/play/a " in first
    assert '"localhost": {' in rest
    assert '"web": {' in rest
    assert '{"q": "it\'s $x"}' in rest
    assert "./roles/link\n./roles/r/tasks/main.yml\n./roles/r/tool\n./site.yml\n" in rest
    assert go() == ["same"]
    assert log.read_text() == said
    (project / "a/site.yml").write_text("[{}]")
    assert go() == ["changed"]


@pytest.mark.parametrize(
    ("stats", "status", "said"),
    [
        ('{"hosts": 1, "ok": 2, "changed": 0, "failures": 1}', 2, "The playbook failed."),
        ('{"hosts": 0, "ok": 0, "changed": 0, "failures": 0}', 0, "No play of the playbook is for this machine"),
    ],
)
def test_local_that_fails(guest: FakeGuest, project: Path, stats: str, status: int, said: str) -> None:
    stand_in(guest, stats=stats, status=status)
    write(project, a__site_yml="[]")
    with pytest.raises(DevboxError) as failure:
        provision(guest, (ansible(LOCAL),), guest.context(project), Options())
    assert said in failure.value.details


def test_local_that_changed_nothing_triggers_nothing(guest: FakeGuest, project: Path) -> None:
    log = stand_in(guest)
    write(project, a__site_yml="[]")
    always = ansible(LOCAL, when=When.ALWAYS)
    steps = (always, step("run", "true", "after", needs=("play",)))
    assert statuses(provision(guest, steps, guest.context(project), Options())) == ["changed", "changed"]
    stand_in(guest, stats='{"hosts": 1, "ok": 2, "changed": 0, "failures": 0}')
    assert statuses(provision(guest, steps, guest.context(project), Options())) == ["same", "same"]
    assert log.read_text().count("site.yml\n") > 1


def test_local_without_ansible_in_the_guest(guest: FakeGuest, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.defpath)
    if shutil.which("ansible-playbook", path=os.defpath):
        pytest.skip("this computer has an Ansible of the system's")
    write(project, a__site_yml="[]")
    with pytest.raises(DevboxError) as failure:
        provision(guest, (ansible(LOCAL),), guest.context(project), Options())
    assert "add `packages: [ansible]` before this step" in failure.value.details


def test_local_with_real_ansible(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_ansible(monkeypatch)
    guest = FakeGuest(tmp_path / "guest", "dash")
    (guest.bin / "ansible-playbook").symlink_to(str(shutil.which("ansible-playbook")))
    (tmp_path / "out").mkdir()
    write(project, a__site_yml=play(tmp_path, "- copy: {dest: '{{ out }}/x', content: '{{ q }}'}\n", hosts="web"))
    spec = ansible({**LOCAL, "tags": []}, when=When.ALWAYS)

    def go() -> list[str]:
        return statuses(provision(guest, (spec,), guest.context(project), Options()))

    assert go() == ["changed"]
    assert (tmp_path / "out/x").read_text() == "it's $x"
    assert (tmp_path / "out/x").stat().st_mode & 0o777 == 0o644
    assert go() == ["same"]


def test_the_digest_sees_what_ansible_reads(project: Path) -> None:
    write(project, a__site_yml="- import_tasks: ../named.yml\n", named_yml="[]", unnamed_yml="[]")

    def digest(**options: object) -> str:
        return bind((ansible({"playbook": "a/site.yml", **options}),), project, "dev")[0].digest(Facts())

    seen = [digest(), digest(groups=["a"]), digest(extra_vars={"x": 1}), digest(local=True), digest(inputs=["a"])]
    for name in ("a__roles__x", "a__group_vars__all", "a__ansible_cfg", "named_yml", "a__templates__t", "a__files__f"):
        write(project, **{name: "changed"})
        seen.append(digest())
    assert len(set(seen)) == len(seen)
    write(project, unnamed_yml="changed", a__README="changed")
    assert digest() == seen[-1]
    assert NOWHERE.port == 1
