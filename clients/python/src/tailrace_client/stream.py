"""A job's events over as many connections as it takes: cursor, resuming, proof of wholeness, giving up."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote

import httpx2

from tailrace_client.connection import Connection
from tailrace_client.errors import ApiError, BrokenStreamError, TailraceError, UnreachableError
from tailrace_client.events import START, Event, EventId
from tailrace_client.patience import OnReconnect, Reconnect
from tailrace_client.sse import Frame
from tailrace_client.transcript import Transcript
from tailrace_client.wholeness import Counters, Verdict, Wholeness
from tailrace_client.wire import ConnectionBrokenError, Wire

_STEADY_S = 10.0


@dataclass(frozen=True, slots=True)
class Create:
    """The POST that makes the job, for a stream that begins with one. The key makes it safe to send again."""

    body: dict[str, Any]
    idempotency_key: str


class Stream(AsyncIterator[Event]):
    """One job's events, in order, once each, until the terminal one. Made by `AsyncTailrace.stream` and `.events`.

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
        self.job_id: str | None = job if isinstance(job, str) else None
        """The job, as soon as it is known: at the latest with the first event."""
        self.transcript = transcript or Transcript()
        """What the events delivered so far add up to."""
        self.terminal: Event | None = None
        """The terminal event once it was delivered; stays None where the cursor was behind it already."""
        self._wire = wire
        self._create = job if isinstance(job, Create) else None
        self._exact = exact
        self._on_reconnect = on_reconnect
        self._whole = Wholeness(cursor)
        self._connection: Connection | None = None
        self._pending: deque[Frame] = deque()
        self._fault = ""
        self._over = False
        self._tries = 0
        self._rereads = 0
        self._hint_s = 0.0
        self._opened = 0.0
        self._last_contact: float | None = None
        self._contacted = self._broken = False

    # -- what a caller sees

    @property
    def cursor(self) -> str | None:
        """The id of the last event delivered, for `events(job_id, after=…)`; None at the start."""
        return str(self._whole.cursor) if self._whole.cursor not in (None, START) else None

    @property
    def counters(self) -> Counters:
        """What this reader has been through."""
        return self._whole.counters

    async def finish(self) -> Transcript:
        """Read to the end; the transcript. Raises what iterating raises."""
        async for _ in self:
            pass
        return self.transcript

    async def cut(self) -> None:
        """Break the current connection in the middle, as a change of network would; reading then resumes by itself."""
        self._pending.clear()
        if self._connection is not None:
            await self._connection.cut()

    async def aclose(self) -> None:
        """Stop reading. The job goes on; `cursor` says where to come back."""
        self._over = True
        await self._drop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        try:
            while not self._over:
                if (event := self._next_whole()) is not None:
                    if event.terminal:
                        self.terminal = event
                        await self.aclose()
                    return event
                await self._advance()
        except asyncio.CancelledError:
            # What this connection had in hand may be half read; the cursor knows better.
            await self._drop()
            raise
        except TailraceError:
            await self.aclose()
            raise
        raise StopAsyncIteration

    # -- events that have arrived

    def _next_whole(self) -> Event | None:
        """The next event to deliver, if one has arrived. What does not fit becomes a fault, to be read again."""
        while self._pending:
            frame = self._pending.popleft()
            try:
                event = Event.of(frame)
            except ValueError as error:
                self._mark_fault(f"an unreadable event: {error}")
                return None
            if event.id is None and not event.terminal:
                continue  # a server's hint, not of the log
            match self._whole.judge(event):
                case Verdict.NEXT:
                    self._deliver(event)
                    return event
                case Verdict.HOLE:
                    self._mark_fault(f"{event.id} does not follow {self._whole.cursor}")
                    return None
                case Verdict.SEEN:
                    pass
        return None

    def _deliver(self, event: Event) -> None:
        self._tries = self._rereads = 0
        self.transcript.apply(event)
        if event.type == "queued":
            self.job_id = self.job_id or event.data.get("job_id")

    def _mark_fault(self, reason: str) -> None:
        self._pending.clear()
        self._rereads += 1
        if self._rereads > self._wire.patience.rereads:
            raise BrokenStreamError(f"the log of job {self.job_id} is not whole: {reason}")
        self._fault = reason

    # -- connections

    async def _advance(self) -> None:
        """Open a connection or read from it; wait before the next where it broke."""
        hint = 0.0
        cause: Exception
        try:
            if self._fault:
                raise ConnectionBrokenError(self._fault)
            if self._connection is None:
                await self._connect()
            else:
                self._pending.extend(await self._connection.frames())
                self._note_contact()
            return
        except ConnectionBrokenError as error:
            cause = error
        except ApiError as error:
            if not error.passing:
                raise
            cause, hint = error, error.retry_after or 0.0
        await self._drop()
        if not self._over:
            await self._wait_before_next(cause, hint)

    async def _connect(self) -> None:
        if self._last_contact is None:
            self._last_contact = self._wire.patience.clock()
        response = await self._open()
        self._contacted = True
        self._opened = self._wire.patience.clock()
        self._note_contact()
        if response.status_code == 204:
            self._over = True
            await response.aclose()
        elif response.headers.get("content-type", "").partition(";")[0].strip().lower() != "text/event-stream":
            await response.aclose()
            if self._create is not None and self.job_id:
                return  # the job was made, but not streamed: the next opening is a GET
            raise ConnectionBrokenError("something answered that is not Tailrace")
        else:
            self.counters.resumes += self._broken
            self._broken = False
            self._connection = Connection(response)

    async def _open(self) -> httpx2.Response:
        if self.job_id is None and self._create is not None:
            response = await self._wire.open(
                "POST", "/jobs", json=self._create.body, headers={"Idempotency-Key": self._create.idempotency_key}
            )
            self.job_id = response.headers.get("location", "").rstrip("/").rpartition("/")[2] or None
            return response
        cursor = self._whole.cursor
        params = {"exact": "true"} if self._exact else {}
        if cursor is None:
            params["last_event_id"] = "$"
        headers = {"Last-Event-ID": str(cursor)} if cursor not in (None, START) else {}
        path = f"/jobs/{quote(self.job_id or '', safe='')}/events"
        return await self._wire.open("GET", path, params=params, headers=headers)

    def _note_contact(self) -> None:
        self._last_contact = self._wire.patience.clock()
        # A long silence with heartbeats is a good connection too: the next break is a first one.
        if self._last_contact - self._opened >= _STEADY_S:
            self._tries = 0

    async def _wait_before_next(self, cause: Exception, hint_s: float) -> None:
        patience = self._wire.patience
        wait_s = patience.backoff(self._tries, max(hint_s, self._hint_s))
        if self._out_of_patience(wait_s):
            if isinstance(cause, ApiError):
                raise cause
            raise UnreachableError(f"gave up: {cause}") from cause
        if self._on_reconnect is not None:
            cursor = "$" if self._whole.cursor is None else self.cursor
            self._on_reconnect(Reconnect(str(cause), cursor, self._tries, wait_s))
        self._tries += 1
        await patience.sleep(wait_s)

    def _out_of_patience(self, wait_s: float) -> bool:
        patience = self._wire.patience
        if self.job_id is None and self._tries + 1 >= patience.tries:
            return True  # the POST: nothing is running yet that would be worth waiting for
        limit_s = patience.give_up_s
        if not self._contacted and patience.first_contact_s is not None:
            limit_s = patience.first_contact_s
        since = self._last_contact if self._last_contact is not None else patience.clock()
        return patience.clock() + wait_s - since > limit_s

    async def _drop(self) -> None:
        """Let go of the current connection; what it told about the next one stays."""
        self._pending.clear()
        self._fault = ""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._broken = True
            if connection.retry_s is not None:
                self._hint_s = connection.retry_s
            await connection.aclose()
