"""The truth table: an edit of each key of the format, and what it takes on a machine that is there."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

import pytest

from devbox.config.model import (
    Arch,
    AutoPorts,
    Boot,
    BoxRef,
    Disk,
    Export,
    Firmware,
    FolderType,
    MachineSpec,
    Network,
    Secret,
    Socket,
    User,
)
from devbox.disk.data import Attached
from devbox.disk.record import Record
from devbox.machine import changes
from devbox.machine.changes import Box, Change, Effect, Have, Wanted
from devbox.machine.started import Started
from devbox.share.folders import Mount
from devbox.share.ports import Forward

SCHEMA = Path(__file__).parents[3] / "schemas/devboxfile.schema.json"
GIB = 1 << 30

MACHINE = MachineSpec(
    name="default",
    boxes={Arch.X86_64: BoxRef(name="debian-12"), Arch.AARCH64: BoxRef(name="debian-12")},
    arch=Arch.X86_64,
    env=MappingProxyType({"STAGE": "test"}),
    disks=(Disk("data", GIB, PurePosixPath("/data")),),
)
BOX = Box("debian-12", f"sha512:{'a' * 128}")
WEB = Forward("tcp", "127.0.0.1", 8080, 80, "web")
MOUNT = Mount("t", Path("/p"), PurePosixPath("/workspace"), FolderType.NINEP)
COPY = Mount("r", Path("/q"), PurePosixPath("/copy"), FolderType.RSYNC)
RECORD = Record(
    id="0" * 12, project=Path("/p"), device=1, inode=2, name="p", machine="default", arch=Arch.X86_64,
    image="b" * 64,
    image_format="qcow2", image_label="debian-12", os="debian", lacks=(), firmware=Firmware.BIOS, cpu="max",
    machine_type="q35", disk_size=MACHINE.disk, uuid="", mac="", user="dev", uid=1000, gid=1000, host_key="",
    created="",
    shell="/bin/bash", groups=(), source=BOX.source,
)  # fmt: skip
STARTED = Started(
    (WEB,),
    (MOUNT, COPY),
    (Attached("data", GIB, Path("/state/data/1/disk.qcow2"), "u"),),
    MACHINE.cpus,
    MACHINE.memory,
    "internet",
    known=True,
    seconds=12.0,
)
WANTED = Wanted(MACHINE, BOX, (WEB,), (MOUNT, COPY))
HAVE = Have(RECORD, STARTED, (WEB,), changes.settings(MACHINE))

L, RS, RB = Effect.LIVE, Effect.RESTART, Effect.REBUILD
Row = tuple[str, Effect, str | None, str | None]


def edited(**fields: Any) -> Wanted:
    return replace(WANTED, machine=replace(MACHINE, **fields))


def ported(*forwards: Forward) -> Wanted:
    return replace(WANTED, forwards=forwards)


def shared(*mounts: Mount) -> Wanted:
    return replace(WANTED, mounts=mounts)


TABLE: Mapping[str, tuple[tuple[Wanted, tuple[Row, ...]], ...]] = {
    "box": (
        (replace(WANTED, box=Box("debian-13", "")), (("box", RB, "debian-12", "debian-13"),)),
        (
            replace(WANTED, box=replace(BOX, source=f"sha512:{'c' * 128}")),
            (("box", RB, f"debian-12 sha512:{'a' * 12}…", f"debian-12 sha512:{'c' * 12}…"),),
        ),
        (replace(WANTED, box=replace(BOX, source="")), ()),
        (edited(), ()),
    ),
    "arch": ((edited(arch=Arch.AARCH64), (("arch", RB, "x86_64", "aarch64"),)),),
    "cpus": ((edited(cpus=1), (("cpus", RS, "2", "1"),)),),
    "memory": ((edited(memory=3 * GIB // 2), (("memory", RS, "2GiB", "1536MiB"),)),),
    "disk": (
        (edited(disk=40 * GIB), (("disk", RS, "20GiB", "40GiB"),)),
        (edited(disk=10 * GIB), (("disk", RB, "20GiB", "10GiB"),)),
    ),
    "disks": (
        (edited(disks=()), (("disks", RS, "data 1GiB", None),)),
        (
            edited(disks=(*MACHINE.disks, Disk("more", GIB, PurePosixPath("/more")))),
            (("disks", RS, None, "more 1GiB at /more"),),
        ),
        (edited(disks=(Disk("data", 2 * GIB, PurePosixPath("/data")),)), (("disks", RS, "data 1GiB", "data 2GiB"),)),
        (edited(disks=(Disk("data", GIB, PurePosixPath("/elsewhere")),)), ()),  # its step mounts it there
    ),
    # How a new machine is set up: to one that is there it makes no difference.
    "boot": ((edited(boot=Boot.FIRMWARE), ()),),
    "firmware": (
        (edited(firmware=Firmware.UEFI), (("firmware", RS, "bios", "uefi"),)),
        (edited(firmware=Firmware.BIOS), ()),
        (
            replace(edited(firmware=Firmware.UEFI), box=replace(BOX, firmware=(Firmware.BIOS,))),
            (("firmware", RB, "bios", "uefi"),),
        ),
    ),
    "hostname": ((edited(hostname="other"), (("hostname", L, "devbox", "other"),)),),
    "timezone": ((edited(timezone="UTC"), (("timezone", L, None, "UTC"),)),),
    "locale": ((edited(locale="C.UTF-8"), (("locale", L, None, "C.UTF-8"),)),),
    "user": (
        (edited(user=User(uid=1234)), (("user", RB, "dev 1000:1000", "dev 1234:1000"),)),
        (edited(user=User(shell="/bin/sh")), (("user.shell", RB, "/bin/bash", "/bin/sh"),)),
        (edited(user=User(groups=("a", "b"))), (("user.groups", RB, "none", "a, b"),)),
    ),
    "env": (
        (edited(env={"STAGE": "live", "N": "1"}), (("env", L, "STAGE=test", "STAGE=live"), ("env", L, None, "N=1"))),
        (edited(env={}), (("env", L, "STAGE=test", None),)),
    ),
    "folders": (
        (shared(COPY), (("folders", RS, "/p → /workspace (9p)", None),)),
        (shared(MOUNT), (("folders", L, "/q → /copy (rsync)", None),)),
        (
            shared(MOUNT, replace(COPY, ignore=("x/",))),
            (("folders", L, "/q → /copy (rsync)", "/q → /copy (rsync, without x/)"),),
        ),
        (
            shared(replace(MOUNT, readonly=True), COPY),
            (("folders", RS, "/p → /workspace (9p)", "/p → /workspace (9p, read-only)"),),
        ),
        (
            shared(replace(MOUNT, type=FolderType.RSYNC), COPY),
            (("folders", RS, "/p → /workspace (9p)", "/p → /workspace (rsync)"),),
        ),
        (shared(COPY, replace(MOUNT, reason="another reason")), ()),
    ),
    "ports": (
        (ported(), (("ports", L, "8080 → 80 (web)", None),)),
        (
            ported(WEB, Forward("udp", "127.0.0.1", 5353, 53)),
            (("ports", L, None, "5353 → 53/udp"),),
        ),
        (ported(replace(WEB, guest=81)), (("ports", L, "8080 → 80 (web)", "8080 → 81 (web)"),)),
        (ported(replace(WEB, host=8081)), (("ports", L, "8080 → 80 (web)", "8081 → 80 (web)"),)),
        (ported(replace(WEB, bind="0.0.0.0")), (("ports", L, "8080 → 80 (web)", "0.0.0.0:8080 → 80 (web)"),)),  # noqa: S104
        (ported(replace(WEB, name="")), (("ports", L, "8080 → 80 (web)", "8080 → 80"),)),
        (ported(WEB, Forward("tcp", "127.0.0.1", 2222, 22)), (("ports", RS, None, "2222 → 22"),)),
    ),
    "network": ((edited(network=Network.NONE), (("network", RS, "internet", "none"),)),),
    "hosts": ((edited(hosts={"a.test": "10.0.2.2"}), (("hosts", L, None, "a.test=10.0.2.2"),)),),
    "dns": ((edited(dns=("9.9.9.9",)), (("dns", L, None, "9.9.9.9"),)),),
    "ca_certs": ((edited(ca_certs=(Path("/p/a.pem"),)), (("ca_certs", L, None, "/p/a.pem"),)),),
    "proxy": ((edited(proxy="none"), (("proxy", L, "inherit", "none"),)),),
    "secrets": (
        (edited(secrets=(Secret("T", env="T"),)), (("secrets", L, None, "T=your environment variable T"),)),
    ),
    "forward_agent": ((edited(forward_agent=True), (("forward_agent", L, "false", "true"),)),),
    "auto_ports": ((edited(auto_ports=AutoPorts()), (("auto_ports", L, "none", "1-65535 without 22"),)),),
    "sockets": (
        (
            edited(sockets=(Socket(PurePosixPath("/run/d.sock"), "docker"),)),
            (("sockets", L, None, "docker=/run/d.sock"),),
        ),
    ),
    "exports": (
        (edited(exports=(Export(PurePosixPath("/etc/k"), "kube"),)), (("exports", L, None, "kube=/etc/k"),)),
    ),
    "provision": ((edited(steps=()), ()),),  # told by the probe run: tests/unit/commands/test_survey.py
}  # fmt: skip
CASES = [(key, wanted, rows) for key, cases in TABLE.items() for wanted, rows in cases]


@pytest.mark.parametrize(("key", "wanted", "rows"), CASES, ids=[case[0] for case in CASES])
def test_what_an_edit_takes(key: str, wanted: Wanted, rows: tuple[Row, ...]) -> None:
    found = changes.between(wanted, HAVE)
    assert tuple((one.key, one.effect, one.old, one.new) for one in found) == rows
    assert {one.key.partition(".")[0] for one in found} <= {key}


def test_every_key_that_changes_something_stands_in_the_table_as_the_schema_says() -> None:
    schema = json.loads(SCHEMA.read_text())["properties"]
    known = {key: part["x-changes"] for key, part in schema.items() if "x-changes" in part}
    assert known.keys() == TABLE.keys()
    for key, effect in known.items():
        found = {row[1] for _, rows in TABLE[key] for row in rows}
        assert effect in found or not found, key


def test_nothing_is_known_of_a_machine_that_was_never_started() -> None:
    other = replace(edited(cpus=1, memory=GIB, network=Network.NONE, disks=()), mounts=())
    assert changes.between(other, Have(RECORD, Started(), (WEB,), None)) == ()


def test_a_restart_tells_how_long_the_last_one_took() -> None:
    (change,) = changes.between(edited(cpus=1), HAVE)
    assert change == Change("cpus", RS, "2", "1", last_seconds=12.0)


def test_a_removed_disk_tells_where_its_data_stays() -> None:
    (change,) = changes.between(edited(disks=()), HAVE)
    assert change.reason == "its data stays in /state/data/1/disk.qcow2"


def test_all_at_once_in_the_order_of_the_format() -> None:
    wanted = replace(edited(memory=4 * GIB, hostname="x"), forwards=(WEB, Forward("tcp", "127.0.0.1", 1, 2)))
    assert [one.key for one in changes.between(wanted, HAVE)] == ["memory", "ports", "hostname"]


def test_copied_folders_come_and_go_but_not_in_a_device_s_place() -> None:
    other = replace(COPY, guest=PurePosixPath("/other"))
    assert changes.merged_mounts((MOUNT, COPY), (MOUNT, other)) == (MOUNT, other)
    assert changes.merged_mounts((MOUNT,), (replace(MOUNT, type=FolderType.RSYNC),)) == (MOUNT,)
    assert changes.merged_mounts((COPY,), (MOUNT,)) == ()


def test_a_further_way_to_ssh_waits_but_one_that_is_there_stays() -> None:
    ssh = Forward("tcp", "127.0.0.1", 2222, 22, "ssh")
    assert changes.live_forwards((WEB, ssh), (WEB,)) == (WEB,)
    assert changes.live_forwards((ssh,), (replace(ssh, name=""),)) == (ssh,)
