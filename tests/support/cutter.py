"""A wire between a client and a server on unix sockets that can be cut when the server has done what it was asked."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from tests.support.loops import end


class Cutter:
    """Passes bytes on both ways. After `cut_next_reply` the next reply is thrown away with its connection."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._cut = False
        self.cuts = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def cut_next_reply(self) -> None:
        """The next thing that the server says never arrives."""
        self._cut = True

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection's life."""
        server_reader, server_writer = await asyncio.open_unix_connection(self._target)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            async with asyncio.TaskGroup() as group:
                ways = [
                    group.create_task(self._pass(reader, server_writer, replies=False)),
                    group.create_task(self._pass(server_reader, writer, replies=True)),
                ]
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in ways:
                    way.cancel()
        finally:
            for end_of_wire in (writer, server_writer):
                end_of_wire.close()
            self._tasks.discard(task)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, replies: bool) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(65536):
                if replies and self._cut:
                    self._cut = False
                    self.cuts += 1
                    return
                writer.write(chunk)
                await writer.drain()

    async def aclose(self) -> None:
        """Cut every connection."""
        await end(*self._tasks)


@contextlib.asynccontextmanager
async def cut_wire(url: str, path: Path) -> AsyncIterator[tuple[str, Cutter]]:
    """A URL that leads to the server of `url` (unix://…) over a wire that can be cut."""
    cutter = Cutter(Path(url.removeprefix("unix://")))
    server = await asyncio.start_unix_server(cutter.serve, path)
    try:
        yield f"unix://{path}", cutter
    finally:
        server.close()
        await cutter.aclose()
        await server.wait_closed()
