"""The gateway's limits: what one address may ask for and how large a head may be, before a node sees anything of it."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from api.protocol import MAX_LINE_BYTES
from shared.errors import CODES
from shared.settings import Settings
from tests.support.fake_node import End, a_job, answer, events, frame
from tests.support.gateway import Gateway, exchange, repeat, running_gateway
from tests.support.nginx import DEPLOY, PORT

pytestmark = pytest.mark.needs_nginx

EVENTS = "/jobs/j1/events"
TOKEN = frame("token", "7-3", text="Hello")
LIMITS = (DEPLOY / "nginx" / "limits.conf").read_text()


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    """The gateway, in front of the nodes that the test adds."""
    async with running_gateway(tmp_path) as gateway:
        yield gateway


def limit(pattern: str) -> int:
    found = re.search(pattern, LIMITS)
    assert found is not None
    return int(found[1])


@pytest.mark.parametrize("head", [f"GET /{'p' * MAX_LINE_BYTES} HTTP/1.1\nHost: t\n\n",
                                  f"GET /jobs/j1 HTTP/1.1\nHost: t\nA: {'b' * 9_000}\n\n"])  # fmt: skip
async def test_a_head_that_is_too_large_is_a_problem_as_from_a_node(gateway: Gateway, head: str) -> None:
    node = await gateway.add_node()
    answered = (await gateway.exchange(head)).decode()
    kind = CODES["head_too_large"]
    assert answered.startswith(f"HTTP/1.1 {kind.status} ")
    assert "application/problem+json" in answered
    assert f'"code":"{kind.code}","retryable":false' in answered
    assert f'"title":"{kind.title}"' in answered
    assert node.asked == []


def test_the_gateway_takes_no_larger_heads_and_no_longer_idling_than_a_node() -> None:
    text, settings = (DEPLOY / "nginx" / "http.conf").read_text(), Settings()
    found = re.search(r"large_client_header_buffers (\d+) (\d+)k;", text)
    assert found is not None
    assert int(found[2]) * 1024 == MAX_LINE_BYTES
    assert int(found[1]) * int(found[2]) * 1024 == settings.max_header_bytes
    assert f"client_header_timeout {settings.header_timeout_s:g}s;" in text
    assert f"client_body_timeout {settings.body_timeout_s:g}s;" in text
    assert f"keepalive_timeout {settings.keep_alive_s}s;" in text


async def test_one_address_holds_so_many_connections_and_another_is_served(gateway: Gateway) -> None:
    node = await gateway.add_node()
    node.on(f"GET {EVENTS}", events(TOKEN, end=End.OPEN))
    node.on("GET /jobs/j1", answer(a_job()))
    most = limit(r"limit_conn tailrace_connections (\d+);")
    address = gateway.nginx.place.address
    writers = []
    for _ in range(most):
        _, writer = await asyncio.open_connection(address, PORT)
        writer.write(f"GET {EVENTS} HTTP/1.1\r\nHost: t\r\n\r\n".encode())
        writers.append(writer)
    await repeat(lambda: asyncio.sleep(0), until=lambda: len(node.asked) == most)

    # A reader is closed, to come back; others are told when to.
    assert await gateway.exchange(f"GET {EVENTS} HTTP/1.1\nHost: t\nConnection: close\n\n") == b""
    refusal = await gateway.http.get("/jobs/j1")
    assert (refusal.status_code, refusal.json()["code"]) == (429, "rate_limited")
    assert int(refusal.headers["retry-after"]) > 0
    assert refusal.json()["request_id"] == refusal.headers["x-request-id"]
    asked = len(node.asked)
    elsewhere = gateway.network.address()
    reader, writer = await asyncio.open_connection(address, PORT, local_addr=(elsewhere, 0))
    writer.write(b"GET /jobs/j1 HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
    assert b" 200 " in (await reader.read())[:20]
    assert len(node.asked) == asked + 1
    for open_one in (*writers, writer):
        open_one.transport.abort()


async def test_a_flood_from_one_address_is_told_to_wait_and_does_not_reach_the_nodes(gateway: Gateway) -> None:
    node = await gateway.add_node()
    node.on("GET /jobs/j1", answer(a_job()))
    burst = limit(r"burst=(\d+)")
    statuses: list[int] = []
    lines = "GET /jobs/j1 HTTP/1.1\nHost: t\n\n" * 50 + "GET /jobs/j1 HTTP/1.1\nHost: t\nConnection: close\n\n"

    async def ask() -> None:
        answered = (await exchange(gateway.nginx.place.address, lines)).decode()
        statuses.extend(map(int, re.findall(r"HTTP/1\.1 (\d+)", answered)))

    await repeat(lambda: asyncio.gather(*(ask() for _ in range(10))), until=lambda: 429 in statuses)
    assert statuses.count(200) >= burst
    assert set(statuses) <= {200, 429}
    assert len(node.asked) == statuses.count(200)
