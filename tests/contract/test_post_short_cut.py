"""A POST of a job is served by a short cut and, where it is not plain or not sound, by the framework's route: with one
meaning. The same body by another of JSON's names takes the long way."""

import json
import re
from typing import Any

import pytest

from tests.contract.conftest import Strict
from tests.contract.test_bad_input import BOUNDS, MESSAGES, PARAMS, TYPES
from tests.contract.test_create import SHAPES
from tests.contract.test_many_faults import FAULTS
from tests.support.wire import Wire

GOOD = {"provider": "scripted", "model": "demo", "prompt": "hi"}
BODIES: dict[str, bytes] = {
    **{name: json.dumps(body).encode() for name, body in SHAPES.items()},
    **{
        name: json.dumps(case[0]).encode()
        for cases in (TYPES, BOUNDS, MESSAGES, PARAMS)
        for name, case in cases.items()
    },
    **{name: json.dumps(body).encode() for name, (path, body, *_) in FAULTS.items() if path == "/jobs"},
    "nothing": b"",
    "no JSON": b"{",
    "a list": b"[]",
    "a null": b"null",
    "a text": b'"text"',
    "two values": b"{} {}",
    "a comma too many": b'{"a": 1,}',
    "not a number": b'{"provider":"scripted","model":"demo","prompt":"hi","temperature":NaN}',
    "not a number deep within": b'{"provider":"scripted","model":"demo","prompt":"hi","params":{"a":[-Infinity]}}',
    "a lone surrogate": b'{"provider":"scripted","model":"demo","prompt":"\\ud800"}',
    "half a character": b'{"provider":"scripted","model":"demo","prompt":"\xc3"}',
    "a mark before it": b"\xef\xbb\xbf" + json.dumps(GOOD).encode(),
    "in 16 bits": json.dumps(GOOD).encode("utf-16"),
    "a name twice": b'{"provider":"nobody","provider":"scripted","model":"demo","prompt":"hi"}',
    "a bottomless list": b"[" * 100_000,
    "an unknown field": json.dumps({**GOOD, "mood": "good"}).encode(),
    "a retention beyond bounds": json.dumps({**GOOD, "ttl_s": 10**9}).encode(),
    "an unknown provider": json.dumps({**GOOD, "provider": "nobody"}).encode(),
}
HEADERS = (
    "",
    "Idempotency-Key: \r\n",
    "Idempotency-Key: a b\r\n",
    "Accept: text/html, text/event-stream\r\n",
    "Authorization: Basic eDp5\r\n",
    "Transfer-Encoding: chunked\r\n",
)


@pytest.mark.requirement("CR-1")
@pytest.mark.requirement("CR-9")
@pytest.mark.requirement("GN-9")
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
async def test_both_ways_judge_a_body_alike(wire: Wire, body: bytes) -> None:
    short, long = [await wire.raw(_request(body, kind=kind)) for kind in ("json", "x+json")]
    assert _without_names(short) == _without_names(long)


@pytest.mark.requirement("CR-4")
@pytest.mark.requirement("ID-5")
@pytest.mark.parametrize("headers", HEADERS)
async def test_both_ways_read_the_headers_alike(wire: Wire, headers: str) -> None:
    body = json.dumps(GOOD).encode()
    short, long = [await wire.raw(_request(body, headers, kind=kind)) for kind in ("json", "x+json")]
    assert _head(short) == _head(long)


@pytest.mark.requirement("ID-1")
@pytest.mark.requirement("ID-3")
async def test_a_key_stands_for_one_job_whichever_way_it_came(wire: Wire) -> None:
    key = f"Idempotency-Key: both-{id(wire)}\r\n"
    body, other = json.dumps(GOOD).encode(), json.dumps({**GOOD, "prompt": "ho"}).encode()
    first, again = [await wire.raw(_request(body, key, kind=kind)) for kind in ("json", "x+json")]
    assert first.partition(b"\r\n")[0].endswith(b"202 Accepted")
    assert again.partition(b"\r\n")[0].endswith(b"200 OK")
    assert _job_id(first) == _job_id(again)
    refused = [await wire.raw(_request(other, key, kind=kind)) for kind in ("json", "x+json")]
    assert b"409" in refused[0].partition(b"\r\n")[0]
    assert _without_names(refused[0]) == _without_names(refused[1])


@pytest.mark.requirement("AU-1")
@pytest.mark.parametrize("key", [None, "nonsense", "key-of-acme"])
@pytest.mark.parametrize("body", [b"{", b"{}", json.dumps(GOOD).encode()], ids=["no JSON", "unsound", "sound"])
async def test_both_ways_ask_for_a_key_alike(strict: Strict, key: str | None, body: bytes) -> None:
    headers = "" if key is None else f"Authorization: Bearer {key}\r\n"
    short, long = [await strict.nobody.raw(_request(body, headers, kind=kind)) for kind in ("json", "x+json")]
    assert _without_names(short) == _without_names(long)


def _request(body: bytes, headers: str = "", *, kind: str) -> bytes:
    if "chunked" in headers:
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    else:
        headers += f"Content-Length: {len(body)}\r\n"
    head = "POST /jobs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    head += f"Content-Type: application/{kind}\r\n{headers}\r\n"
    return head.encode() + body


def _job_id(answer: bytes) -> bytes:
    found = re.search(rb"/jobs/(\w{26})", answer)
    assert found is not None
    return found[1]


def _head(answer: bytes) -> list[bytes]:
    """The head without what differs by nature: the date, and the names of request and job."""
    lines = answer.partition(b"\r\n\r\n")[0].split(b"\r\n")
    other = (b"date:", b"x-request-id:", b"location:", b"x-tailrace-job:", b"content-length:")
    named = sorted(line.partition(b":")[0] for line in lines if line.lower().startswith(other))
    return named + sorted(line for line in lines if not line.lower().startswith(other))


def _without_names(answer: bytes) -> tuple[list[bytes], dict[str, Any]]:
    """Head and body without them."""
    body = json.loads(answer.partition(b"\r\n\r\n")[2])
    return _head(answer), {name: value for name, value in body.items() if name not in _NAMES}


_NAMES = {"request_id", "id", "created_at", "events_url", "read_token"}
