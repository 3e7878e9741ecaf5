"""The shipped gateway in front of nodes that say exactly what a test tells them to."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Self

import httpx2

from tests.support.cluster import GUARD_S
from tests.support.compose import services
from tests.support.containers import Network
from tests.support.dns import DockerDns, running_dns
from tests.support.fake_node import FakeNode
from tests.support.nginx import PORT, Nginx, Place

ENV = {
    "TAILRACE_VALKEY_PASSWORD": "a-long-random-word",
    "TAILRACE_API_KEYS": "acme:key-of-acme",
    "TAILRACE_TLS_DIR": "/etc/certificates",
}
"""What docker-compose.yml and its TLS variant demand."""


class NodeContainer(FakeNode):
    """A fake node at the address of a container."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.address = address

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, self.address, PORT)
        return self


class Gateway:
    """nginx, the name server that it asks, and a way to add nodes."""

    def __init__(
        self,
        nginx: Nginx,
        dns: DockerDns,
        network: Network,
        http: httpx2.AsyncClient,
        exits: contextlib.AsyncExitStack,
    ) -> None:
        self.nginx = nginx
        self.dns = dns
        self.network = network
        self.http = http
        self._exits = exits

    async def add_node(self) -> NodeContainer:
        """A node, known to the name server."""
        node = await self._exits.enter_async_context(NodeContainer(self.network.address()))
        self.dns.table.setdefault("api", []).append(node.address)
        return node

    async def exchange(self, request: str) -> bytes:
        """All that comes back for a request, byte for byte, until the connection ends in whatever way."""
        return await exchange(self.nginx.place.address, request)


async def exchange(address: str, request: str) -> bytes:
    """Send a request to a gateway; all that comes back until the connection ends in whatever way."""
    async with asyncio.timeout(GUARD_S):
        reader, writer = await asyncio.open_connection(address, PORT)
        writer.write(request.replace("\n", "\r\n").encode())
        answer = bytearray()
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(65_536):
                answer += piece
        writer.close()
    return bytes(answer)


async def repeat(step: Callable[[], Awaitable[object]], until: Callable[[], bool]) -> None:
    """Do `step` again and again until a condition holds; TimeoutError when the guard runs out."""
    async with asyncio.timeout(GUARD_S):
        while not until():
            await step()
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def running_gateway(folder: Path, *overrides: Path) -> AsyncIterator[Gateway]:
    """The gateway as docker-compose.yml starts it, with `overrides` laid over that, in front of nothing yet."""
    network = Network()
    async with contextlib.AsyncExitStack() as exits:
        dns = exits.enter_context(running_dns(network.address()))
        nginx = Nginx(services(ENV, *overrides)["nginx"].command, Place(network.address(), dns.endpoint, folder))
        exits.callback(nginx.stop)
        nginx.start()
        http = await exits.enter_async_context(httpx2.AsyncClient(base_url=nginx.url))
        yield Gateway(nginx, dns, network, http, exits)
