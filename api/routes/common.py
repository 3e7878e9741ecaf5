"""What several routes need: the job a path names, the cursor a request carries, the stream that answers both."""

from dataclasses import replace
from typing import Annotated

from fastapi import Depends, Header, Path, Request
from fastapi.security import APIKeyCookie, APIKeyQuery
from starlette.responses import Response

from api.auth import COOKIE, MayCancel, MayRead
from api.connection import CloseWithoutAnswerError
from api.departure import Leave
from api.dialects import Dialect
from api.node import Node, node_dependency
from api.reader import Start
from api.readers import Seat
from api.stream import EventStream
from shared.errors import StorageError, TailraceError
from shared.events import START, TERMINAL, EventId
from shared.events import Start as Started
from shared.jobs import JobKey, JobRecord, is_job_id
from shared.principals import Principal
from shared.transcript import fold

NodeDep = Annotated[Node, Depends(node_dependency)]
KeyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="1–255 visible ASCII characters",
        json_schema_extra={"pattern": "^[!-~]{1,255}$"},  # told, not checked here: `check_key` has the better words
    ),
]

_START_WORDS = frozenset({"", "-1", "0", "0-0"})
NOW = "$"


def job_of(principal: Principal, job_id: str) -> JobKey:
    """The principal's job of this id; `not_found` for what cannot be an id, and for what is not its."""
    if not is_job_id(job_id) or principal.job_id not in (None, job_id):
        raise TailraceError("not_found")
    return JobKey(principal.tenant, job_id)


_JobId = Annotated[str, Path(description="the job's id")]


# For the OpenAPI document alone: `principal_of` has looked at them.
_InQuery = Annotated[
    str | None, Depends(APIKeyQuery(name="token", auto_error=False, description="A capability token of this job."))
]
_InCookie = Annotated[
    str | None, Depends(APIKeyCookie(name=COOKIE, auto_error=False, description="A capability token of this job."))
]


async def _job_to_read(principal: MayRead, job_id: _JobId, _query: _InQuery, _cookie: _InCookie) -> JobKey:
    return job_of(principal, job_id)


async def _job_to_cancel(principal: MayCancel, job_id: _JobId, _query: _InQuery, _cookie: _InCookie) -> JobKey:
    return job_of(principal, job_id)


JobToRead = Annotated[JobKey, Depends(_job_to_read)]
JobToCancel = Annotated[JobKey, Depends(_job_to_cancel)]


def start_of(request: Request, last_event_id: str | None) -> Start:
    """Where a reader begins: the header wins over the query. `invalid_cursor` for anything but an event id."""
    given = request.headers.get("last-event-id", last_event_id if last_event_id is not None else "")
    given = given.strip(" ")
    if given in _START_WORDS:
        return Start()
    if given == NOW:
        return Start(now=True)
    try:
        return Start(EventId.parse(given))
    except ValueError:
        raise TailraceError(
            "invalid_cursor",
            "The cursor is not an event id. Send <epoch>-<seq> as `id:` had it, `$` for what is to come, or nothing.",
            field="last_event_id",
        ) from None


async def resumed(node: Node, record: JobRecord, start: Start, dialect: Dialect, principal: Principal) -> Response:
    """The events of a job after a cursor, for `principal`: 204 where nothing can follow it, else an event stream.

    A store that is away closes the connection without an answer: EventSource would give up for ever on a 503 (R4).
    """
    if node.leaving.done():
        raise CloseWithoutAnswerError
    try:
        if record.ended and await _nothing_follows(node, record, start):
            return Response(status_code=204)
        if record.ended and not start.now:
            start = replace(start, whole=True)
        if not dialect.retracts:
            start = await _for_dialect_without_retraction(node, record, start, dialect)
    except StorageError:
        raise CloseWithoutAnswerError from None
    return _event_stream(node, record, start, dialect, principal, made_here=False)


def created(node: Node, record: JobRecord, dialect: Dialect, principal: Principal, *, replayed: bool) -> EventStream:
    """The events of a job that this very request has made, or made before (`replayed`), from the first on."""
    start = Start(survivors=not dialect.retracts, new=not replayed)
    response = _event_stream(node, record, start, dialect, principal, made_here=True)
    if replayed:
        response.headers["Idempotent-Replayed"] = "true"
    return response


def _event_stream(
    node: Node, record: JobRecord, start: Start, dialect: Dialect, principal: Principal, *, made_here: bool
) -> EventStream:
    headers = {"Location": f"/jobs/{record.key.id}", "X-Tailrace-Job": record.key.id}
    dialect.about(record.request.model)
    limits = node.limiter.of(principal)
    seat = Seat(principal.id, record.key.id, limits) if limits.on_readers else None
    leave = Leave(principal.expires_s, tuple(filter(None, (principal.id, principal.signed_with))))
    return EventStream(node, record, start, dialect, headers, made_here=made_here, leave=leave, seat=seat)


async def _nothing_follows(node: Node, record: JobRecord, start: Start) -> bool:
    if start.now:
        return True
    if start.cursor == START:
        return False  # every log begins with `queued`
    (last,) = await node.log.last_ids([record.key])
    return last is not None and start.cursor == last


async def _for_dialect_without_retraction(node: Node, record: JobRecord, start: Start, dialect: Dialect) -> Start:
    """Count the text that the reader has from earlier responses, so that a reset cannot double it unnoticed."""
    if start.now:
        dialect.resume(0, started=True)
        return start
    if start.cursor == START:
        return Start(survivors=True)
    entries = await node.log.read_all(record.key)
    seen = [
        entry.event for entry in entries if entry.id.seq <= start.cursor.seq and not isinstance(entry.event, TERMINAL)
    ]
    dialect.resume(len(fold(seen).text), started=any(isinstance(event, Started) for event in seen))
    return start
