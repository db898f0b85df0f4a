from pathlib import Path

import pytest

from devbox.guest import causes

SAMPLES = Path(__file__).parent / "serial"


@pytest.mark.parametrize(
    ("sample", "text", "final"),
    [
        ("kernel-panic.log", "The guest's kernel panicked.", True),
        ("no-root.log", "The guest's kernel did not find its root file system.", True),
        ("initramfs.log", "The guest's kernel did not find its root file system.", True),
        ("seabios-nothing.log", "The firmware found nothing to boot on the disk.", True),
        ("uefi-shell.log", "The UEFI firmware found no boot loader on the disk.", True),
        ("grub-rescue.log", "The boot loader GRUB did not find its files.", True),
        ("emergency.log", "The guest went into emergency mode", True),
        ("disk-full.log", "The guest's disk is full.", False),
        ("cloud-init-user.log", "cloud-init failed", False),
        ("cloud-init-no-seed.log", "cloud-init did not find the seed", False),
        ("out-of-memory.log", "The guest ran out of memory.", False),
        ("cpu-level.log", "The box needs a newer CPU model", True),
        ("no-sshd.log", "The guest's SSH server does not start.", False),
    ],
)
def test_the_log_s_cause_is_found(sample: str, text: str, *, final: bool) -> None:
    log = (SAMPLES / sample).read_text()
    cause = causes.likely(log)
    assert cause is not None
    assert cause.text.startswith(text)
    assert cause.hint
    assert (causes.hopeless(log) is not None) is final


def test_a_boot_that_goes_well_has_no_cause() -> None:
    log = (SAMPLES / "good.log").read_text()
    assert causes.likely(log) is None
    assert causes.hopeless(log) is None


def test_every_cause_has_a_sample() -> None:
    found = {cause.text for sample in SAMPLES.glob("*.log") if (cause := causes.likely(sample.read_text()))}
    rest = {cause.text for cause in causes.CAUSES} - found
    assert rest == {
        "The guest's file system is damaged, or its disk cannot be read.",
        "The guest has no network.",
    }
