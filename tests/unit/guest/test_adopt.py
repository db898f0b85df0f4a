"""The shell text that sets a guest up: whether shells read it, and what it is told. Its work is seen by tests/e2e."""

import shutil
import subprocess
from pathlib import Path

import pytest

from devbox.errors import DevboxError
from devbox.guest import adopt
from devbox.guest.adopt import Setup
from devbox.guest.connection import Result
from tests.unit.provision.fake import FakeGuest

SHELLS = [words for words in (["dash"], ["bash", "--posix"], ["busybox", "sh"]) if shutil.which(words[0])]
SETUP = Setup(
    user="dev",
    uid=1000,
    gid=20,
    shell="/bin/a shell's",
    groups=("adm", "builders"),
    key='ssh-ed25519 AAAA it\'s "mine" $HOME `id`',
    hostname="shop.internal",
    mac="52:54:00:ab:cd:ef",
)


@pytest.mark.parametrize("words", SHELLS)
def test_shells_read_it(words: list[str]) -> None:
    text = adopt.script(SETUP)
    subprocess.run([*words, "-n"], input=text, text=True, check=True)
    head, _, _ = text.partition("# Appended")
    names = ("user", "uid", "gid", "shell", "groups", "key", "name", "whole_name", "mac")
    shown = subprocess.run(
        [*words, "-s"],
        input=head + "".join(f'printf "%s\\n" "${name}"\n' for name in names),
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert shown == [
        "dev",
        "1000",
        "20",
        "/bin/a shell's",
        "adm builders",
        SETUP.key,
        "shop",
        "shop.internal",
        "52:54:00:ab:cd:ef",
    ]


def test_a_guest_that_cannot_be_set_up_says_why(tmp_path: Path) -> None:
    guest = FakeGuest(tmp_path, "dash")
    guest.program("sh", "cat >/dev/null; echo 'useradd: UID 1000 is not unique' >&2; exit 4")
    with pytest.raises(DevboxError) as caught:
        adopt.adopt(guest, SETUP, timeout=60)
    assert caught.value.id == "guest.setup"
    assert "is not unique" in caught.value.details


@pytest.mark.parametrize("root", [True, False])
def test_roots_key_is_taken_away_by_root_and_by_the_account(root: bool) -> None:  # noqa: FBT001
    class Heard:
        channels = 0
        command = ""

        def run(self, command: str, **_: object) -> Result:
            self.command = command
            return Result(0, b"", b"")

    heard = Heard()
    adopt.leave(heard, root=root, timeout=60)  # type: ignore[arg-type]
    assert heard.command.startswith("sh -c " if root else "sudo -n sh -c ")
    assert ": >/root/.ssh/authorized_keys" in heard.command
