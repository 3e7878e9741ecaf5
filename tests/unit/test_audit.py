"""What the audit of dependencies makes of pip-audit's answers: a hole fails the check, a missing network does not."""

import pytest

from tests.support.audit import verdict

_FOUND = "Found 1 known vulnerability in 1 package\nName Version ID Fix Versions\njinja2 3.0 PYSEC-1 3.1"


@pytest.mark.parametrize(
    ("status", "said", "fails"),
    [
        (0, "No known vulnerabilities found", False),
        (1, _FOUND, True),
        (1, "ERROR: ConnectionError: Max retries exceeded", False),
        (None, "", False),
    ],
)
def test_only_a_known_hole_fails_the_check(status: int | None, said: str, fails: bool) -> None:
    code, sentence = verdict(status, said)
    assert code == int(fails)
    assert ("NOT DONE" in sentence) == (status is None or "ERROR" in said)
    assert ("PYSEC-1" in sentence) == fails
