"""A server with the door in front of it, whose clock a test moves, and clients that misbehave."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.types import Receive, Scope, Send

from api.door import Door
from api.guard import Guard
from shared.settings import Settings
from tests.support.loops import GUARD_S, until
from tests.support.serving import address_of, serving

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LARGE = 3 * 1024 * 1024


class App:
    """Streams at /jobs/j/events until it is told to stop, sends a large answer at /large, else says what was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bytes]] = []
        self.stop = asyncio.Event()
        self.streams = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        message = await receive()
        self.asked.append((scope["path"], message.get("body", b"")))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == "/jobs/j/events":
            self.streams += 1
            await send({"type": "http.response.body", "body": b"first", "more_body": True})
            await self.stop.wait()
        await send({"type": "http.response.body", "body": b"x" * LARGE if scope["path"] == "/large" else b"whole"})


@dataclass
class Node:
    """A server whose clock the test moves."""

    app: App
    door: Door
    server: uvicorn.Server
    clock: list[float]
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self.server.server_state.connections)

    async def come(self, *sent: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A client that has sent so much, and that the node has seen."""
        before = self.connections
        reader, writer = await asyncio.open_connection(*address_of(self.server))
        self.writers.append(writer)
        await until(lambda: self.connections == before + 1)
        for part in sent:
            await self.send(writer, part)
        return reader, writer

    async def send(self, writer: asyncio.StreamWriter, part: bytes) -> None:
        """Send it, and let the node read it."""
        writer.write(part)
        await writer.drain()
        for _ in range(20):
            await asyncio.sleep(0)

    def later(self, seconds: float) -> None:
        """So much time passes, and the door looks."""
        self.clock[0] += seconds
        self.door.sweep(self.connections)

    async def exchange(self, *sent: bytes) -> bytes:
        """All that comes back until the connection ends, however."""
        reader, _ = await self.come(*sent)
        return await rest(reader)


async def rest(reader: asyncio.StreamReader) -> bytes:
    """What comes until the connection ends, however."""
    received = bytearray()
    async with asyncio.timeout(GUARD_S):
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(65_536):
                received += piece
    return bytes(received)


def problem_in(answer: bytes) -> dict[str, Any]:
    """The problem that an answer is, whose connection closes."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"\r\nconnection: close" in head.lower()
    assert b"application/problem+json" in head
    problem: dict[str, Any] = json.loads(body)
    assert head.startswith(b"HTTP/1.1 %d " % problem["status"])
    assert problem["request_id"].encode() in head
    return problem


@contextlib.asynccontextmanager
async def node_with(most_files: int | None = None, **limits: Any) -> AsyncIterator[Node]:
    """A node with these settings."""
    settings, app, clock = Settings(**limits), App(), [1000.0]
    door = Door(settings, lambda: clock[0], most_files)
    guard = Guard(app, settings.max_body_bytes, settings.body_timeout_s)
    async with serving(guard, door) as server:
        node = Node(app, door, server, clock)
        try:
            yield node
        finally:
            app.stop.set()
            for writer in node.writers:
                writer.transport.abort()
            await until(lambda: node.connections == 0)
