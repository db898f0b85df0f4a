"""Receipts, triggers, and the names of logs."""

import re

from devbox.provision import journal
from devbox.provision.journal import Journal, Receipt


def receipt(change: str, **needs: str) -> Receipt:
    return Receipt("x", "d", change, needs, 1, 1)


def test_a_pending_mark_is_spent_by_its_own_receipt() -> None:
    assert not Journal({"a": receipt("r.1")}, {}).is_pending("a")
    assert Journal({}, {"a": "r.1"}).is_pending("a")
    assert Journal({"a": receipt("r.1")}, {"a": "r.2"}).is_pending("a")
    assert Journal({"a": receipt("r.1")}, {"a": ""}).is_pending("a")
    assert not Journal({"a": receipt("r.2")}, {"a": "r.2"}).is_pending("a")


def test_triggers_are_levels() -> None:
    conf = receipt("r.1")
    assert not Journal({}, {}).is_triggered("s", ("conf",))
    assert Journal({"conf": conf}, {}).is_triggered("s", ("conf",)), "it never ran since"
    assert not Journal({"conf": conf, "s": receipt("r.2", conf="r.1")}, {}).is_triggered("s", ("conf",))
    assert Journal({"conf": conf, "s": receipt("r.2", conf="r.0")}, {}).is_triggered("s", ("conf",))


def test_a_receipt_that_was_cut_off_is_none() -> None:
    assert journal.parse("step=a\nname=x\ndigest=d\n").receipts == {}
    assert set(journal.parse("step=a\nname=x\nstep=b\nfinished=1\n").receipts) == {"b"}


def test_log_names() -> None:
    assert re.fullmatch(r"/var/log/devbox/file-etc-motd-[0-9a-f]{6}\.log", journal.log_path("file:/etc/motd"))
    assert journal.slug("a b") != journal.slug("a-b")
    assert journal.slug("日本") == journal.key("日本")
    assert len(journal.slug("x" * 300)) < 60
    assert re.fullmatch(r"[a-z0-9-]+", journal.slug("../../etc/passwd; rm -rf /"))
