"""`sysctl`, `module` and `wait` through the whole engine: kernel trees of the test's own, real servers on loopback."""

import contextlib
import http.server
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from devbox.config.model import StepSpec
from devbox.errors import DevboxError
from devbox.provision.apply import Options, Report, provision
from devbox.provision.kinds import module, sysctl, wait
from tests.unit.provision.fake import FakeGuest, step
from tests.unit.provision.test_kinds import Alone


@pytest.fixture
def kernel(guest: FakeGuest, monkeypatch: pytest.MonkeyPatch) -> FakeGuest:
    """With /proc/sys, /sys/module and their files in /etc below the sandbox, and a modprobe that works on these."""
    proc, modules, library = guest.path("proc/sys"), guest.path("sys/module"), guest.path("lib/modules")
    for folder in (proc / "vm", proc / "net/ipv4/conf/eth0.1", modules, library):
        folder.mkdir(parents=True)
    (proc / "vm/swappiness").write_text("60\n")
    (proc / "net/ipv4/range").write_text("32768\t60999\n")
    (proc / "net/ipv4/conf/eth0.1/rp_filter").write_text("0\n")
    monkeypatch.setattr(sysctl, "PROC", str(proc))
    monkeypatch.setattr(sysctl, "FOLDER", str(guest.path("etc/sysctl.d")))
    monkeypatch.setattr(module, "LOADED", str(modules))
    monkeypatch.setattr(module, "LIBRARY", str(library))
    monkeypatch.setattr(module, "BOOT", str(guest.path("etc/modules-load.d")))
    monkeypatch.setattr(module, "OPTIONS", str(guest.path("etc/modprobe.d")))
    # BusyBox's shell would take its own modprobe.
    own = f"modprobe() {{ '{guest.bin / 'modprobe'}' \"$@\"; }}\n"
    monkeypatch.setattr(module, "_FUNCTIONS", module._FUNCTIONS + own)
    (library / os.uname().release).mkdir()
    (library / os.uname().release / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\nkernel/lib/crc-t10dif.ko\n")
    guest.program(
        "modprobe",
        f'echo "$*" >>{guest.path("modprobe.log")}\n'
        "for name do :; done\n"
        f'case "$*" in -r*) [ ! -e {modules}/busy ] || exit 1; rm -r {modules}/$name; exit ;; esac\n'
        '[ $name != nope ] || { echo "modprobe: FATAL: Module nope not found." >&2; exit 1; }\n'
        f"cat {guest.path('etc/modprobe.d')}/devbox-$name.conf 2>/dev/null >>{guest.path('modprobe.log')}\n"
        f"mkdir {modules}/$name && touch {modules}/$name/initstate\n",
    )
    return guest


def go(guest: FakeGuest, *steps: StepSpec, **options: Any) -> Report:
    return provision(guest, steps, guest.context(guest.root), Options(**options))


def told(report: Report) -> list[str]:
    return [str(outcome.status) for outcome in report.outcomes]


def read(guest: FakeGuest, folder: str) -> dict[str, str]:
    return {path.name: path.read_text() for path in guest.path(folder).iterdir()}


def failure(guest: FakeGuest, *steps: StepSpec) -> str:
    with pytest.raises(DevboxError) as failed:
        go(guest, *steps)
    assert failed.value.id == "provision.failed"
    return failed.value.details


SWAP = {"vm.swappiness": 10, "net.ipv4.range": "10000 65000", "net.ipv4.conf.eth0/1.rp_filter": 2}


def test_sysctl_is_set_now_and_at_boot(kernel: FakeGuest) -> None:
    asked = step("sysctl", SWAP, "tune")
    assert told(go(kernel, asked)) == ["changed"]
    (content,) = read(kernel, "etc/sysctl.d").values()
    assert content.splitlines()[1:] == [
        "vm.swappiness = 10",
        "net.ipv4.range = 10000 65000",
        "net.ipv4.conf.eth0/1.rp_filter = 2",
    ]
    assert kernel.path("proc/sys/vm/swappiness").read_text() == "10\n"
    assert kernel.path("proc/sys/net/ipv4/conf/eth0.1/rp_filter").read_text() == "2\n"
    kernel.channels = 0
    kernel.path("proc/sys/net/ipv4/range").write_text("10000\t65000\n")  # as the kernel would show it
    assert (told(go(kernel, asked)), kernel.channels) == (["same"], 1)


def test_sysctl_mends_either_half(kernel: FakeGuest) -> None:
    asked = step("sysctl", SWAP, "tune")
    go(kernel, asked)
    kernel.path("proc/sys/vm/swappiness").write_text("60\n")
    (found,) = go(kernel, asked).outcomes
    assert [(c.field, c.old, c.new) for c in found.changes] == [("vm.swappiness", "60", "10")]
    (file,) = kernel.path("etc/sysctl.d").iterdir()
    file.write_text("# mine now\nvm.swappiness = 99\nnonsense\n")
    (found,) = go(kernel, asked).outcomes
    assert [c.field for c in found.changes] == [
        "vm.swappiness at boot",
        "net.ipv4.range at boot",
        "net.ipv4.conf.eth0/1.rp_filter at boot",
        str(file),
    ]
    assert told(go(kernel, asked)) == ["same"]


def test_sysctl_that_is_taken_out_goes_from_the_file_and_stays_until_the_boot(kernel: FakeGuest) -> None:
    go(kernel, step("sysctl", {"vm.swappiness": 10, "net.ipv4.range": "1 2"}, "tune"))
    less = step("sysctl", {"net.ipv4.range": "1 2"}, "tune")
    (found,) = go(kernel, less).outcomes
    assert [(c.field, c.old, c.new) for c in found.changes] == [("vm.swappiness at boot", "10", None)]
    assert "swappiness" not in "".join(read(kernel, "etc/sysctl.d").values())
    assert kernel.path("proc/sys/vm/swappiness").read_text() == "10\n"
    assert told(go(kernel, less)) == ["same"]


def test_two_sysctl_steps_have_files_of_their_own(kernel: FakeGuest) -> None:
    steps = (
        step("sysctl", {"vm.swappiness": 1}, "one"),
        step("sysctl", {"settings": {"net.ipv4.range": "1 2"}, "file": "70-two.conf"}, "two"),
    )
    assert told(go(kernel, *steps)) == ["changed", "changed"]
    assert told(go(kernel, *steps)) == ["same", "same"]
    assert len(read(kernel, "etc/sysctl.d")) == 2
    assert "net.ipv4.range" in kernel.path("etc/sysctl.d/70-two.conf").read_text()


def test_sysctl_says_what_the_kernel_lacks_and_lists_it_for_no_boot(kernel: FakeGuest) -> None:
    said = failure(kernel, step("sysctl", {"net.bridge.filter": 1}))
    assert (
        said
        == "This kernel has no setting net.bridge.filter. Perhaps a module must be loaded first, by a `module` step."
    )
    assert failure(kernel, step("sysctl", {"net.ipv4": 1})) == "net.ipv4 is a group of settings, not one."
    assert not kernel.path("etc/sysctl.d").exists()


def test_sysctl_says_what_the_kernel_refuses(kernel: FakeGuest) -> None:
    kernel.path("proc/sys/vm/strict").symlink_to("/proc/sys/kernel/ostype")  # which nobody may write
    said = failure(kernel, step("sysctl", {"vm.strict": "b'ad"}))
    assert said == "The kernel does not take the value 'b'ad' for vm.strict."


def test_sysctl_reads_numbers_of_the_real_kernel(guest: FakeGuest, project: Path) -> None:
    """A shell's own `read` gives but the first digit of these."""
    alone = Alone(guest, project, "sysctl", {"vm.max_map_count": 1, "net.ipv4.ip_local_port_range": "1 2"})
    assert alone.state() == (
        ("vm.max_map_count", Path("/proc/sys/vm/max_map_count").read_text().strip()),
        ("net.ipv4.ip_local_port_range", " ".join(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())),
    )


def test_module_is_loaded_now_and_at_boot(kernel: FakeGuest) -> None:
    asked = step("module", {"name": "br-netfilter", "options": {"a": 1, "b": [2, 3]}})
    assert told(go(kernel, asked)) == ["changed"]
    assert kernel.path("modprobe.log").read_text() == "br_netfilter\noptions br_netfilter a=1 b=2,3\n"
    assert read(kernel, "etc/modules-load.d") == {"devbox-br_netfilter.conf": "br_netfilter\n"}
    kernel.channels = 0
    assert (told(go(kernel, asked)), kernel.channels) == (["same"], 1)
    shutil.rmtree(kernel.path("sys/module/br_netfilter"))
    assert told(go(kernel, asked)) == ["changed"]
    kernel.path("etc/modules-load.d/devbox-br_netfilter.conf").unlink()
    assert told(go(kernel, asked)) == ["changed"]
    assert told(go(kernel, asked)) == ["same"]


def test_module_options_are_changed_and_taken_out_without_a_reload(kernel: FakeGuest) -> None:
    go(kernel, step("module", {"name": "loop", "options": "max_loop=8"}))
    kernel.path("modprobe.log").unlink()
    assert told(go(kernel, step("module", {"name": "loop", "options": "max_loop=9"}))) == ["changed"]
    assert read(kernel, "etc/modprobe.d") == {"devbox-loop.conf": "options loop max_loop=9\n"}
    (log,) = kernel.path("var/log/devbox").iterdir()
    assert "its options count from its next load" in log.read_text()
    assert told(go(kernel, step("module", "loop"))) == ["changed"]
    assert read(kernel, "etc/modprobe.d") == {}
    assert told(go(kernel, step("module", "loop"))) == ["same"]
    assert not kernel.path("modprobe.log").exists()


def test_module_only_now(kernel: FakeGuest) -> None:
    asked = step("module", {"name": "loop", "boot": False})
    assert told(go(kernel, asked)) == ["changed"]
    assert not kernel.path("etc/modules-load.d").exists()
    go(kernel, step("module", "loop"))
    assert told(go(kernel, asked)) == ["changed"]
    assert read(kernel, "etc/modules-load.d") == {}


def test_module_absent(kernel: FakeGuest) -> None:
    absent = step("module", {"name": "loop", "state": "absent"})
    assert told(go(kernel, absent)) == ["same"]
    go(kernel, step("module", {"name": "loop", "options": "a=1"}))
    assert told(go(kernel, absent)) == ["changed"]
    assert (read(kernel, "etc/modules-load.d"), read(kernel, "etc/modprobe.d")) == ({}, {})
    assert not kernel.path("sys/module/loop").exists()
    go(kernel, step("module", "loop"))
    kernel.path("sys/module/busy").mkdir()
    assert failure(kernel, absent) == "loop cannot be taken out: something uses it."


def test_module_that_is_built_in(kernel: FakeGuest) -> None:
    assert told(go(kernel, step("module", {"name": "crc_t10dif", "boot": False}))) == ["same"]
    kernel.path("sys/module/tcp").mkdir()  # with parameters, so that it shows, and without `initstate`
    for name in ("ext4", "tcp"):
        said = failure(kernel, step("module", {"name": name, "state": "absent"}))
        assert said == f"{name} is built into the kernel and cannot be taken out."
    assert not kernel.path("modprobe.log").exists()


def test_module_that_cannot_be_loaded(kernel: FakeGuest) -> None:
    said = failure(kernel, step("module", "nope"))
    assert said.splitlines()[0] == "modprobe: FATAL: Module nope not found."
    assert f"The kernel {os.uname().release} has no module nope that it can load" in said
    assert not kernel.path("etc/modules-load.d").exists(), "what fails is not tried at every boot"
    shutil.rmtree(kernel.path("lib/modules") / os.uname().release)
    assert "reboot into the new one" in failure(kernel, step("module", "nope"))


class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status = int(self.path[1:4])
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/200")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@contextlib.contextmanager
def listening() -> Iterator[int]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        found.listen()
        yield found.getsockname()[1]


def brief(**what: object) -> StepSpec:
    return step("wait", {"timeout": 0.3, "interval": 0.1, **what})


def at_try(number: int, guest: FakeGuest) -> str:
    """Shell text that goes on at this try; the third is the step's own first, after the looks of the two runs."""
    tries = guest.path("tries")
    return f"echo x >>{tries}; test $(wc -l <{tries}) -ge {number} || exit 1; "


def test_wait_for_a_port(guest: FakeGuest) -> None:
    with listening() as port:
        assert (told(go(guest, brief(port=port))), guest.channels) == (["same"], 1)
    said = failure(guest, brief(port=port))
    assert said.splitlines()[-1] == f"Waited 0.3 s for port {port}: nothing listens there."
    assert said.splitlines()[0] == f"Waiting for port {port}: nothing listens there (0 of 0.3 s)"
    assert told(go(guest, brief(port=port), check=True)) == ["would change"]


def test_wait_until_an_earlier_step_makes_it_so(guest: FakeGuest) -> None:
    made = guest.path("made")
    later = step("run", f"(sleep 1; touch {made}) >/dev/null 2>&1 &", "later")
    waiting = step("wait", {"path": str(made), "interval": 0.1}, "waiting")
    assert told(go(guest, later, waiting, check=True)) == ["would change", "would change"]
    assert told(go(guest, later, waiting)) == ["changed", "same"]
    guest.channels = 0
    assert (told(go(guest, later, waiting)), guest.channels) == (["same", "same"], 1)


def test_wait_for_a_url(guest: FakeGuest, web: str) -> None:
    for asked in ({"url": f"{web}/204?a=b&c='d'"}, {"url": f"{web}/302"}, {"url": f"{web}/401", "status": [200, 401]}):
        assert told(go(guest, brief(**asked))) == ["same"], asked
    assert failure(guest, brief(url=f"{web}/503")).endswith(f"for url {web}/503: it answers with status 503.")
    assert "status 200." in failure(guest, brief(url=f"{web}/200", status=404))
    with listening() as port:
        pass
    assert failure(guest, brief(url=f"http://127.0.0.1:{port}/")).endswith("it does not take a connection.")
    with listening() as silent:
        assert failure(guest, brief(url=f"http://127.0.0.1:{silent}/")).endswith("it does not answer within 1 s.")


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        ("--2026-- connecting\n  HTTP/1.1 200 OK\n  Server: x", ()),
        ("wget: server returned error: HTTP/1.1 404 Not Found", (("url", "it answers with status 404"),)),
        ("  HTTP/1.0 302 Found\n  HTTP/1.0 500 Broken", ()),
        ("wget: can't connect to remote host", (("url", "it gives no answer"),)),
    ],
)
def test_wait_for_a_url_by_wget(
    guest: FakeGuest, project: Path, said: str, outcome: tuple[tuple[str, str], ...]
) -> None:
    guest.path("said").write_text(said)
    guest.program("wget", f"cat {guest.path('said')} >&2; exit 1\n")
    alone = Alone(guest, project, "wait", {"url": "http://box/"})
    alone.head += 'have() { [ "$1" != curl ]; }\n'
    assert alone.state() == (outcome or (("url", "ready"),))


def test_wait_for_a_url_with_nothing_to_ask_by(guest: FakeGuest, project: Path) -> None:
    alone = Alone(guest, project, "wait", {"url": "http://box/"})
    alone.head += "have() { false; }\n"
    done = alone.apply()
    assert done.returncode == 1
    assert done.stderr.startswith("A URL needs curl or wget in this guest, and neither is there;")


def test_wait_for_a_command(guest: FakeGuest) -> None:
    count = guest.path("count")
    text = f"echo x >>{count}; test $(wc -l <{count}) -ge 4"
    assert told(go(guest, step("wait", {"run": text, "interval": 0.1}))) == ["same"]
    assert count.read_text() == "x\n" * 4, "one look of the probe run, one of the step's own, and no more than needed"
    assert told(go(guest, step("wait", {"run": "true", "interval": 0.1}))) == ["same"]
    said = failure(guest, brief(run='echo "not $WHO yet"; exit 3')).splitlines()
    assert said[-1] == "Waited 0.3 s for the command: it ends with status 3: not  yet."


def test_wait_for_a_command_that_hangs_or_leaves_something_behind(guest: FakeGuest) -> None:
    assert "Waited 0.3 s for the command: it ends with status" in failure(guest, brief(run="sleep 300"))
    pid = guest.path("pid")
    text = f"{at_try(3, guest)}sleep 300 & echo $! >{pid}"
    try:
        assert told(go(guest, step("wait", {"run": text, "interval": 0.1}))) == ["same"]
    finally:
        os.kill(int(pid.read_text()), 9)


def test_wait_sees_the_environment_and_the_folder_of_its_step(guest: FakeGuest) -> None:
    folder = guest.path("a folder")
    folder.mkdir()
    text = f'test "$WORD|$PWD" = "it\'s|{folder}"'
    asked = step("wait", {"run": text}, env={"WORD": "it's"}, cwd=str(folder))
    assert told(go(guest, asked)) == ["same"]
    asked = step(
        "wait", {"run": at_try(3, guest) + text, "interval": 0.1}, "late", env={"WORD": "it's"}, cwd=str(folder)
    )
    assert told(go(guest, asked)) == ["same"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another account")
def test_wait_for_a_command_as_another_account(guest: FakeGuest, tmp_path: Path) -> None:
    guest.let_others_in()
    guest.root.chmod(0o777)
    text = f"test $(id -un) = nobody || exit 7; {at_try(3, guest)}true"
    assert told(go(guest, step("wait", {"run": text, "interval": 0.1}, user="nobody"))) == ["same"]
    assert guest.path("tries").owner() == "nobody"


def test_wait_for_the_port_of_another_computer(guest: FakeGuest, project: Path) -> None:
    """127.0.0.2 stands for it: it is on this computer, and is asked by a connection."""
    assert wait.parse({"port": 1, "host": "127.0.0.2"}, _source(project)).host == "127.0.0.2"
    with socket.socket() as found:
        found.bind(("127.0.0.2", 0))
        found.listen()
        port = found.getsockname()[1]
        assert told(go(guest, brief(port=port, host="127.0.0.2"))) == ["same"]
        guest.program("nc", f'[ "$*" = "-z 127.0.0.2 {port}" ]\n')
        alone = Alone(guest, project, "wait", {"port": port, "host": "127.0.0.2"})
        alone.head += 'have() { [ "$1" = nc ]; }\n'
        assert alone.state() == (("port", "ready"),)
    said = failure(guest, brief(port=port, host="127.0.0.2"))
    assert said.endswith(f"Waited 0.3 s for port {port} of 127.0.0.2: it does not take a connection.")


def _source(project: Path) -> Any:
    from devbox.provision.step import Source

    return Source(step("wait", {}), project, "root")
