"""The response that carries a job's events: one reader, one dialect, one connection.

It ends cleanly only after the terminal event, or when a native reader is sent to another node. In every other case the
connection is aborted, for a clean end would look like a finished answer.
"""

import asyncio
import logging
import random
from contextlib import aclosing

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api import sse
from api.connection import Wire, abort, wire_of
from api.dialects import Dialect
from api.node import Node
from api.reader import Lost, Run, Start
from api.sink import Sink
from shared import metrics
from shared.errors import StorageError
from shared.jobs import JobRecord
from shared.tasks import end

log = logging.getLogger(__name__)

_PIECE_BYTES = 32 * 1024
"""What goes out in one write."""


class EventStream(Response):
    """Streams a job. `headers`: what comes beside those of SSE (Location, job id).

    `made_here`: the request has made the job, so it is answered at once, whatever becomes of the store: the head names
    the job. A GET that cannot be served is closed without a head, for EventSource would give up for ever on a 503.
    """

    def __init__(
        self, node: Node, record: JobRecord, start: Start, dialect: Dialect, headers: dict[str, str], *, made_here: bool
    ) -> None:
        super().__init__(status_code=200, headers={**sse.HEADERS, **headers})
        del self.headers["content-length"]  # Starlette counts an empty body; this one has no length
        self._node = node
        self._record = record
        self._reader = node.reader(record.key)
        self._start = start
        self._dialect = dialect
        self._made_here = made_here
        self._begun = False
        self._spoke_s = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the response until its end, the client's, or the node's, whichever comes first."""
        with metrics.READERS.track_inprogress():
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with asyncio.TaskGroup() as group:
            writing = group.create_task(self._write(send, wire_of(scope)))
            watching = group.create_task(_until_disconnect(receive))
            try:
                await _first(writing, watching, self._node.leaving)
                if self._node.leaving.done():
                    # Readers leave one after the other, or they would all come back in the same moment.
                    spread_s = random.uniform(0, self._node.settings.drain_spread_s)
                    await _first(writing, watching, timeout_s=spread_s)
                whole = writing.done() and writing.result()
                gone = watching.done()
            finally:
                await end(writing, watching)
        metrics.STREAM_ENDS.labels("whole" if whole else "left" if gone else "cut").inc()
        if whole:
            await self._send(send, b"", more=False)
        elif not gone and self._begun and self._dialect.reconnects and self._node.leaving.done():
            await self._send(send, sse.retry(random.randint(200, 2000)), more=False)
        elif not gone:
            await abort(scope, receive)

    async def _write(self, send: Send, wire: Wire | None) -> bool:
        """Write until the response is whole. False where it broke: no store, or a client that takes nothing."""
        try:
            if self._made_here:
                await self._begin(send)
            async with self._node.attendance.reading(self._record):
                await self._write_steps(send, wire)
        except StorageError as error:
            log.warning("a reader is cut: %s", error.code)
            return False
        except TimeoutError:
            log.info("a reader is cut: it took nothing for %.0f s", self._node.settings.write_timeout_s)
            return False
        return True

    async def _write_steps(self, send: Send, wire: Wire | None) -> None:
        sink = None if wire is None else Sink(self._dialect, wire)
        async with aclosing(self._reader.follow(self._start, self._node.settings.heartbeat_s, sink)) as steps:
            async for step in steps:
                if not self._begun:
                    await self._begin(send)
                body = self._said(self._bytes(step))
                if isinstance(step, Run):
                    step.let_go()
                await self._send(send, body)
                if self._dialect.finished:
                    return

    async def _begin(self, send: Send) -> None:
        self._begun = True
        metrics.STREAMS.labels(self._start.word).inc()
        self._spoke_s = asyncio.get_running_loop().time()
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await self._send(send, sse.hello(self._node.settings.reconnect_ms))

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
        metrics.EVENTS_SENT.inc(len(step.entries))
        shared = self._dialect.shared
        if shared is None:
            return self._dialect.write(step.entries)
        if step.tail is not None:
            return step.tail.frame(shared, step.entries, self._dialect.write)
        frames = {} if step.frames is None else step.frames
        if shared not in frames:
            frames[shared] = self._dialect.write(step.entries)
        return frames[shared]

    async def _send(self, send: Send, body: bytes, *, more: bool = True) -> None:
        # The server keeps a copy of what it is given until the reader has taken it: of a piece, not of a page.
        for at in range(0, max(len(body), not more), _PIECE_BYTES):
            piece, rest = body[at : at + _PIECE_BYTES], len(body) - at > _PIECE_BYTES
            async with asyncio.timeout(self._node.settings.write_timeout_s):
                await send({"type": "http.response.body", "body": piece, "more_body": more or rest})


async def _until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _first(*futures: asyncio.Future[None] | asyncio.Task[bool], timeout_s: float | None = None) -> None:
    await asyncio.wait(set(futures), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
