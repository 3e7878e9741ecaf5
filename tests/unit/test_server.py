"""The server's own protocol: whoever is answered learns that its client is gone, whatever else the client has sent."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from api.connection import abort
from tests.support.loops import GUARD_S, until
from tests.support.serving import address_of, serving


class Answering:
    """An application whose answer to /stream goes on until it is broken off; the others are answered at once."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.broken_off = asyncio.Event()
        self.left = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == "/stream":
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            self.begun.set()
            await self.broken_off.wait()
            await abort(scope, receive)
            self.left = True
        else:
            await send({"type": "http.response.body", "body": b""})


@pytest.fixture
async def app() -> Answering:
    """What is served."""
    return Answering()


@pytest.fixture
async def server(app: Answering) -> AsyncIterator[uvicorn.Server]:
    """It, on a port of its own."""
    async with serving(app) as server:
        yield server


@pytest.mark.parametrize("ahead", [b"", b"GET /next HTTP/1.1\r\nHost: x\r\n\r\n"])
async def test_an_answer_that_is_broken_off_ends_whatever_was_asked_ahead(
    app: Answering, server: uvicorn.Server, ahead: bytes
) -> None:
    _, writer = await asyncio.open_connection(*address_of(server))
    writer.write(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(GUARD_S):
        await app.begun.wait()
        writer.write(ahead)
        (protocol,) = server.server_state.connections
        await until(lambda: not ahead or len(protocol.pipeline) == 1)  # type: ignore[union-attr]
        app.broken_off.set()
        await until(lambda: app.left and not server.server_state.tasks)
    writer.close()
