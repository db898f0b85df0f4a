"""The machine as OpenSSH wants it described, for `ssh`, `run`, rsync and editors: an ssh_config of its own.

Everything is said in that file, which is always given by `-F`: `~/.ssh` is neither read nor written. No Fabric here.
"""

import contextlib
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from devbox import fs, proc

_HINT = "Install the OpenSSH client (Debian, Ubuntu: `apt install openssh-client`)."


@dataclass(frozen=True, slots=True)
class Keys:
    """The files by which both sides are known: a private login key, and the one line of the other's host key."""

    key: Path
    known_hosts: Path


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the guest's SSH is answered, and the files by which both sides are known.

    `born` is the provisional identity that the guest may still hold: either host key is right, and either key logs in.
    """

    port: int
    user: str
    key: Path
    known_hosts: Path
    host: str = "127.0.0.1"
    born: Keys | None = None


def knock(endpoint: Endpoint) -> socket.socket | None:
    """A connection to hand to `connection.connect`: the guest's sshd starts on it while Fabric is imported here.

    None where nobody answers; `connect` then says so.
    """
    with contextlib.suppress(OSError):
        return socket.create_connection((endpoint.host, endpoint.port), 5.0)
    return None


def write_ssh_config(path: Path, endpoint: Endpoint, name: str, runtime: Path, *, forward_agent: bool = False) -> str:
    """Write the machine's ssh_config; returns the host name for `ssh -F`. `runtime` takes the control socket."""
    text = ssh_config(endpoint, name, control_socket(runtime), forward_agent=forward_agent).encode()
    with contextlib.suppress(FileNotFoundError):
        if path.read_bytes() == text:
            return host_alias(name)
    fs.write_atomic(path, text)
    return host_alias(name)


def host_alias(name: str) -> str:
    return f"devbox-{name}"


def ssh_config(endpoint: Endpoint, name: str, control: Path, *, forward_agent: bool = False) -> str:
    """The text of the machine's ssh_config. Pure."""
    options = (
        ("HostName", endpoint.host),
        ("Port", str(endpoint.port)),
        ("User", endpoint.user),
        *pinned(endpoint),
        ("ForwardAgent", "yes" if forward_agent else "no"),
        ("ControlMaster", "no"),  # `warm_control` makes it: two that would at once complain to the user
        ("ControlPath", _quoted(control)),
        ("ControlPersist", "10m"),
    )
    return f"Host {host_alias(name)}\n" + "".join(f"  {key} {value}\n" for key, value in options)


def pinned(endpoint: Endpoint) -> tuple[tuple[str, str], ...]:
    """What makes OpenSSH talk to this guest only, by its own key, and give up in time; a name may come twice."""
    pairs = (endpoint, endpoint.born) if endpoint.born else (endpoint,)
    return (
        *(("IdentityFile", _quoted(one.key)) for one in pairs),
        ("IdentitiesOnly", "yes"),
        ("PreferredAuthentications", "publickey"),
        ("PasswordAuthentication", "no"),
        ("UserKnownHostsFile", " ".join(_quoted(one.known_hosts) for one in pairs)),
        ("GlobalKnownHostsFile", "/dev/null"),
        ("StrictHostKeyChecking", "yes"),
        ("HostKeyAlgorithms", "ssh-ed25519"),
        ("CheckHostIP", "no"),
        ("UpdateHostKeys", "no"),
        ("ConnectTimeout", "60"),
        ("ServerAliveInterval", "15"),
        ("ServerAliveCountMax", "8"),
        ("LogLevel", "ERROR"),
    )


def ssh_argv(ssh_config: Path, host: str, remote: str = "", *, terminal: bool = False) -> list[str]:
    """The command line of a session: `remote` is for the guest's shell, "" opens a login shell."""
    argv = [os.fspath(proc.find_tool("ssh", hint=_HINT)), "-F", os.fspath(ssh_config), "-t" if terminal else "-T", host]
    return [*argv, "--", remote] if remote else argv


def warm_control(ssh_config: Path, host: str, runtime: Path) -> None:
    """Begin the control connection that the next copy, `run` or `ssh` will find, and do not wait for it.

    It ends by itself with the guest, or after the time in the ssh_config.
    """
    ssh = proc.find_tool("ssh", hint=_HINT)
    if proc.run([ssh, "-F", ssh_config, "-O", "check", host], timeout=10).status != 0:
        # A socket appears only when it is served, so one that does not answer was left by a kill.
        control_socket(runtime).unlink(missing_ok=True)
        options = ("-o", "ControlMaster=auto", "-o", "BatchMode=yes")
        with Path(os.devnull).open("wb") as nowhere:
            proc.start([ssh, "-F", ssh_config, *options, "-T", host, "--", "true"], log=nowhere)


def control_socket(runtime: Path) -> Path:
    return runtime / "ssh.sock"


def drop_control(ssh_config: Path, host: str) -> None:
    """End the control connection, if there is one: a session over an old one lacks the user's new groups."""
    proc.run([proc.find_tool("ssh", hint=_HINT), "-F", ssh_config, "-O", "exit", host], timeout=10)


def _quoted(path: Path) -> str:
    # OpenSSH reads \\ and \" inside double quotes, and expands %-tokens afterwards.
    text = os.fspath(path).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{text}"'
