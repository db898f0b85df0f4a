import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pycdlib
import pytest
import yaml

from devbox import proc
from devbox.config.model import Arch, BoxRef, MachineSpec, User
from devbox.disk import identity, seed
from devbox.errors import DevboxError
from tests.unit.disk import machines

GOLDEN = Path(__file__).parents[2] / "golden" / "seed"

RECORD = replace(
    machines.RECORD,
    project=Path("/home/ann/project"),
    name="hello",
    image="0" * 64,
    image_label="debian-12",
    lacks=("9p",),
    cpu="qemu64",
    disk_size=20 << 30,
    uuid="c0ffee00-0000-4000-8000-000000000001",
    mac="52:54:00:12:34:56",
    host_key="ssh-ed25519 HOSTPUBLIC",
)
MACHINE = MachineSpec(
    name="default",
    boxes={Arch.X86_64: BoxRef(name="debian-12")},
    arch=Arch.X86_64,
    hostname="hello",
    user=User(groups=("adm", "video")),
)


def text() -> str:
    return seed.user_data(
        RECORD,
        MACHINE,
        login_key="ssh-ed25519 LOGIN",
        host_key="-----BEGIN\nHOST\n-----END\n",
        host_line=RECORD.host_key,
    )


def config(**changes: Any) -> dict[str, Any]:
    changed = seed.user_data(
        replace(RECORD, **changes), MACHINE, login_key="ssh-ed25519 LOGIN", host_key="HOST", host_line=RECORD.host_key
    )
    loaded = yaml.safe_load(changed)
    assert isinstance(loaded, dict)
    return loaded


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("user-data.txt", text()),
        ("meta-data.txt", seed.meta_data(identity.own_instance(RECORD, "ssh-ed25519 LOGIN"), hostname="hello")),
        ("network-config.txt", seed.network_config(RECORD.mac)),
    ],
)
def test_the_texts_are_the_golden_ones(name: str, made: str) -> None:
    assert made == (GOLDEN / name).read_text()


def test_user_data_is_cloud_config_that_any_yaml_reader_understands() -> None:
    first, rest = text().split("\n", 1)
    assert first == "#cloud-config"
    loaded = yaml.safe_load(rest)
    assert loaded == json.loads(rest)
    (user,) = loaded["users"]
    assert (user["name"], user["uid"], user["primary_group"], user["shell"]) == ("dev", 1000, "dev", "/bin/bash")
    assert user["sudo"] == "ALL=(ALL) NOPASSWD:ALL"
    assert user["ssh_authorized_keys"] == ["ssh-ed25519 LOGIN"]
    assert loaded["ssh_keys"] == {
        "ed25519_private": "-----BEGIN\nHOST\n-----END\n",
        "ed25519_public": "ssh-ed25519 HOSTPUBLIC",
    }
    assert loaded["cloud_config_modules"] == loaded["cloud_final_modules"] == []
    assert not {"mounts", "locale", "apt-configure", "phone-home"} & set(loaded["cloud_init_modules"])


def test_the_group_has_its_own_number_whatever_the_distribution(tmp_path: Path) -> None:
    (command,) = config(gid=4321)["bootcmd"]
    groups = tmp_path / "group"
    groups.write_text("root:x:0:\n")
    # As on Alpine: no groupadd.
    script = command.replace("/etc/group", "$GROUPS_FILE").replace("groupadd", "false")
    for _ in range(2):
        done = proc.run(["/bin/sh", "-c", script], env={"GROUPS_FILE": str(groups)}, timeout=10)
        assert done.status == 0
    assert groups.read_text() == "root:x:0:\ndev:x:4321:\n"


def test_a_user_without_groups_has_no_empty_list_which_cloud_init_refuses() -> None:
    plain = replace(MACHINE, user=User())
    loaded = yaml.safe_load(
        seed.user_data(RECORD, plain, login_key="ssh-ed25519 LOGIN", host_key="HOST", host_line=RECORD.host_key)
    )
    assert "groups" not in loaded["users"][0]


def test_alpine_has_no_bash() -> None:
    assert config(os="alpine")["users"][0]["shell"] == "/bin/ash"


def test_the_instance_stays_the_same_while_the_login_key_does() -> None:
    one, same, two = (identity.own_instance(RECORD, key) for key in ("one", "one", "two"))
    assert one == same != two
    assert one.startswith(RECORD.uuid)


def test_the_network_is_found_by_its_address() -> None:
    loaded = yaml.safe_load(seed.network_config("52:54:00:12:34:56"))
    assert loaded["ethernets"]["primary"] == {"match": {"macaddress": "52:54:00:12:34:56"}, "dhcp4": True}


def read_iso(path: Path) -> tuple[str, dict[str, bytes]]:
    image, found = pycdlib.PyCdlib(), {}
    image.open(str(path))
    label = image.pvd.volume_identifier.decode().strip()
    for name in ("user-data", "meta-data", "network-config"):
        views = []
        for view in ("rr_path", "joliet_path"):
            whole = io.BytesIO()
            image.get_file_from_iso_fp(whole, **{view: f"/{name}"})
            views.append(whole.getvalue())
        assert views[0] == views[1]
        found[name] = views[0]
    image.close()
    return label, found


def test_the_image_holds_the_texts_and_the_keys_belong_together(tmp_path: Path) -> None:
    record, _ = machines.record(tmp_path)
    machine = machines.project(tmp_path / "project").machine
    made = seed.ensure(record, machine)
    label, files = read_iso(made.path)
    assert label == "cidata"
    loaded = yaml.safe_load(files["user-data"])
    (login_key,) = loaded["users"][0]["ssh_authorized_keys"]
    for private, public in ((made.login_key, login_key), (record.dir.host_key, loaded["ssh_keys"]["ed25519_public"])):
        assert proc.run(["/usr/bin/ssh-keygen", "-y", "-f", private], timeout=30).text.startswith(public)
    assert loaded["ssh_keys"]["ed25519_private"] == record.dir.host_key.read_text()
    assert made.known_hosts.read_text() == f"* {record.host_key}\n"
    assert {file.stat().st_mode & 0o777 for file in record.dir.folder.iterdir()} == {0o600}
    assert made.login_key.read_bytes() not in made.path.read_bytes()


def test_it_is_remade_only_when_something_is_missing(tmp_path: Path) -> None:
    record, _ = machines.record(tmp_path)
    machine = machines.project(tmp_path / "project").machine
    made = seed.ensure(record, machine)
    before = (made.path.stat().st_ino, made.login_key.read_bytes())
    assert seed.ensure(record, machine) == made
    assert (made.path.stat().st_ino, made.login_key.read_bytes()) == before
    instance = read_iso(made.path)[1]["meta-data"]
    made.path.unlink()
    seed.ensure(record, machine)
    assert read_iso(made.path)[1]["meta-data"] == instance
    assert made.login_key.read_bytes() == before[1]


def test_a_lost_login_key_is_made_anew_and_the_guest_told(tmp_path: Path) -> None:
    record, _ = machines.record(tmp_path)
    machine = machines.project(tmp_path / "project").machine
    made = seed.ensure(record, machine)
    before = read_iso(made.path)[1]["meta-data"]
    made.login_key.unlink()
    made.known_hosts.write_text("* ssh-ed25519 SOMEBODY\n")
    seed.ensure(record, machine)
    assert read_iso(made.path)[1]["meta-data"] != before
    assert made.known_hosts.read_text() == f"* {record.host_key}\n"


def test_a_lost_host_key_is_an_error_not_a_new_one(tmp_path: Path) -> None:
    record, _ = machines.record(tmp_path)
    record.dir.host_key.unlink()
    with pytest.raises(DevboxError) as caught:
        seed.ensure(record, machines.project(tmp_path / "project").machine)
    assert caught.value.id == "seed.host-key-lost"
