"""A wire between a client and a server, on unix sockets or TCP, with the faults that wires have, each way by itself.

`hold` is a black hole: nothing passes, and what was sent comes late, as TCP would bring it, or never. What is held can
also be let through a piece at a time, which makes of the proxy a stepper for tests that choose the order of things.
Left out: single lost bytes. A stream has none.
"""

import asyncio
import contextlib
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable
from enum import Enum
from pathlib import Path
from urllib.parse import urlsplit

from tests.support.loops import GUARD_S

CHUNK = 65_536
MOST_HELD = 10_000


class Way(Enum):
    """A direction."""

    REQUESTS = 0
    REPLIES = 1


class Wire:
    """One connection through the proxy."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.held: dict[Way, deque[bytes]] = {Way.REQUESTS: deque(), Way.REPLIES: deque()}
        self._ends = {Way.REQUESTS: server, Way.REPLIES: client}
        self.replied = asyncio.Event()
        """Something has come from the server since it was cleared."""

    def write(self, way: Way, chunk: bytes) -> None:
        """Pass something on."""
        if not self._ends[way].is_closing():
            self._ends[way].write(chunk)

    def let_one(self, way: Way) -> None:
        """Let the oldest held piece through."""
        self.write(way, self.held[way].popleft())

    async def drain(self, way: Way) -> None:
        """Wait until the receiver takes more."""
        with contextlib.suppress(OSError):
            await self._ends[way].drain()

    def reset(self, *ways: Way) -> None:
        """Break the connection without a farewell: both ends, or the receiver's of some way alone."""
        for way in ways or Way:
            raw = self._ends[way].get_extra_info("socket")
            if raw is not None and raw.family != socket.AF_UNIX:
                with contextlib.suppress(OSError):
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._ends[way].transport.abort()


class FaultProxy:
    """Owned by `fault_proxy`. All faults concern what comes from now on."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._tasks: set[asyncio.Task[None]] = set()
        self._held = {Way.REQUESTS: False, Way.REPLIES: False}
        self._drop_next_reply = False
        self.latency_s = {Way.REQUESTS: 0.0, Way.REPLIES: 0.0}
        self.refuses = False
        """New connections are closed at once."""
        self.passes: Callable[[bytes], bool] = lambda _: False
        """What is never held."""
        self.wires: list[Wire] = []
        self.faults = 0
        """How many connections were broken."""

    # Faults.

    def hold(self, *ways: Way) -> None:
        """Let nothing through, on all connections, until `release`."""
        for way in ways or Way:
            self._held[way] = True

    def release(self, *ways: Way) -> None:
        """Let through what was held, and what comes."""
        for way in ways or Way:
            self._held[way] = False
            for wire in self.wires:
                while wire.held[way]:
                    wire.let_one(way)

    def drop_next_reply(self) -> None:
        """The next thing that the server says never arrives, and its connection breaks."""
        self._drop_next_reply = True

    def reset(self) -> None:
        """Break every connection."""
        for wire in list(self.wires):
            self.cut(wire)

    def cut(self, wire: Wire) -> None:
        """Break one connection; what was held on it is lost."""
        self.faults += 1
        wire.reset()

    # The wire itself.

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection's life."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if not self.refuses:
                await self._join(reader, writer)
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await _connect(self._target)
        except OSError:
            return
        wire = Wire(writer, server_writer)
        self.wires.append(wire)
        try:
            async with asyncio.TaskGroup() as group:
                ways = [
                    group.create_task(self._pass(wire, reader, Way.REQUESTS)),
                    group.create_task(self._pass(wire, server_reader, Way.REPLIES)),
                ]
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in ways:
                    way.cancel()
        finally:
            self.wires.remove(wire)
            server_writer.close()

    async def _pass(self, wire: Wire, reader: asyncio.StreamReader, way: Way) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(CHUNK):
                if way is Way.REPLIES:
                    wire.replied.set()
                    if self._drop_next_reply:
                        self._drop_next_reply = False
                        self.cut(wire)
                        return
                if self.latency_s[way]:
                    await asyncio.sleep(self.latency_s[way])
                if self._held[way] and not self.passes(chunk):
                    assert len(wire.held[way]) < MOST_HELD
                    wire.held[way].append(chunk)
                else:
                    wire.write(way, chunk)
                    await wire.drain(way)

    async def aclose(self) -> None:
        """Break every connection, and wait until they are gone."""
        self.refuses = True
        async with asyncio.timeout(GUARD_S):
            while self._tasks:
                for wire in self.wires:
                    wire.reset()
                await asyncio.wait(self._tasks, timeout=0.1)


async def _connect(target: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if target.startswith("unix://"):
        return await asyncio.open_unix_connection(target.removeprefix("unix://"))
    parts = urlsplit(target)
    return await asyncio.open_connection(parts.hostname, parts.port)


@contextlib.asynccontextmanager
async def fault_proxy(url: str, path: Path | None = None) -> AsyncIterator[tuple[str, FaultProxy]]:
    """A URL that leads to the server of `url` over a wire with faults: a socket at `path`, or a port of loopback."""
    proxy = FaultProxy(url)
    if path is not None:
        server: asyncio.Server = await asyncio.start_unix_server(proxy.serve, path)
        through = f"unix://{path}"
    else:
        server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
        parts = urlsplit(url)
        port = server.sockets[0].getsockname()[1]
        through = parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{port}".lstrip("@")).geturl()
    try:
        yield through, proxy
    finally:
        server.close()
        await proxy.aclose()
        await server.wait_closed()
