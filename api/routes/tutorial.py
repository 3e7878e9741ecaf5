"""The four endpoints that every streaming tutorial ends with, durable underneath."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.responses import Response

from api.auth import MaySubmit, demand
from api.dialects import dialect
from api.intake import check_key, take_in
from api.node import Node
from api.problems import documented
from api.routes.common import KeyHeader, NodeDep, created
from api.schemas import AnthropicIn, ChatIn, MessageOnlyIn
from shared.jobs import JobRequest, Message
from shared.principals import Principal, Right

router = APIRouter(tags=["chat"])


def _documented(example: str) -> dict[int | str, dict[str, Any]]:
    return {
        200: {"description": "The answer", "content": {"text/event-stream": {"example": example}}},
        **documented(
            "invalid_request",
            "invalid_json",
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
    }


async def _may_submit_and_read(principal: MaySubmit) -> Principal:
    # A dependency, for those come before the body: who is forbidden has nothing looked through.
    return demand(principal, Right.READ)


_MayChat = Annotated[Principal, Depends(_may_submit_and_read)]
_CHAT = _documented('id: 602505-3\ndata: {"token": "Hello", "done": false}\n\n')


async def _answer(
    node: Node, principal: Principal, request: JobRequest, dialect_name: str, key: str | None
) -> Response:
    record, replayed = await take_in(node, principal, request, check_key(key))
    return created(node, record, dialect(dialect_name), principal, replayed=replayed)


@router.post("/chat/stream", summary="Chat by OpenAI", response_class=Response, responses=_CHAT)
async def chat(body: ChatIn, node: NodeDep, principal: _MayChat, idempotency_key: KeyHeader = None) -> Response:
    """Come back with `GET /jobs/{id}/events?dialect=chat` and the last `id:`; the id is in `Location`."""
    request = JobRequest("openai", node.settings.chat_model, [Message("user", body.message)], system=body.system_prompt)
    return await _answer(node, principal, request, "chat", idempotency_key)


@router.post(
    "/chat/stream-meta",
    summary="Chat by OpenAI, with events",
    response_class=Response,
    responses=_documented('data: {"event": "start", "model": "gpt-4o-mini"}\n\n'),
)
async def chat_meta(
    body: MessageOnlyIn, node: NodeDep, principal: _MayChat, idempotency_key: KeyHeader = None
) -> Response:
    """As /chat/stream, with a start, a count of tokens and a latency. Dialect `chat-meta`."""
    request = JobRequest("openai", node.settings.chat_model, [Message("user", body.message)])
    return await _answer(node, principal, request, "chat-meta", idempotency_key)


@router.post("/anthropic/stream", summary="Chat by Anthropic", response_class=Response, responses=_CHAT)
async def anthropic(
    body: AnthropicIn, node: NodeDep, principal: _MayChat, idempotency_key: KeyHeader = None
) -> Response:
    """As /chat/stream."""
    request = JobRequest(
        "anthropic", node.settings.anthropic_model, [Message("user", body.message)], system=body.system
    )
    return await _answer(node, principal, request, "chat", idempotency_key)


@router.post(
    "/langchain/stream",
    summary="Chat by LangChain",
    response_class=Response,
    responses=_documented('data: {"token": "Hello"}\n\n'),
)
async def langchain(
    body: MessageOnlyIn, node: NodeDep, principal: _MayChat, idempotency_key: KeyHeader = None
) -> Response:
    """Dialect `langchain`."""
    request = JobRequest("langchain", node.settings.langchain_model, [Message("user", body.message)])
    return await _answer(node, principal, request, "langchain", idempotency_key)
