"""Capability tokens: one job, some rights, for a while, and nothing that a stranger can make or stretch."""

import time
from dataclasses import replace

import jwt
import pytest

from api import tokens
from shared.errors import TailraceError
from shared.jobs import JobKey, new_job_id
from shared.principals import OPEN, Right, SigningKey, new_signing_key, parse_signing_keys

JOB = JobKey("acme", new_job_id())
KEY = new_signing_key(0)
READ = frozenset({Right.READ})


def _soon() -> int:
    return int(time.time()) + 60


def _code(token: str, key: SigningKey = KEY) -> str:
    with pytest.raises(TailraceError) as refused:
        tokens.read(token, key)
    return refused.value.code


def test_a_token_names_its_job_its_rights_and_the_key_behind_it() -> None:
    end = _soon()
    token = tokens.mint(KEY, JOB, frozenset(Right), end, "key-1")
    capability = tokens.read(token, KEY)
    principal = capability.principal
    assert (principal.tenant, principal.job_id, principal.expires_s) == ("acme", JOB.id, end)
    assert principal.rights == {Right.READ, Right.CANCEL}, "no token submits, and none administers"
    assert (principal.id, capability.minted_by) == ("key-1", "key-1")
    assert tokens.key_id_in(token) == KEY.id


def test_a_token_that_has_ended_says_so_and_any_other_wrong_one_does_not() -> None:
    good = tokens.mint(KEY, JOB, READ, _soon(), "k")
    assert _code(tokens.mint(KEY, JOB, READ, int(time.time()) - 1, "k")) == "token_expired"
    assert _code(good, new_signing_key(0)) == "unauthorized"
    head, body, mark = good.split(".")
    for wrong in (f"{head}.{body}.", f"{head}.{body[:-2]}.{mark}", "..", "a.b.c", good + "x"):
        assert _code(wrong) == "unauthorized"


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"iss": "tailrace", "sub": str(JOB), "scope": "read", "key": "k"},
        {"iss": "other", "sub": str(JOB), "scope": "read", "key": "k", "exp": 2**33},
        {"iss": "tailrace", "sub": str(JOB), "scope": "read admin everything", "key": "k", "exp": 2**33},
        {"iss": "tailrace", "sub": 7, "scope": "read", "key": "k", "exp": 2**33},
        {"iss": "tailrace", "sub": str(JOB), "scope": ["read"], "key": "k", "exp": 2**33},
        {"iss": "tailrace", "sub": str(JOB), "scope": "read", "key": "k", "exp": "never"},
    ],
)
def test_a_token_that_lacks_something_opens_nothing(claims: dict[str, object]) -> None:
    assert _code(jwt.encode(claims, KEY.secret(), "HS256")) == "unauthorized"


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
@pytest.mark.parametrize("algorithm", ["none", "HS512"])
def test_another_algorithm_is_none_of_ours(algorithm: str) -> None:
    claims = {"iss": "tailrace", "sub": str(JOB), "scope": "read", "key": "k", "exp": 2**33}
    forged = jwt.encode(claims, "" if algorithm == "none" else KEY.secret(), algorithm)
    assert _code(forged) == "unauthorized"


@pytest.mark.parametrize("given", ["", "..", "a.b.c", "ü.ü.ü", "x" * 5000, "." * 2, "eyJraWQiOjd9.e30.x"])
def test_what_is_no_token_names_no_key(given: str) -> None:
    assert tokens.key_id_in(given) == ""


def test_a_token_lives_as_long_as_its_job_may_and_some_minutes_and_not_longer() -> None:
    now = time.time()
    later_ms = round((now + 3600) * 1000)
    assert abs(tokens.expiry(OPEN, later_ms, None, 600.0) - (now + 4200)) < 2
    assert abs(tokens.expiry(OPEN, later_ms, 30, 600.0) - (now + 30)) < 2
    assert abs(tokens.expiry(OPEN, later_ms, 10**9, 600.0) - (now + 4200)) < 2
    assert abs(tokens.expiry(OPEN, 0, None, 600.0) - (now + 600)) < 2, "a job that has ended can be read as well"
    brief = replace(OPEN, expires_s=now + 9.9)
    assert tokens.expiry(brief, later_ms, 30, 600.0) == int(now + 9.9), "nor longer than the key that it is minted with"


def test_signing_keys_of_a_setting_are_read_in_order_and_weak_ones_are_refused_without_being_shown() -> None:
    first, second = parse_signing_keys(f"new:{'n' * 32}, old:{'o' * 32}", "SETTING")
    assert (first.id, first.secret(), second.id) == ("new", b"n" * 32, "old")
    for wrong in ("s3cret", "k:s3cret", f"a b:{'x' * 32}", f"k:{'x' * 32},k:{'y' * 32}"):
        with pytest.raises(ValueError, match="SETTING") as caught:
            parse_signing_keys(wrong, "SETTING")
        assert "s3cret" not in str(caught.value)
