"""A connection whose reader has all that there is: what comes is written to it as it comes, without a task's turn.

A wake-up, a time-out and a send through ASGI cost three times as much as the write itself (performance notes, §2.1).
The reader's task sleeps meanwhile, and is woken where the connection has had enough, or the answer is whole.
"""

import asyncio
import logging

from api import sse
from api.connection import Wire
from api.dialects import Dialect
from shared import metrics
from shared.events import START, TERMINAL, Entry

log = logging.getLogger(__name__)

_HEARTBEAT = sse.chunk(sse.HEARTBEAT)


class Sink:
    """Where one reader's events go, as chunks of its response.

    `asleep`: the reader's task is, and the sink takes what comes. `cursor`: the last event that was taken. `spoke_s`:
    when something was written, by the event loop's clock. `ended`: the answer is whole.
    """

    __slots__ = ("_left", "asleep", "cursor", "dialect", "ended", "spoke_s", "wire")

    def __init__(self, dialect: Dialect, wire: Wire) -> None:
        self._left: asyncio.Future[None] | None = None
        self.wire = wire
        self.dialect = dialect
        self.cursor = START
        self.asleep = False
        self.ended = False
        self.spoke_s = 0.0

    async def left(self) -> None:
        """Sleep until there is something for the reader's task to do."""
        self._left = asyncio.get_running_loop().create_future()
        self.asleep = True
        try:
            await self._left
        finally:
            self.asleep = False
            self._left = None

    def leave(self) -> None:
        """Wake the reader's task."""
        self.asleep = False
        if self._left is not None and not self._left.done():
            self._left.set_result(None)

    def beat(self, since_s: float, now_s: float) -> None:
        """Write a heartbeat, if nothing was written after `since_s`; without room the reader's task sees to it."""
        if self.asleep and self.spoke_s <= since_s:
            if self.wire.write(_HEARTBEAT):
                self.spoke_s = now_s
            else:
                self.leave()


def pour(entries: list[Entry], sinks: list[Sink]) -> None:
    """Give adjacent entries to all that have what comes before them; encoded once for all of one dialect.

    Nothing stands here but what each event costs for each reader.
    """
    now_s = asyncio.get_running_loop().time()
    cursor, ends = entries[-1].id, isinstance(entries[-1].event, TERMINAL)
    chunks: dict[str, bytes] = {}
    taken = 0
    for sink in sinks:
        if not sink.asleep:
            continue
        shared = sink.dialect.shared
        chunk = chunks.get(shared) if shared is not None else None
        if chunk is None:
            # Not encoded without room: a dialect may remember what it has said.
            chunk = _chunk(sink, entries) if sink.wire.has_room() else None
            if chunk is None:
                sink.leave()
                continue
            if shared is not None:
                chunks[shared] = chunk
        if chunk:
            if not sink.wire.write(chunk):
                sink.leave()
                continue
            sink.spoke_s = now_s
        sink.cursor = cursor
        taken += 1
        if ends or sink.dialect.finished:
            sink.ended = True
            sink.leave()
    metrics.EVENTS_SENT.inc(taken * len(entries))


def _chunk(sink: Sink, entries: list[Entry]) -> bytes | None:
    """The entries as a chunk of a response; empty where the dialect has nothing to say of them, None where it fails."""
    try:
        frame = sink.dialect.write(entries)
    except Exception:
        log.exception("events could not be encoded")
        return None  # the reader's own task will fail with it, and nobody else
    return sse.chunk(frame)
