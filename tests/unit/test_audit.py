"""The dependency audit never says "no hole" of a package that nobody looked up."""

import json

import pytest

from cli.audit import verdict

CLEAN = {"name": "a", "version": "1", "vulns": []}
HOLED = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1"}]}
UNKNOWN = {"name": "c", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("found", "code", "says"),
    [
        ([CLEAN], 0, "no known hole"),
        ([CLEAN, UNKNOWN], 0, "NOT COMPLETE, 1 of 2"),
        ([UNKNOWN, UNKNOWN], 0, "NOT DONE, none"),
        ([UNKNOWN, HOLED], 1, "b 2: PYSEC-1"),
    ],
)
def test_a_hole_fails_the_audit_and_a_package_not_looked_up_is_named(found: list[object], code: int, says: str) -> None:
    given, sentence = verdict(json.dumps({"dependencies": found}))
    assert given == code
    assert says in sentence


@pytest.mark.parametrize("report", ["", "[]", "{}", "null", "no network"])
def test_an_audit_that_reached_no_service_says_so_and_passes(report: str) -> None:
    assert verdict(report) == (0, "audit: NOT DONE, no vulnerability service was reached.")
