"""The cloud-init seed (NoCloud, an ISO image labelled `cidata`) and the keys that belong to it.

Its three texts are pure functions; they are JSON, which is YAML. Nothing in them is secret but the guest's host key,
so the image is 0600. A seed is made when it is missing: the instance id stays the same while the login key does. It is
rewritten in place, where a running QEMU has it open, since the guest reads it again at each of its own restarts.
"""

import hashlib
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pycdlib

from devbox import fs
from devbox.config.model import MachineSpec
from devbox.disk import first_boot, identity, keys
from devbox.disk.identity import Identity
from devbox.disk.record import Record

# The size of every seed, so that one can take another's place under a running QEMU. Its end is the digest of the rest.
_SIZE = 128 << 10
_DIGEST = hashlib.sha256().digest_size

# All that the first boot needs. Every other module is left out: cloud-init is two thirds of a cold boot.
_INIT_MODULES = (
    "bootcmd",
    "growpart",
    "resizefs",
    "set_hostname",
    "update_hostname",
    "update_etc_hosts",
    "users-groups",
    "ssh",
)


@dataclass(frozen=True, slots=True)
class Seed:
    path: Path
    login_key: Path
    known_hosts: Path


def ensure(record: Record, machine: MachineSpec) -> Seed:
    """The seed of the next boot, and the files of the machine's own identity, whatever of them is missing made."""
    files = record.dir
    known_hosts = identity.known_hosts(record.host_key)
    if not files.known_hosts.exists() or files.known_hosts.read_bytes() != known_hosts:
        fs.write_atomic(files.known_hosts, known_hosts)
    born = identity.provisional(record)
    seedless = first_boot.is_under_way(record) or first_boot.is_adopted(record)
    if not files.login_key.exists():
        if born is None:
            seedless = False  # a guest that was set up without a seed takes a new key by one, too
            files.seed.unlink(missing_ok=True)  # first, as it gives the guest the lost one
        keys.make(files.login_key)
    if not files.seed.exists() and not seedless:
        fs.write_atomic(files.seed, _image(record, machine, born or identity.own(record)))
    elif born is not None and files.seed.exists() and not _whole(files.seed):
        _rewrite(files.seed, _image(record, machine, born))
    return Seed(files.seed, files.login_key, files.known_hosts)


def take_own(record: Record, machine: MachineSpec) -> None:
    """Write the machine's own identity into the seed that its guest was born by: it would bring the other one back."""
    if record.dir.seed.exists():
        _rewrite(record.dir.seed, _image(record, machine, identity.own(record)))


def _image(record: Record, machine: MachineSpec, who: Identity) -> bytes:
    login_key = keys.make(who.login_key)
    instance = who.instance or identity.own_instance(record, login_key)
    texts = {
        "user-data": user_data(
            record, machine, login_key=login_key, host_key=identity.private_key(who.host_key), host_line=who.host_line
        ),
        "meta-data": meta_data(instance, hostname=machine.hostname),
        "network-config": network_config(record.mac),
    }
    padded = _iso(texts).ljust(_SIZE - _DIGEST, b"\0")
    return padded + hashlib.sha256(padded).digest()


def _whole(path: Path) -> bool:
    data = path.read_bytes()
    return data[-_DIGEST:] == hashlib.sha256(data[:-_DIGEST]).digest()


def _rewrite(path: Path, data: bytes) -> None:
    with path.open("r+b") as seed:
        seed.write(data)
        seed.truncate()
        seed.flush()
        os.fsync(seed.fileno())


def user_data(record: Record, machine: MachineSpec, *, login_key: str, host_key: str, host_line: str) -> str:
    """cloud-config. `login_key` and `host_line` are public key lines, `host_key` a private key's text."""
    user = {
        "name": record.user,
        "uid": record.uid,
        "primary_group": record.user,
        "homedir": f"/home/{record.user}",
        "shell": _shell(record.os, machine.user.shell),
        "sudo": "ALL=(ALL) NOPASSWD:ALL",
        "lock_passwd": True,
        "ssh_authorized_keys": [login_key],
    }
    if machine.user.groups:  # the schema allows no empty list
        user["groups"] = list(machine.user.groups)
    config = {
        "bootcmd": [_make_group(record)],
        "users": [user],  # without "default", so the vendor's own account, often uid 1000 too, is not made
        "ssh_deletekeys": False,
        "ssh_genkeytypes": ["ed25519"],  # the schema wants one; with `ssh_keys` none is made
        "ssh_keys": {"ed25519_private": host_key, "ed25519_public": host_line},
        "hostname": machine.hostname,
        "preserve_hostname": False,
        "manage_etc_hosts": "localhost",  # one line, so that sudo knows the name; the rest of the file stays
        "growpart": {"mode": "auto", "devices": ["/"]},
        "resize_rootfs": True,
        "package_update": False,
        "package_upgrade": False,
        "cloud_init_modules": list(_INIT_MODULES),
        "cloud_config_modules": [],
        "cloud_final_modules": [],
    }
    return f"#cloud-config\n{_text(config)}"


def meta_data(instance: str, *, hostname: str) -> str:
    return _text({"instance-id": instance, "local-hostname": hostname})


def network_config(mac: str) -> str:
    """DHCP on the one interface, found by its address, whatever the distribution calls it; resolvers come by DHCP."""
    return _text({"version": 2, "ethernets": {"primary": {"match": {"macaddress": mac}, "dhcp4": True}}})


def _make_group(record: Record) -> str:
    # cloud-init has no way to give a user's own group its number. `-o`: the number may be another group's (on macOS
    # everybody is in 20). Alpine has no groupadd.
    name, gid = record.user, record.gid
    return f"grep -q '^{name}:' /etc/group || groupadd -o -g {gid} {name} || echo '{name}:x:{gid}:' >>/etc/group"


def _shell(os: str, wanted: str) -> str:
    # sshd refuses an account whose shell does not exist, and Alpine comes without bash.
    return "/bin/ash" if os == "alpine" and wanted == "/bin/bash" else wanted


def _text(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _iso(texts: dict[str, str]) -> bytes:
    image, whole = pycdlib.PyCdlib(), io.BytesIO()
    image.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident="cidata")
    for number, (name, text) in enumerate(texts.items()):
        data = text.encode()
        # Guests see the Rock Ridge or the Joliet name; the plain one only has to be legal.
        image.add_fp(io.BytesIO(data), len(data), f"/FILE{number}.;1", rr_name=name, joliet_path=f"/{name}")
    image.write_fp(whole)
    image.close()
    return whole.getvalue()
