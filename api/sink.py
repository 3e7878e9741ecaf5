"""A connection whose reader has all that there is: what comes is written to it as it comes, without a task's turn.

A wake-up, a time-out and a send through ASGI cost three times as much as the write itself (performance notes, §2.1).
The reader's task sleeps meanwhile, and is woken where the connection has had enough, or the answer is whole.
"""

import asyncio
import logging

from api.connection import Wire
from api.dialects import Dialect
from shared import metrics
from shared.events import START, TERMINAL, Entry

log = logging.getLogger(__name__)


class Sink:
    """Where one reader's events go, as chunks of its response.

    `cursor`: the last event that was taken. `spoke_s`: when something was written, by the event loop's clock.
    """

    __slots__ = ("_left", "_loop", "_wire", "cursor", "dialect", "ended", "spoke_s")

    def __init__(self, dialect: Dialect, wire: Wire) -> None:
        self._loop = asyncio.get_running_loop()
        self._wire = wire
        self._left: asyncio.Future[None] | None = None
        self.dialect = dialect
        self.cursor = START
        self.ended = False
        self.spoke_s = self._loop.time()

    async def left(self) -> None:
        """Return when there is something for the reader's task to do."""
        self._left = self._loop.create_future()
        await self._left

    def leave(self) -> None:
        """Wake the reader's task."""
        if self._left is not None and not self._left.done():
            self._left.set_result(None)

    def has_room(self) -> bool:
        """Whether the connection takes something now; if not, the reader's task has to see to it."""
        if self._left is None or self._left.done():
            return False
        if self._wire.has_room():
            return True
        self._left.set_result(None)
        return False

    def take(self, chunk: bytes, last: Entry, now_s: float) -> None:
        """Write the chunk that ends with `last`."""
        if chunk:
            self._wire.write(chunk)
            self.spoke_s = now_s
        self.cursor = last.id
        self.ended = isinstance(last.event, TERMINAL) or self.dialect.finished
        if self.ended:
            self.leave()


def pour(entries: list[Entry], sinks: list[Sink]) -> None:
    """Give adjacent entries to all that have what comes before them; encoded once for all of one dialect."""
    now_s = asyncio.get_running_loop().time()
    chunks: dict[str, bytes] = {}
    taken = 0
    for sink in sinks:
        if not sink.has_room():  # before it is encoded: a dialect may remember what it has said
            continue
        try:
            chunk = _chunk(sink.dialect, entries, chunks)
        except Exception:
            log.exception("events could not be encoded")
            sink.leave()  # its own task will fail with it, and nobody else
            continue
        sink.take(chunk, entries[-1], now_s)
        taken += 1
    metrics.EVENTS_SENT.inc(taken * len(entries))


def _chunk(dialect: Dialect, entries: list[Entry], made: dict[str, bytes]) -> bytes:
    """The entries as a chunk of a response; empty where the dialect has nothing to say of them."""
    shared = dialect.shared
    if shared is not None and shared in made:
        return made[shared]
    frame = dialect.write(entries)
    chunk = b"%x\r\n%b\r\n" % (len(frame), frame) if frame else b""
    if shared is not None:
        made[shared] = chunk
    return chunk
