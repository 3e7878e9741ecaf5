"""A wire between API and store that loses what it is told to lose: wakes and offers, written to a key nobody reads."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

from shared.storage.keys import WAKE, waiting
from tests.support.cutter import Cutter


class LossyWire(Cutter):
    """Passes bytes on, but a share of the wakes and of the offers goes to keys of the same length that nobody reads.

    The store answers them as ever, so the writer believes that all went well: the loss is as silent as losses are.
    """

    def __init__(self, target: Path, queue: str, share: float, chance: random.Random) -> None:
        super().__init__(target)
        self._share = share
        self._chance = chance
        waits = waiting("default")
        self._keys = {"wakes": [b"\r\n" + WAKE.encode()], "offers": [_zadd(queue), _zadd(waits)]}
        self.astray = (f"{WAKE[:-1]}~", f"{queue[:-1]}~", f"{waits[:-1]}~")
        """Where the lost ones are: keys that the drill has to clear away."""
        self.lost = {"wakes": 0, "offers": 0}

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, replies: bool) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(1 << 20):
                writer.write(chunk if replies else self._lose(chunk))
                await writer.drain()

    def _lose(self, chunk: bytes) -> bytes:
        """One offer is one small pipeline, so it comes in one chunk; what is cut in two is passed on as it is."""
        for what, marks in self._keys.items():
            if marks[0] in chunk and self._chance.random() < self._share:
                self.lost[what] += 1
                for mark in marks:
                    chunk = chunk.replace(mark, mark[:-1] + b"~")
        return chunk

    async def aclose(self) -> None:
        """Wait for the connections to end, whose client has gone; cut those that do not."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)
        await super().aclose()


def _zadd(key: str) -> bytes:
    """How an entry of the set begins on the wire."""
    return b"ZADD\r\n$%d\r\n%s" % (len(key), key.encode())


@contextlib.asynccontextmanager
async def lossy_wire(
    url: str, path: Path, queue: str, share: float, chance: random.Random
) -> AsyncIterator[tuple[str, LossyWire]]:
    """A URL that leads to the server of `url` (unix://…) over a wire that loses a share of all wakes and offers."""
    wire = LossyWire(Path(url.removeprefix("unix://")), queue, share, chance)
    server = await asyncio.start_unix_server(wire.serve, path)
    try:
        yield f"unix://{path}", wire
    finally:
        server.close()
        await wire.aclose()
        await server.wait_closed()
