"""QEMU's last words become an error of ours that says what to do."""

import pytest

from devbox.machine import start

FORWARD = "qemu-system-x86_64: Could not set up host forwarding rule 'tcp:127.0.0.1:8080-:80'"


@pytest.mark.parametrize(
    ("text", "id", "said"),
    [
        (FORWARD, "machine.port-taken", "Port 8080 of 127.0.0.1"),
        (
            'qemu: -device {…}: Failed to get "write" lock\nIs another process using the image [/x/disk.qcow2]?',
            "machine.disk-locked",
            "disk open",
        ),
        (
            "qemu: cannot create PID file: Cannot lock pid file: Resource temporarily unavailable",
            "machine.starting",
            "under way",
        ),
        ("qemu: cannot set up guest memory 'pc.ram': Cannot allocate memory", "machine.no-memory", "free memory"),
        ("qemu: error: failed to set MSR 0x10a to 0x69", "machine.accelerator", "acceleration"),
        ("qemu: x: No space left on device", "machine.host-disk-full", "full"),
        ("qemu-system-x86_64: -smp 0: nonsense", "machine.start-failed", "with status 1: -smp 0: nonsense"),
        ("", "machine.start-failed", "it printed nothing"),
    ],
)
def test_explain(text: str, id: str, said: str) -> None:
    error = start.explain(text, 1)
    assert error.id == id
    assert said in error.message
    assert error.details == text


def test_a_signal_is_told() -> None:
    assert "by signal 31" in start.explain("", -31).message
