"""Connections: what is no request, too large or too slow is refused as promised, and a full node's readers read on."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import pytest

from tests.contract.conftest import OURS, needs_our_node
from tests.support.cluster import Cluster, running_cluster
from tests.support.wire import GUARD_S, PACED, Wire, assert_problem, scripted

MOST = 6
SMALL = {
    "TAILRACE_MAX_CONNECTIONS": str(MOST),
    "TAILRACE_HEADER_TIMEOUT_S": "0.5",
    "TAILRACE_BODY_TIMEOUT_S": "0.2",
    "TAILRACE_HEARTBEAT_S": "0.2",
}
CLOSE = "Host: localhost\r\nConnection: close\r\n"
POST = f"POST /jobs HTTP/1.1\r\n{CLOSE}Content-Type: application/json\r\n"


@pytest.fixture(scope="module")
def small() -> Iterator[Cluster]:
    """A node with room for few."""
    if not OURS:
        pytest.skip("asks for something that only a node of our own has")
    with running_cluster(api=1, workers=1, env=SMALL) as cluster:
        yield cluster


@pytest.fixture
async def few(small: Cluster) -> AsyncIterator[Wire]:
    """A caller of it."""
    async with Wire(small.url) as wire:
        yield wire


@pytest.mark.requirement("CX-1")
@pytest.mark.parametrize("request_", [
    f"{POST}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    f"{POST}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}} ",
    f"GET /jobs HTTP/1.1\r\n{CLOSE}A: b\r\n c: d\r\n\r\n",
    f"{POST.replace('close', 'Upgrade, close')}Upgrade: h2c\r\nContent-Length: 2\r\n\r\n{{}}",
    f"{POST}Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\nAuthorization: Bearer x\r\n\r\n",
    f"{POST}Transfer-Encoding: gzip, chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n",
    f"{POST}Host: other\r\nContent-Length: 2\r\n\r\n{{}}",
    "GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n",
    "no request at all\r\n\r\n",
])  # fmt: skip
async def test_what_can_be_read_in_two_ways_is_refused(wire: Wire, request_: str) -> None:
    answer = await wire.raw(request_.encode())
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 4") == 1
    assert b'"code":"invalid_request"' in answer


@pytest.mark.requirement("CX-1")
@pytest.mark.parametrize("trailer", ["a: b\r\n", "a: ", "a"])
async def test_what_follows_a_body_without_end_is_refused_at_once_and_not_kept(wire: Wire, trailer: str) -> None:
    begun = f"{POST}Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n{trailer}".encode()
    url = urlsplit(wire.url)
    async with asyncio.timeout(GUARD_S):
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
        sent = 0
        with contextlib.suppress(ConnectionError):
            writer.write(begun)
            while not reader.at_eof():
                writer.write(b"b" * 60_000)
                sent += 60_000
                assert sent < 32 * 1024 * 1024
                await writer.drain()
                await asyncio.sleep(0)
        answer = b""
        with contextlib.suppress(ConnectionError):
            answer = await reader.read()
        writer.close()
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")


@pytest.mark.requirement("CX-1")
@pytest.mark.parametrize("cut", [1, 3, 4, 5])
async def test_a_chunked_body_is_taken_wherever_its_pieces_are_cut(wire: Wire, cut: int) -> None:
    body = json.dumps(scripted("hello")).encode()
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:9], body[9:])) + b"0\r\n\r\n"
    url = urlsplit(wire.url)
    headers = "".join(f"{name}: {value}\r\n" for name, value in wire.auth.items())
    async with asyncio.timeout(GUARD_S):
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
        writer.write(f"{POST}{headers}Transfer-Encoding: chunked\r\n\r\n".encode())
        for at in range(0, len(chunks), cut):
            writer.write(chunks[at : at + cut])
            await writer.drain()
            await asyncio.sleep(0)
        answer = await reader.read()
        writer.close()
    assert answer.startswith(b"HTTP/1.1 202 ")


@pytest.mark.requirement("CX-2")
@pytest.mark.parametrize(("line", "headers"), [
    ("/jobs?" + "a" * 8192, ""),
    ("/jobs", "A: b\r\n" * 100),
    ("/jobs", f"A: {'b' * 20_000}\r\nC: {'d' * 20_000}\r\n"),
])  # fmt: skip
async def test_a_head_that_is_too_large_is_refused(wire: Wire, line: str, headers: str) -> None:
    answer = await wire.raw(f"GET {line} HTTP/1.1\r\n{CLOSE}{headers}\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b'"code":"head_too_large"' in answer


@needs_our_node
@pytest.mark.requirement("CX-3")
async def test_a_body_that_does_not_come_is_answered_and_makes_nothing(few: Wire) -> None:
    answer = await few.raw(f"{POST}Content-Length: 50\r\n\r\n{{".encode())
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"request_timeout"' in answer
    assert (await few.ask("GET", "/jobs")).json()["data"] == []


@needs_our_node
@pytest.mark.requirement("CX-4")
@pytest.mark.parametrize("sent", [b"", b"GET /jobs HTTP/1.1\r\nHost: localhost\r\n"])
async def test_who_asks_nothing_in_time_is_closed_without_an_answer(few: Wire, sent: bytes) -> None:
    with contextlib.suppress(ConnectionError):  # so it was
        assert await few.raw(sent) == b""


@needs_our_node
@pytest.mark.requirement("CX-5")
async def test_a_full_node_refuses_who_comes_and_its_readers_read_on(few: Wire) -> None:
    job = await few.submit(params=PACED)
    place = urlsplit(few.url)
    async with few.tail(job) as tail:
        await tail.until(lambda streamed: "token" in streamed.names)
        others = []
        for _ in range(MOST):  # readers as well; with the two connections that the caller has, that is too many
            reader, writer = await asyncio.open_connection(place.hostname, place.port)
            writer.write(f"GET /jobs/{job}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            others.append((reader, writer))
        async with asyncio.timeout(GUARD_S):
            heads = await asyncio.gather(*(_first(reader) for reader, _ in others))
            assert b"" in heads  # closed without an answer: EventSource comes back
            assert {head[:12] for head in heads} == {b"HTTP/1.1 200", b""}

        async with Wire(few.url) as late:
            refusal = await late.ask("GET", "/jobs")
            assert_problem(refusal, 503, "node_full")
            assert int(refusal.headers["retry-after"]) > 0
            assert refusal.headers["connection"] == "close"
            assert (await late.ask("GET", "/healthz")).status_code == 200

        seen = len(tail.streamed.frames)
        await tail.until(lambda streamed: len(streamed.frames) > seen + 5)
        for _, writer in others:
            writer.transport.abort()
    await few.cancel(job)


async def _first(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(100)
    except ConnectionError:
        return b""
