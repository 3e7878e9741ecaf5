"""The response that carries a job's events: one reader, one dialect, one connection.

It ends cleanly only after the terminal event, or when a native reader is sent to another node. In every other case the
connection is aborted, for a clean end would look like a finished answer.
"""

import asyncio
import logging
import random
from collections.abc import Coroutine
from contextlib import aclosing, nullcontext
from dataclasses import replace
from typing import Any

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from api import sse
from api.attendance import asks
from api.connection import Wire, abort, wire_of
from api.departure import FOR_GOOD, Departure, Leave
from api.dialects import Dialect
from api.node import Node
from api.reader import Lost, Reader, Run, Start
from api.readers import Seat
from api.sink import Sink
from shared import metrics
from shared.errors import StorageError
from shared.events import TERMINAL, size
from shared.jobs import JobKey, JobRecord

log = logging.getLogger(__name__)

_PIECE_BYTES = 32 * 1024
"""What goes out in one write."""


class EventStream(Response):
    """Streams a job. `headers`: what comes beside those of SSE (Location, job id).

    `made_here`: the request has made the job, so it is answered at once, whatever becomes of the store: the head names
    the job. A GET that cannot be served is closed without a head, for EventSource would give up for ever on a 503.
    """

    def __init__(
        self,
        node: Node,
        record: JobRecord,
        start: Start,
        dialect: Dialect,
        headers: dict[str, str],
        *,
        made_here: bool,
        leave: Leave = FOR_GOOD,
        seat: Seat | None = None,
    ) -> None:
        super().__init__(status_code=200, headers={**sse.HEADERS, **headers})
        del self.headers["content-length"]  # Starlette counts an empty body; this one has no length
        self._node = node
        self._record = record
        self._start = start
        self._dialect = dialect
        self._made_here = made_here
        self._leave = leave
        self._seat = seat

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        """Serve the response until its end, the client's, or the node's, whichever comes first.

        What runs holds neither this object, nor the record with its prompt, nor the request's headers: readers are many
        and wait for long.
        """
        scope["headers"] = []
        attended = self._record.key if asks(self._record) else None
        stream = _Stream(self._node, self._start, self._dialect, send, wire_of(scope), self.raw_headers)
        reader = self._node.reader(self._record.key, together=self._dialect.joins)
        more = {"made_here": self._made_here, "leave": self._leave, "seat": self._seat}
        return stream.run(reader, attended, scope, receive, **more)  # type: ignore[arg-type]


class _Stream:
    """One response under way."""

    __slots__ = ("_begun", "_dialect", "_head", "_node", "_send", "_spoke_s", "_start", "_wire")

    def __init__(
        self,
        node: Node,
        start: Start,
        dialect: Dialect,
        send: Send,
        wire: Wire | None,
        headers: list[tuple[bytes, bytes]],
    ) -> None:
        self._node = node
        self._start = start
        self._dialect = dialect
        self._send = send
        self._wire = wire
        self._head: Message = {"type": "http.response.start", "status": 200, "headers": headers}
        self._begun = False
        self._spoke_s = 0.0

    async def run(
        self,
        reader: Reader,
        attended: JobKey | None,
        scope: Scope,
        receive: Receive,
        *,
        made_here: bool,
        leave: Leave,
        seat: Seat | None,
    ) -> None:
        """Serve it. `attended`: the job, where it is to be known that somebody reads it. `seat`: what the reader is
        counted by."""
        whole = False
        with metrics.READERS.track_inprogress(), self._node.attendance.reading(attended):
            async with Departure(self._node.leaving, self._wire, receive, leave) as departure:
                with nullcontext() if seat is None else self._node.readers.reading(seat, departure):
                    whole = await self._write(reader, begin=made_here)
        gone = departure.client_gone and not whole
        metrics.STREAM_ENDS.labels("whole" if whole else "left" if gone else "cut").inc()
        if gone:
            return
        last = b"" if whole else self._farewell(departure)
        try:
            if last is not None:
                await self._say(last, more=False)
                return
        except TimeoutError:
            log.info("a reader is cut: it did not take the end")
        await abort(scope, receive)

    def _farewell(self, departure: Departure) -> bytes | None:
        """What a reader is told who comes back after a clean end; None for one that has to see the end as an error."""
        if not (self._begun and self._dialect.reconnects):
            return None
        if departure.expired:
            return sse.token_expired()
        if departure.makes_room:
            return sse.too_many_readers(random.randint(5_000, 15_000))
        return sse.retry(random.randint(200, 2000)) if self._node.leaving.done() else None

    async def _write(self, reader: Reader, *, begin: bool) -> bool:
        """Write until the response is whole. False where it broke: no store, or a client that takes nothing."""
        try:
            if begin:
                await self._begin()
            if self._start.whole and await self._replay(reader):
                return True
            sink = None if self._wire is None else Sink(self._dialect, self._wire)
            async with aclosing(reader.follow(self._start, self._node.settings.heartbeat_s, sink)) as steps:
                async for step in steps:
                    await self._take(step)
                    if self._dialect.finished:
                        break
        except StorageError as error:
            log.warning("a reader is cut: %s", error.code)
            return False
        except TimeoutError:
            log.info("a reader is cut: it took nothing for %.0f s", self._node.settings.write_timeout_s)
            return False
        return True

    async def _replay(self, reader: Reader) -> bool:
        """Write a log that has ended; whether that was all of it. If not, there is more to follow."""
        async with aclosing(reader.replay(self._start.cursor)) as runs:
            async for run in runs:
                last = run.entries[-1]
                await self._take(run)
                self._start = replace(self._start, cursor=last.id)
                if isinstance(last.event, TERMINAL) or self._dialect.finished:
                    return True
        return False

    async def _take(self, step: Run | Lost | None) -> None:
        if not self._begun:
            await self._begin()
        body = self._said(self._bytes(step))
        if isinstance(step, Run):
            step.let_go()
        if body:
            await self._say(body)

    async def _begin(self) -> None:
        self._begun = True
        metrics.STREAMS.labels(self._start.word).inc()
        self._spoke_s = asyncio.get_running_loop().time()
        head, self._head = self._head, {}
        await self._send(head)
        await self._say(sse.hello(self._node.settings.reconnect_ms))

    def _said(self, body: bytes) -> bytes:
        """`body`, or a heartbeat where a log that moves has had nothing to show in this dialect for too long."""
        now_s = asyncio.get_running_loop().time()
        if not body and now_s - self._spoke_s >= self._node.settings.heartbeat_s:
            body = sse.HEARTBEAT
        if body:
            self._spoke_s = now_s
        return body

    def _bytes(self, step: Run | Lost | None) -> bytes:
        if step is None:
            return sse.HEARTBEAT
        if isinstance(step, Lost):
            return self._dialect.lost(step.event)
        if not step.entries:
            return b""
        metrics.EVENTS_SENT.inc(sum(map(size, step.entries)))
        shared = self._dialect.shared
        if shared is None:
            return self._dialect.write(step.entries)
        if step.tail is not None:
            return step.tail.frame(shared, step.entries, self._dialect.write)
        frames = {} if step.frames is None else step.frames
        if shared not in frames:
            frames[shared] = self._dialect.write(step.entries)
        return frames[shared]

    async def _say(self, body: bytes, *, more: bool = True) -> None:
        # The server keeps a copy of what it is given until the reader has taken it: of a piece, not of a page.
        for at in range(0, max(len(body), not more), _PIECE_BYTES):
            piece, rest = body[at : at + _PIECE_BYTES], len(body) - at > _PIECE_BYTES
            message = {"type": "http.response.body", "body": piece, "more_body": more or rest}
            if self._wire is not None and self._wire.has_room():
                await self._send(message)  # which waits for nothing, then
                continue
            async with asyncio.timeout(self._node.settings.write_timeout_s):
                await self._send(message)
