"""GET /jobs/{id}/events: the log of a job over SSE, from a cursor on, in any dialect."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from api.auth import MayRead
from api.connection import CloseWithoutAnswerError
from api.dialects import Dialect, dialect
from api.node import Node
from api.problems import documented
from api.reader import Start
from api.routes.common import JobToRead, NodeDep, resumed, start_of
from shared.errors import StorageError
from shared.jobs import JobKey
from shared.principals import Principal

router = APIRouter(tags=["events"])

_EXAMPLE = """: tailrace
retry: 1000
id: 0-1
event: queued
data: {"job_id":"01m8…","provider":"scripted","model":"demo","created_at":"2026-11-22T10:00:00.000Z"}

id: 602505-2
event: start
data: {"attempt":1,"provider":"scripted","model":"demo","queue_ms":2,"at_ms":2}

id: 602505-4
event: token
data: {"text":"Below the ","at_ms":3,"n":2}

id: 602505-5
event: done
data: {"finish_reason":"stop","usage":{"input_tokens":1,"output_tokens":2},"tokens":2,"attempt":1,"timings":{…}}

"""


@router.get(
    "/jobs/{job_id}/events",
    summary="The events of a job",
    response_class=Response,
    responses={
        200: {"description": "The events after the cursor", "content": {"text/event-stream": {"example": _EXAMPLE}}},
        204: {"description": "The cursor is the terminal event: nothing follows"},
        **documented("invalid_cursor", "invalid_dialect", "unauthorized", "forbidden", "not_found", "gone"),
    },
)
async def events(
    request: Request,
    principal: MayRead,
    job: JobToRead,
    node: NodeDep,
    last_event_id: Annotated[
        str | None,
        Query(
            description="cursor; the Last-Event-ID header wins; `$`: only what comes",
            json_schema_extra={"pattern": r"^(|-1|0|\$|[0-9]{1,19}-[0-9]{1,19})$"},  # told, not checked here
        ),
    ] = None,
    dialect_name: Annotated[str, Query(alias="dialect", description="native, chat, chat-meta, langchain")] = "native",
    exact: Annotated[bool, Query(description="the entries as they were appended, none joined")] = False,
) -> Response:
    """Replays what follows the cursor, then tails the log until the terminal event."""
    return await answer(node, job, start_of(request, last_event_id), dialect(dialect_name, exact=exact), principal)


async def answer(node: Node, job: JobKey, start: Start, writer: Dialect, principal: Principal) -> Response:
    """The events of `job` after a cursor, or no answer at all where the store is away (R4)."""
    try:
        record = await node.store.show(job)
    except StorageError:
        raise CloseWithoutAnswerError from None
    return await resumed(node, record, start, writer, principal)
