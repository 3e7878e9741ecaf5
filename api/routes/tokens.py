"""POST /jobs/{id}/tokens: the right to read or cancel one job, for a browser."""

from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends
from fastapi import Body as BodyParam
from pydantic import Field
from starlette.responses import JSONResponse, Response

from api import tokens
from api.auth import COOKIE, MayRead, demand
from api.problems import documented
from api.routes.common import NodeDep, job_of
from api.schemas import TokenOut
from shared.errors import TailraceError
from shared.events import rfc3339
from shared.jobs import JobKey
from shared.principals import Right
from shared.strict import StrictModel

router = APIRouter(tags=["jobs"])


class TokenIn(StrictModel):
    """What the token is to be."""

    rights: Annotated[list[Literal["read", "cancel"]], Field(fail_fast=True)] = Field(
        ["read"], min_length=1, max_length=2
    )
    ttl_s: int | None = Field(None, ge=1, description="at most until the job's deadline and ten minutes, the default")
    cookie: bool = Field(False, description="also set it as a cookie for the path of this job")


async def _job_to_open(principal: MayRead, job_id: str) -> JobKey:
    # A dependency, for those come before the body: whoever may have no token has nothing looked through.
    if principal.job_id is not None:
        raise TailraceError("forbidden", "A token mints no other; ask with the key.")
    return job_of(principal, job_id)


_JobToOpen = Annotated[JobKey, Depends(_job_to_open)]


@router.post(
    "/jobs/{job_id}/tokens",
    status_code=201,
    response_model=TokenOut,
    summary="A token for one job",
    responses=documented(
        "invalid_request", "unauthorized", "forbidden", "rate_limited", "not_found", "gone", "storage_unavailable"
    ),
)
async def mint(
    principal: MayRead, job: _JobToOpen, node: NodeDep, asked: Annotated[TokenIn | None, BodyParam()] = None
) -> Response:
    """For `?token=`, the Authorization header or a cookie. It takes a key; a token mints no other.

    Without a body: a token that reads, for as long as one may.
    """
    body = asked or TokenIn()
    rights = frozenset(map(Right, body.rights))
    for right in rights:
        demand(principal, right)
    record = await node.store.show(job)
    expires_s = tokens.expiry(principal, record.deadline_ms, body.ttl_s, node.settings.token_slack_s)
    token = node.keyring.mint(job, principal, rights, expires_s)
    answer = JSONResponse(
        {"token": token, "rights": sorted(rights), "expires_at": rfc3339(expires_s * 1000)},
        201,
        {"Cache-Control": "no-store"},
    )
    if body.cookie:
        answer.set_cookie(
            COOKIE,
            token,
            expires=datetime.fromtimestamp(expires_s, UTC),
            path=f"/jobs/{job.id}",
            httponly=True,
            # A page of another site asks with credentials, where its origin is allowed; browsers demand Secure for it.
            samesite="none" if node.settings.allowed_origins else "strict",
            secure=bool(node.settings.allowed_origins) or not node.settings.on_loopback,
        )
    return answer
