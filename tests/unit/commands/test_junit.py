from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree as xml

import pytest

from devbox.commands import junit
from devbox.commands.junit import Case
from devbox.config.model import Check
from devbox.errors import DevboxError, ExitCode
from devbox.provision.checks import Result

CASES = (
    Case("up", "up", 12.5),
    Case("conf", "idempotent", 0.25, failure="changed in the second run: mode: 0644 → 0600", position="Devboxfile:4"),
    Case("daily", "idempotent", skipped="`when: always`: it is meant to run every time"),
    Case(
        'a <b> & "c"\x1b[31m\ufffe\ud800', "check", 1.0, failure="exit status 3", output="\x1b[1mred\x1b[0m\x07 ✗\nend"
    ),
)


def parsed() -> xml.Element:
    return xml.fromstring(junit.document("shop", CASES, 14.0, datetime(2030, 1, 2, tzinfo=UTC)))


def test_counts_are_said_of_the_suite_and_of_the_whole() -> None:
    root = parsed()
    assert root.tag == "testsuites"
    (suite,) = root
    want = {"tests": "4", "failures": "2", "errors": "0", "skipped": "1", "time": "14.000"}
    assert {name: suite.get(name) for name in want} == want
    assert {name: root.get(name) for name in want} == want
    assert (suite.get("name"), suite.get("timestamp")) == ("devbox shop", "2030-01-02T00:00:00+00:00")


def test_each_case_has_its_name_place_time_and_outcome() -> None:
    up, conf, daily, check = parsed()[0]
    assert (up.get("classname"), up.get("name"), up.get("time"), len(up)) == ("devbox.shop", "up", "12.500", 0)
    assert (conf.get("name"), conf.get("file"), conf.get("line")) == ("idempotent: conf", "Devboxfile", "4")
    failure = conf.find("failure")
    assert failure is not None
    assert (failure.get("message"), failure.get("type")) == (CASES[1].failure, "idempotent")
    skipped = daily.find("skipped")
    assert skipped is not None
    assert skipped.get("message") == CASES[2].skipped
    assert check.get("name") == 'a <b> & "c"\ufffd\ufffd'


def test_what_no_document_can_hold_is_cleaned() -> None:
    check = parsed()[0][3]
    assert check.findtext("failure") == "exit status 3\nred ✗\nend"
    assert check.findtext("system-out") == "red ✗\nend"


def test_the_same_in_words_and_as_json() -> None:
    assert junit.summary(CASES) == "1 passed, 2 failed, 1 skipped"
    assert junit.summary(()) == "0 passed"
    assert junit.failures_text(CASES).split("\n")[0] == f"conf (Devboxfile:4): {CASES[1].failure}"
    assert junit.failures_text(CASES).split("\n")[-1] == "    end"
    told = junit.as_json(CASES, 14.0)
    assert told["ok"] is False
    assert [result["status"] for result in told["results"]] == ["passed", "failed", "skipped", "failed"]
    assert junit.as_json((CASES[0], CASES[2]), 1.0)["ok"] is True


def test_a_check_becomes_a_case() -> None:
    check = Check("answers", "curl", position="Devboxfile:9")
    assert junit.of_check(Result(check, 0.5, "exit status 7", "refused")) == Case(
        "answers", "check", 0.5, "exit status 7", "", "refused", "Devboxfile:9"
    )


def test_an_old_report_does_not_outlive_the_beginning_of_a_run(tmp_path: Path) -> None:
    report = tmp_path / "out" / "report.xml"
    junit.prepare(report)
    assert not report.exists()
    junit.write(report, "shop", CASES, 14.0)
    assert xml.parse(report).getroot().tag == "testsuites"
    junit.prepare(report)
    assert not report.exists()


def test_a_report_that_cannot_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "report.xml"):
        with pytest.raises(DevboxError) as caught:
            junit.prepare(path)
        assert (caught.value.id, caught.value.exit_code) == ("test.report", ExitCode.USAGE)
