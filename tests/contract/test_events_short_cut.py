"""Events are served by a short cut and, where a request is not plain, by the framework's route: with one meaning."""

import pytest

from tests.support.wire import Wire

QUERIES = (
    "",
    "last_event_id=0-1",
    "last_event_id=",
    "last_event_id=x",
    "last_event_id=1-2&last_event_id=0-1",
    "last_event_id=%00",
    "last_event_id=9-9",
    "dialect=chat",
    "dialect=nonsense",
    "dialect=chat&last_event_id=0-1",
)


@pytest.mark.requirement("CU-2")
@pytest.mark.requirement("CU-5")
@pytest.mark.requirement("CU-7")
@pytest.mark.parametrize("query", QUERIES)
async def test_both_ways_give_the_same_answer(wire: Wire, query: str) -> None:
    job = await wire.submit("one two three")
    await wire.log(job)
    short = await wire.raw(_request(f"/jobs/{job}/events?{query}"))
    long = await wire.raw(_request(f"/jobs/{job}/events?{query}&exact=false"))
    assert _without_names(short) == _without_names(long)


@pytest.mark.requirement("GN-1")
@pytest.mark.parametrize(
    "path", ["/jobs/nonsense/events", "/jobs/01m8000000000000000000000/events", "/jobs/%2F/events"]
)
async def test_what_is_not_there_is_not_there_on_both_ways(wire: Wire, path: str) -> None:
    assert _without_names(await wire.raw(_request(path))) == _without_names(
        await wire.raw(_request(f"{path}?exact=no"))
    )


def _request(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()


def _without_names(answer: bytes) -> tuple[list[bytes], bytes]:
    """Head and body without what differs by nature: the date, and the name of the request."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith((b"date:", b"x-request-id:"))]
    kept, _, named = body.partition(b'"request_id":')
    return sorted(lines), kept + named.partition(b'"}')[2]
