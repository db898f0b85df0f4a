import os
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest

from devbox.config.model import Port
from devbox.errors import DevboxError
from devbox.share import ports
from devbox.share.ports import Forward

ID = "0123456789ab"


def all_but(*taken: int) -> Callable[[str, int, str], bool]:
    return lambda bind, port, protocol: port not in taken


def test_a_fixed_port_is_taken_as_it_is() -> None:
    asked = Port(guest=80, host=8080, name="web"), Port(guest=53, host=5353, bind="127.0.0.2", protocol="udp")
    assert ports.plan(asked, ID, all_but()) == (
        Forward("tcp", "127.0.0.1", 8080, 80, "web"),
        Forward("udp", "127.0.0.2", 5353, 53, ""),
    )


def test_an_open_port_is_the_same_at_every_start_and_another_for_each_machine() -> None:
    (first,) = ports.plan((Port(guest=80),), ID, all_but())
    assert ports.plan((Port(guest=80),), ID, all_but()) == (first,)
    assert ports.FIRST <= first.host <= ports.LAST
    hosts = {ports.plan((Port(guest=80),), f"{number:012x}", all_but())[0].host for number in range(50)}
    assert len(hosts) > 45


def test_an_open_port_that_is_taken_moves_to_the_next() -> None:
    (first,) = ports.plan((Port(guest=80),), ID, all_but())
    (second,) = ports.plan((Port(guest=80),), ID, all_but(first.host))
    assert second.host == first.host + 1 or second.host == ports.FIRST


def test_the_planned_ports_do_not_meet() -> None:
    (alone,) = ports.plan((Port(guest=80),), ID, all_but())
    planned = ports.plan((Port(guest=80), Port(guest=80), Port(guest=1, host=alone.host)), ID, all_but())
    assert len({forward.host for forward in planned}) == 3
    # TCP and UDP are two worlds.
    both = ports.plan((Port(guest=9, host=7), Port(guest=9, host=7, protocol="udp")), ID, all_but())
    assert [forward.host for forward in both] == [7, 7]


def test_all_taken_ports_are_told_at_once_with_their_holders() -> None:
    asked = Port(guest=80, host=8080), Port(guest=81, host=8081), Port(guest=82, host=8082)
    with pytest.raises(DevboxError) as caught:
        ports.plan(asked, ID, all_but(8080, 8082), lambda port, protocol: "nginx (pid 7)" if port == 8080 else "")
    assert caught.value.id == "port.taken"
    assert "127.0.0.1:8080/tcp is taken by nginx (pid 7)" in caught.value.message
    assert "127.0.0.1:8082/tcp is taken by another program" in caught.value.message
    assert "8081" not in caught.value.message


def test_no_free_port_at_all_is_told() -> None:
    with pytest.raises(DevboxError) as caught:
        ports.plan((Port(guest=80),), ID, lambda *_: False)
    assert caught.value.id == "port.none-free"


@pytest.mark.parametrize("bind", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_port_in_use_is_not_free(bind: str, kind: socket.SocketKind) -> None:
    protocol = "tcp" if kind == socket.SOCK_STREAM else "udp"
    with socket.socket(socket.AF_INET, kind) as holder:
        holder.bind((bind, 0))
        if protocol == "tcp":
            holder.listen()
        port = holder.getsockname()[1]
        assert not ports.free("127.0.0.1", port, protocol)
    assert ports.free("127.0.0.1", port, protocol)


def test_a_connection_that_has_just_ended_is_no_obstacle() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        served, _ = server.accept()
        served.close()  # The server's side ends first, so it is the one in TIME_WAIT.
        client.close()
    assert ports.free("127.0.0.1", port, "tcp")


def test_an_address_of_another_computer_is_an_error() -> None:
    with pytest.raises(DevboxError) as caught:
        ports.free("192.0.2.1", 8080, "tcp")
    assert caught.value.id == "port.no-address"


@pytest.mark.skipif(os.getuid() == 0, reason="root may bind any port")
def test_a_port_for_root_is_an_error() -> None:
    with pytest.raises(DevboxError) as caught:
        ports.free("127.0.0.1", 81, "tcp")
    assert caught.value.id == "port.not-allowed"


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_the_holder_is_named(protocol: str) -> None:
    script = (
        "import socket, sys; s = socket.socket(type=socket.SOCK_DGRAM if sys.argv[1] == 'udp' else socket.SOCK_STREAM);"
        "s.bind(('127.0.0.1', 0)); sys.argv[1] == 'udp' or s.listen(); print(s.getsockname()[1], flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, protocol], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        port = int(holder.stdout.readline())
        assert f"(pid {holder.pid})" in ports.who_holds(port, protocol)
        holder.communicate(b"\n")
    assert ports.who_holds(port, protocol) == ""


def test_a_machine_that_holds_a_port_is_called_by_its_name() -> None:
    hold = (
        "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
    )
    words = [sys.executable, "-c", hold, "-name", "guest=shop"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        port = int(holder.stdout.readline())
        assert ports.who_holds(port, "tcp") == f"the machine `shop` (pid {holder.pid})"
        holder.communicate("\n")
