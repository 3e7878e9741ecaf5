"""A job's events as a reader wants them: in order, once each, proven whole, over as many connections as it takes."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Self

from tailrace_client.errors import BrokenStreamError, TailraceError
from tailrace_client.events import START, Event, EventId
from tailrace_client.line import Create, Line, show_cursor
from tailrace_client.patience import OnReconnect
from tailrace_client.sse import Frame
from tailrace_client.transcript import Transcript
from tailrace_client.wholeness import Counters, Verdict, Wholeness
from tailrace_client.wire import ConnectionBrokenError, Wire


class Stream(AsyncIterator[Event]):
    """One job's events until the terminal one. Made by `AsyncTailrace.stream` and `.events`; for one task at a time.

    Iterate it, best inside `async with`, which closes the connection when the loop is left early. A wait for the next
    event may be cancelled (`asyncio.timeout`): nothing is lost, the next wait goes on from the cursor. Iterating raises

    - ApiError (its subclasses) when the server refuses for good: 400, 401, 404, 410 and their like;
    - UnreachableError after `Patience.give_up_s` without contact;
    - BrokenStreamError when the log stays incomplete although it was read again.
    """

    def __init__(
        self,
        wire: Wire,
        job: str | Create,
        *,
        cursor: EventId | None = START,
        exact: bool = False,
        transcript: Transcript | None = None,
        on_reconnect: OnReconnect | None = None,
    ) -> None:
        self.transcript = transcript or Transcript()
        """What the events delivered so far add up to."""
        self.terminal: Event | None = None
        """The terminal event once it was delivered; stays None where the cursor was behind it already."""
        self._line = Line(wire, job, exact=exact, on_reconnect=on_reconnect)
        self._whole = Wholeness(cursor)
        self._pending: deque[Frame] = deque()
        self._rereads_left = self._rereads = wire.patience.rereads

    @property
    def job_id(self) -> str | None:
        """The job, as soon as it is known: at the latest with the first event."""
        return self._line.job_id

    @property
    def cursor(self) -> str | None:
        """The last event delivered, for `events(job_id, after=…)`; None at the start."""
        return show_cursor(self._whole.cursor)

    @property
    def counters(self) -> Counters:
        """What this reader has been through so far (a copy)."""
        return self._whole.counters_with(self._line.resumes)

    async def finish(self) -> Transcript:
        """Read to the end; the transcript. Raises what iterating raises."""
        async for _ in self:
            pass
        return self.transcript

    async def cut(self) -> None:
        """Break the current connection in the middle, as a change of network would; reading then resumes by itself."""
        self._pending.clear()
        await self._line.cut()

    async def aclose(self) -> None:
        """Stop reading. The job goes on; `cursor` says where to come back."""
        self._pending.clear()
        await self._line.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        try:
            event = await self._next()
        except asyncio.CancelledError:
            # This connection may be half read; the next one starts at the cursor.
            self._pending.clear()
            await self._line.drop()
            raise
        except TailraceError:
            await self.aclose()
            raise
        if event is None:
            await self.aclose()
            raise StopAsyncIteration
        if event.terminal:
            self.terminal = event
            await self.aclose()
        return event

    async def _next(self) -> Event | None:
        """The next event to deliver; None where none will come."""
        while True:
            try:
                if (event := self._next_arrived()) is not None:
                    return event
            except ValueError as error:
                await self._read_again(error)
            frames = await self._line.frames(self._whole.cursor)
            if frames is None:
                return None
            self._pending.extend(frames)

    def _next_arrived(self) -> Event | None:
        """The next event among the frames that are here, None where they are used up; ValueError for one that is not
        the contract's, or does not follow the one before it."""
        while self._pending:
            event = Event.of(self._pending.popleft())
            if event.id is None and not event.terminal:
                continue  # a server's hint, not of the log
            verdict = self._whole.judge(event)
            if verdict is Verdict.HOLE:
                raise ValueError(f"{event.id} does not follow {self.cursor}")
            if verdict is Verdict.NEXT:
                self._deliver(event)
                return event
        return None

    def _deliver(self, event: Event) -> None:
        self._rereads_left = self._rereads
        self._line.note_progress()
        self.transcript.apply(event)
        if event.type == "queued" and self._line.job_id is None:
            self._line.job_id = str(event.data.get("job_id") or "") or None

    async def _read_again(self, error: ValueError) -> None:
        """What came is not whole: come back with the cursor, where the log (or a snapshot) has what is missing."""
        self._pending.clear()
        if self._rereads_left == 0:
            raise BrokenStreamError(f"the log of job {self.job_id} is not whole: {error}") from error
        self._rereads_left -= 1
        await self._line.restart(ConnectionBrokenError(f"the log is not whole: {error}"), self._whole.cursor)
