"""The line to one job's events: which connection comes next, when, and when to stop trying."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx2

from tailrace_client.connection import Connection
from tailrace_client.errors import ApiError, UnreachableError
from tailrace_client.events import START, EventId
from tailrace_client.patience import OnReconnect, Reconnect
from tailrace_client.sse import Frame
from tailrace_client.wire import ConnectionBrokenError, Wire

_STEADY_S = 10.0
"""A connection that lived so long was a good one, events or not: the next break is a first one."""


@dataclass(frozen=True, slots=True)
class Create:
    """The POST that makes the job, for a stream that begins with one. The key makes it safe to send again."""

    body: dict[str, Any]
    idempotency_key: str


class Line:
    """Connections to one job, one after another. It owns the current one; `drop` lets go of it."""

    def __init__(self, wire: Wire, job: str | Create, *, exact: bool, on_reconnect: OnReconnect | None) -> None:
        self.job_id = job if isinstance(job, str) else None
        self.resumes = 0
        self._closed = False
        self._wire = wire
        self._patience = wire.patience
        self._create = job if isinstance(job, Create) else None
        self._exact = exact
        self._on_reconnect = on_reconnect
        self._connection: Connection | None = None
        self._broken = False
        self._tries = 0
        self._hint_s = 0.0
        self._opened_at = 0.0
        self._contact_at: float | None = None
        self._contacted = False

    async def frames(self, cursor: EventId | None) -> list[Frame] | None:
        """One step: open a connection at the cursor, or read from it, or wait after it broke.

        The frames that have come, often none; None where there is nothing after the cursor (204), or the line was
        closed. Raises ApiError for a refusal that lasts, UnreachableError at the end of the patience.
        """
        if self._closed:
            return None
        try:
            return await self._step(cursor)
        except ConnectionBrokenError as error:
            await self.restart(error, cursor)
        except ApiError as error:
            if not error.passing:
                raise
            await self.restart(error, cursor, error.retry_after or 0.0)
        return []

    def note_progress(self) -> None:
        """A new event came: the next break is a first one."""
        self._tries = 0

    async def restart(self, cause: Exception, cursor: EventId | None, hint_s: float = 0.0) -> None:
        """Give the current connection up and wait until the next may be tried, at least the server's hint."""
        await self.drop()
        if self._closed:
            return  # by another task, which is why it broke
        patience = self._patience
        wait_s = patience.backoff(self._tries, max(hint_s, self._hint_s))
        if self._out_of_patience(wait_s):
            raise cause if isinstance(cause, ApiError) else UnreachableError(f"gave up: {cause}") from cause
        if self._on_reconnect is not None:
            self._on_reconnect(Reconnect(str(cause), show_cursor(cursor), self._tries, wait_s))
        self._tries += 1
        await patience.sleep(wait_s)

    async def cut(self) -> None:
        """Break the current connection as a change of network would."""
        if self._connection is not None:
            await self._connection.cut()

    async def aclose(self) -> None:
        """Let go of the current connection and open no more. Can be repeated."""
        self._closed = True
        await self.drop()

    async def drop(self) -> None:
        """Let go of the current connection; what it told about the next one stays."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._broken = True
            if connection.retry_s is not None:
                self._hint_s = connection.retry_s
            await connection.aclose()

    async def _step(self, cursor: EventId | None) -> list[Frame] | None:
        if self._connection is None:
            return await self._connect(cursor)
        frames = await self._connection.frames()
        self._contact_at = self._patience.clock()
        if self._contact_at - self._opened_at >= _STEADY_S:
            self._tries = 0
        return frames

    async def _connect(self, cursor: EventId | None) -> list[Frame] | None:
        if self._contact_at is None:
            self._contact_at = self._patience.clock()
        created = self.job_id is None
        response = await (self._open_new() if created else self._open_at(cursor))
        self._contacted = True
        self._contact_at = self._opened_at = self._patience.clock()
        if response.headers.get("content-type", "").partition(";")[0].strip().lower() == "text/event-stream":
            self.resumes += self._broken
            self._broken = False
            self._connection = Connection(response)
            return []
        await response.aclose()
        if response.status_code == 204:
            return None
        if created and self.job_id:
            return []  # made, but not streamed: the next step is a GET
        raise ConnectionBrokenError("something answered that is not Tailrace")

    async def _open_new(self) -> httpx2.Response:
        create = self._create
        if create is None:
            raise ValueError("a stream needs a job id, or a job to create")
        response = await self._wire.open(
            "POST", "/jobs", json=create.body, headers={"Idempotency-Key": create.idempotency_key}
        )
        self.job_id = response.headers.get("location", "").rstrip("/").rpartition("/")[2] or None
        return response

    async def _open_at(self, cursor: EventId | None) -> httpx2.Response:
        params = {"exact": "true"} if self._exact else {}
        headers = {}
        if cursor is None:
            params["last_event_id"] = "$"
        elif cursor != START:
            headers["Last-Event-ID"] = str(cursor)
        path = f"/jobs/{quote(self.job_id or '', safe='')}/events"
        return await self._wire.open("GET", path, params=params, headers=headers)

    def _out_of_patience(self, wait_s: float) -> bool:
        patience = self._patience
        if self.job_id is None and self._tries + 1 >= patience.tries:
            return True  # the POST: nothing is running yet that would be worth waiting for
        limit_s = patience.give_up_s
        if not self._contacted and patience.first_contact_s is not None:
            limit_s = patience.first_contact_s
        now = patience.clock()
        return now + wait_s - (now if self._contact_at is None else self._contact_at) > limit_s


def show_cursor(cursor: EventId | None) -> str | None:
    """A cursor as `events(after=…)` takes it: None for the start, ``$`` where the base is not known yet."""
    if cursor is None:
        return "$"
    return None if cursor == START else str(cursor)
