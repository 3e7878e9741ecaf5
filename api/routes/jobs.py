"""/jobs: create, show, list, cancel, delete."""

import contextlib
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response

from api import tokens
from api.auth import MayCancel, MayRead, MaySubmit, demand
from api.dialects import dialect
from api.intake import check_key, take_in
from api.node import Node
from api.problems import documented
from api.routes.common import JobToCancel, JobToRead, KeyHeader, NodeDep, created
from api.schemas import JobIn, JobList, JobOut
from api.views import new_view, view_for, whole_view
from shared.errors import StorageError, TailraceError
from shared.jobs import JOB_ID_PATTERN, JobKey, JobRecord, Status, is_job_id
from shared.principals import Principal, Right
from shared.queue import offer_id

router = APIRouter(tags=["jobs"])

_SSE = {"text/event-stream": {"schema": {"type": "string"}, "example": "id: 0-1\nevent: queued\ndata: {…}\n\n"}}


@router.post(
    "/jobs",
    status_code=202,
    response_model=JobOut,
    summary="Ask for a generation",
    responses={
        200: {
            "description": "A replay of an Idempotency-Key, or the events themselves",
            "model": JobOut,
            "content": _SSE,
        },
        **documented(
            "invalid_request",
            "invalid_json",
            "unknown_provider",
            "unsupported_param",
            "unauthorized",
            "forbidden",
            "idempotency_conflict",
            "gone",
            "payload_too_large",
            "unsupported_media_type",
            "queue_full",
            "rate_limited",
            "too_many_jobs",
            "budget_spent",
            "storage_unavailable",
            "storage_full",
            "overloaded",
            "draining",
        ),
    },
)
async def create(
    request: Request,
    body: JobIn,
    node: NodeDep,
    principal: MaySubmit,
    idempotency_key: KeyHeader = None,
) -> Response:
    """Puts the generation on the queue; its log holds `queued` when this answers. With `Accept: text/event-stream` the
    answer is the events themselves."""
    return await answer(node, principal, body, idempotency_key, request.headers.get("accept", ""))


async def answer(node: Node, principal: Principal, body: JobIn, idempotency_key: str | None, accept: str) -> Response:
    """Take the job in; the answer is the job, or its events where they are accepted."""
    streams = "text/event-stream" in accept
    if streams:
        demand(principal, Right.READ)
    asked = body.to_request(node.settings, faults=node.faults_on_request)
    record, replayed = await take_in(node, principal, asked, check_key(idempotency_key))
    # A node that is leaving still names the job that it made; its events are to be had from another.
    if streams and not node.leaving.done():
        return created(node, record, dialect("native"), principal, replayed=replayed)
    headers = {"Location": f"/jobs/{record.key.id}"}
    if replayed:
        headers["Idempotent-Replayed"] = "true"
        return JSONResponse(await view_for(node, record, principal), 200, headers)
    return JSONResponse({**new_view(record), **_read_token(node, principal, record)}, 202, headers)


def _read_token(node: Node, principal: Principal, record: JobRecord) -> dict[str, str]:
    """For the browser that is to read the job, where a key is needed for that and this one may read."""
    if node.keyring.is_open or not principal.may(Right.READ):
        return {}
    expires_s = tokens.expiry(principal, record.deadline_ms, None, node.settings.token_slack_s)
    try:
        return {"read_token": node.keyring.mint(record.key, principal, frozenset({Right.READ}), expires_s)}
    except StorageError:
        return {}  # the job is made; a token can be asked for later


@router.get(
    "/jobs",
    response_model=JobList,
    summary="The caller's jobs, newest first",
    responses=documented("invalid_request", "unauthorized", "forbidden", "rate_limited", "storage_unavailable"),
)
async def list_jobs(
    node: NodeDep,
    principal: MayRead,
    status: Annotated[Status | None, Query(description="only jobs in this state")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[
        str | None, Query(description="`next` of the page before", json_schema_extra={"pattern": JOB_ID_PATTERN})
    ] = None,
) -> Response:
    """Without their texts. A page may be shorter than `limit`; go on until `next` is null."""
    if principal.job_id is not None:
        raise TailraceError("forbidden", "This token is for one job alone; a list takes a key.")
    if after is not None and not is_job_id(after):
        raise TailraceError("invalid_request", "after: send what `next` held.", field="after")
    page = await node.lists.page(principal.tenant, status, after, limit)
    return JSONResponse({"data": page.jobs, "next": page.next})


@router.get(
    "/jobs/{job_id}",
    response_model=JobOut,
    summary="A job",
    responses=documented("not_found", "gone", "unauthorized", "forbidden", "rate_limited", "storage_unavailable"),
)
async def show(job: JobToRead, node: NodeDep) -> Response:
    """With its text so far and the cursor that the text ends at: `last_event_id`."""
    record = await node.store.show(job)
    await node.attendance.glance(record)
    return JSONResponse(await whole_view(node, record))


@router.post(
    "/jobs/{job_id}/cancel",
    response_model=JobOut,
    summary="Cancel a job",
    responses=documented("not_found", "gone", "unauthorized", "forbidden", "rate_limited", "storage_unavailable"),
)
async def cancel(principal: MayCancel, job: JobToCancel, node: NodeDep) -> Response:
    """Answers when the terminal event is in the log; a finished job is returned as it is."""
    record = await node.store.show(job)
    if await node.store.cancel(job, "user"):
        await node.control.close(job)
        await _withdraw(node, job, record.epoch)
    return JSONResponse(await view_for(node, await node.store.show(job), principal))


@router.delete(
    "/jobs/{job_id}",
    status_code=204,
    summary="Delete a job and its text",
    responses=documented("not_found", "unauthorized", "forbidden", "rate_limited", "storage_unavailable"),
)
async def delete(job: JobToCancel, node: NodeDep) -> Response:
    """Cancels it if needed; hidden at once, erased two seconds later. Deleting twice is as good as once."""
    _, (standing,) = await node.store.standings([job])
    if await node.store.cancel(job, "deleted") and standing is not None:
        await _withdraw(node, job, standing.epoch)
    if not await node.store.delete(job):
        raise TailraceError("internal")
    await node.control.forget(job)
    return Response(status_code=204)


async def _withdraw(node: Node, job: JobKey, epoch: int) -> None:
    """Take back the offer of a job that has ended, or it would cost its tenant a turn. Only a hint: whoever gets the
    offer finds the job ended."""
    with contextlib.suppress(StorageError):
        await node.queue.withdraw(offer_id(job, epoch))
