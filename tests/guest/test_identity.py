"""A machine made from another one's disk becomes one of its own, whatever dies on the way."""

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import pytest

from devbox.commands import renewal, session
from devbox.disk import identity, keys, seed
from devbox.errors import DevboxError
from devbox.guest import renew
from devbox.guest.connection import FabricGuest, connect
from devbox.guest.openssh import Endpoint
from devbox.machine import lifecycle
from tests.guest.conftest import SSH_WAIT, Machine

pytestmark = pytest.mark.guest

WHO = """
for file in /etc/ssh/ssh_host_ed25519_key /etc/ssh/ssh_host_ed25519_key.pub /home/dev/.ssh/authorized_keys \
  /etc/machine-id /var/lib/dbus/machine-id /etc/hostname /etc/hosts /var/lib/cloud/data/instance-id \
  /var/lib/systemd/random-seed; do
  printf '%s ' "$file"
  sha256sum <"$file"
done
hostname
"""
PARENT_HAS = """
mkdir -p /var/lib/dbus /var/lib/systemd
echo 11111111111111111111111111111111 | tee /etc/machine-id >/var/lib/dbus/machine-id
head -c 512 /dev/urandom >/var/lib/systemd/random-seed
echo 'ssh-ed25519 AAAAfriend' >>/home/dev/.ssh/authorized_keys
echo kept >/home/dev/work
sync
"""


def as_root(machine: Machine, script: str) -> str:
    return machine.ssh(f"sudo -n sh -c '{script.replace(chr(39), chr(34))}'")


def endpoint(machine: Machine) -> Endpoint:
    return session.endpoint(machine.record, lifecycle.observe(machine.record))


def reached(machine: Machine) -> FabricGuest:
    """As `up` connects: by whichever identity the guest holds."""
    from devbox.guest import ready  # noqa: PLC0415

    return ready.wait(
        endpoint(machine), slowdown=SSH_WAIT / ready.BANNER_DEADLINE * 2, serial_log=machine.record.dir.serial_log,
        alive=lambda: None,
    )  # fmt: skip


def renewed(machine: Machine) -> None:
    seen = lifecycle.observe(machine.record)
    slowdown = machine.facts.slowdown
    renewal.ensure_own_identity(reached(machine), machine.record, machine.spec, seen, slowdown=slowdown).close()


def lets_in(machine: Machine, keys_of: Machine) -> bool:
    where = replace(endpoint(machine), key=keys_of.record.dir.login_key, born=None)
    with suppress(DevboxError):
        connect(where, 60).close()
        return True
    with pytest.raises(DevboxError) as caught:
        connect(where, 60)
    return caught.value.id != "guest.login"


def forked(parent: Machine, new_machine: Callable[..., Machine]) -> Machine:
    """A machine that is about to boot a copy of the parent's disk."""
    fork = new_machine("two")
    shutil.copyfile(parent.record.dir.disk, fork.record.dir.disk)
    login_line = keys.make(parent.record.dir.login_key)
    instance = identity.own_instance(parent.record, login_line)
    identity.begin(fork.record, parent.record.dir.folder, instance=instance)
    seed.ensure(fork.record, fork.spec)
    return fork


@pytest.fixture
def parent(new_machine: Callable[..., Machine]) -> Machine:
    machine = new_machine("one")
    machine.boot()
    as_root(machine, PARENT_HAS)
    return machine


def test_a_fork_shares_no_identity_with_its_parent(parent: Machine, new_machine: Callable[..., Machine]) -> None:
    before = as_root(parent, WHO)
    private = parent.record.dir.host_key.read_text().splitlines()[3]
    lifecycle.halt(parent.record)
    fork = forked(parent, new_machine)
    fork.start()
    renewed(fork)
    after = as_root(fork, WHO)
    assert [line for line in after.splitlines() if line in before.splitlines()] == []
    assert fork.ssh("cat work; hostname; tail -n 1 /etc/hosts") == "kept\ntwo\n127.0.1.1 two\n"
    assert "AAAAfriend" in fork.ssh("cat .ssh/authorized_keys")
    assert lets_in(fork, fork)
    assert not lets_in(fork, parent)
    assert not fork.record.dir.provisional.exists()
    assert as_root(fork, f"grep -rl {private} /etc /home /var /root || true") == ""

    # A guest that restarts by itself reads the seed that QEMU has had open since before.
    boot = fork.ssh("cat /proc/sys/kernel/random/boot_id; (sleep 1; sudo reboot) >/dev/null 2>&1 &")
    while fork.ssh("cat /proc/sys/kernel/random/boot_id", wait=3 * SSH_WAIT) == boot:
        pass
    assert as_root(fork, WHO) == after
    assert not lets_in(fork, parent)

    # So does one that devbox starts anew, and the parent knows nothing of it all.
    lifecycle.halt(fork.record)
    seed.ensure(fork.record, fork.spec)
    fork.boot()
    assert as_root(fork, WHO).splitlines()[:-2] == after.splitlines()[:-2]  # the random seed is another at each boot
    lifecycle.halt(fork.record)
    parent.boot()
    assert as_root(parent, WHO).splitlines()[:-2] == before.splitlines()[:-2]


class Killed(Exception):
    """What happens to a process that dies: nothing after this line is done."""


def test_a_renewal_that_is_cut_off_anywhere_is_done_by_the_next_up(
    parent: Machine, new_machine: Callable[..., Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    lifecycle.halt(parent.record)
    fork = forked(parent, new_machine)
    fork.start()
    whole = renew.script

    def dies(*arguments: object, **options: object) -> None:
        raise Killed

    for line in ("stir", "tell_sshd", "tell_others", 'mv -f "$list.last'):
        # The guest is cut off at this line, and its sshd may or may not have been told.
        cut = f"\n  kill -KILL $$\n  {line}"
        with monkeypatch.context() as patched:
            patched.setattr(
                renew, "script", lambda *a, cut=cut, line=line: cut.join(whole(*a).rsplit(f"\n  {line}", 1))
            )
            with pytest.raises(DevboxError) as caught:
                renewed(fork)
        assert caught.value.id == "guest.not-renewed"
        reached(fork).close()
    for module, name in ((renewal, "_by_own_keys"), (seed, "take_own"), (identity, "settled")):
        with monkeypatch.context() as patched:
            patched.setattr(module, name, dies)
            with pytest.raises(Killed):
                renewed(fork)
        assert identity.is_provisional(fork.record)
        if name != "settled":
            # The machine is stopped and started: its seed brings the provisional identity back.
            lifecycle.halt(fork.record, force=True)
            fork.record.dir.seed.write_bytes(fork.record.dir.seed.read_bytes()[:5000] + b"torn")
            seed.ensure(fork.record, fork.spec)
            fork.start()
        reached(fork).close()
    renewed(fork)
    assert lets_in(fork, fork)
    assert not lets_in(fork, parent)
    assert fork.ssh("cat work; hostname") == "kept\ntwo\n"
