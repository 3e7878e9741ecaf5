"""The gateway over TLS and HTTP/2, as deploy/docker-compose.tls.yml starts it."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from tests.support.cluster import GUARD_S
from tests.support.compose import TLS_FILE
from tests.support.fake_node import End, a_job, answer, events, frame
from tests.support.gateway import Gateway, exchange, running_gateway
from tests.support.http2 import DATA, RST_STREAM, Http2
from tests.support.nginx import TLS_PORT

pytestmark = pytest.mark.needs_nginx

EVENTS = "/jobs/j1/events"
TOKEN = frame("token", "7-3", text="Hello")
MORE_THAN_BROWSERS_OPEN_BY_HTTP_1 = 20


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    """The gateway with the TLS file laid over docker-compose.yml, and a certificate of its own."""
    async with running_gateway(tmp_path, TLS_FILE) as gateway:
        yield gateway


def connection(gateway: Gateway) -> Http2:
    return Http2(gateway.nginx.place.address, TLS_PORT, gateway.nginx.certificate)


async def test_one_connection_carries_more_streams_than_a_browser_opens_without_http2(gateway: Gateway) -> None:
    node = await gateway.add_node()
    node.on(f"GET {EVENTS}", events(TOKEN, end=End.OPEN))

    async with asyncio.timeout(GUARD_S), connection(gateway) as http2:
        assert http2.protocol == "h2"
        received = {http2.get(EVENTS): b"" for _ in range(MORE_THAN_BROWSERS_OPEN_BY_HTTP_1)}
        while any(text != TOKEN for text in received.values()):
            came = await http2.frame()
            received[came.stream] += came.payload if came.kind == DATA else b""


async def test_over_http2_too_events_that_no_node_can_send_are_not_answered(gateway: Gateway) -> None:
    async with asyncio.timeout(GUARD_S), connection(gateway) as http2:
        http2.get(EVENTS)

        assert (await http2.frame()).kind == RST_STREAM


async def test_clients_of_http_1_are_served_over_tls_as_well(gateway: Gateway) -> None:
    node = await gateway.add_node()
    node.on("GET /jobs/j1", answer(a_job()))
    trusted = ssl.create_default_context(cafile=str(gateway.nginx.certificate))

    async with httpx2.AsyncClient(base_url=gateway.nginx.tls_url, verify=trusted) as client:
        response = await client.get("/jobs/j1")

    assert response.json()["id"] == "j1"
    assert "max-age" in response.headers["strict-transport-security"]


async def test_over_plain_http_nothing_is_served_but_the_way_to_the_console(gateway: Gateway) -> None:
    node = await gateway.add_node()
    address = gateway.nginx.place.address

    assert (await gateway.http.get("/")).headers["location"] == f"https://{address}/"
    assert (
        await exchange(address, "GET /jobs HTTP/1.1\nHost: t\nAuthorization: Bearer key\nConnection: close\n\n") == b""
    )
    assert node.asked == []
