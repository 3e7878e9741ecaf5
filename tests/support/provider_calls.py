"""Calling a provider in a test: one call and what came of it; and the table of failures that all have to sort."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from shared.errors import ProviderError
from shared.events import Reasoning, Token, ToolCall
from shared.jobs import Message
from shared.settings import Settings
from shared.transcript import fold
from tests.support.provider_behaviour import Behaviour, answer
from tests.support.provider_http import Request
from tests.support.provider_server import ProviderServer
from worker.providers.base import Call, Finish, Piece, Provider, Usage, pour

LIMIT_S = 20
"""Guards against a test that hangs; no test measures time."""

CALL = Call(job_id="job", model="test-model", messages=[Message("user", "Where does the water go?")])


@dataclass
class Outcome:
    """What a call gave: its pieces, and the error that ended it."""

    pieces: list[Piece] = field(default_factory=list)
    error: ProviderError | None = None

    @property
    def text(self) -> str:
        return fold(self._events).text

    @property
    def reasoning(self) -> str:
        return fold(self._events).reasoning

    @property
    def tool_calls(self) -> list[dict[str, Any]]:
        return fold(self._events).tool_calls

    @property
    def usage(self) -> dict[str, int]:
        """The last one: each replaces the one before."""
        return [piece.counts for piece in self.pieces if isinstance(piece, Usage)][-1]

    @property
    def finish(self) -> str | None:
        """The reason, if the last piece is the end."""
        last = self.pieces[-1] if self.pieces else None
        return last.reason if isinstance(last, Finish) else None

    @property
    def code(self) -> str | None:
        return self.error.code if self.error else None

    @property
    def _events(self) -> list[Token | Reasoning | ToolCall]:
        return [piece for piece in self.pieces if isinstance(piece, Token | Reasoning | ToolCall)]


async def call_it(provider: Provider, call: Call = CALL, **changes: Any) -> Outcome:
    """Everything that one call gives. Any exception but ProviderError fails the test, as the contract says."""
    outcome = Outcome()

    def take(piece: Piece) -> bool:
        outcome.pieces.append(piece)
        return False

    async with asyncio.timeout(LIMIT_S):
        try:
            await pour(provider, replace(call, **changes), take)
        except ProviderError as error:
            outcome.error = error
    return outcome


async def leave(provider: Provider, server: ProviderServer, *, by: str, model: str = CALL.model) -> Request:
    """Start a call, leave it by `cancel` or `close` where the server has fallen silent, and wait for what it sees."""
    pieces = provider.stream(replace(CALL, model=model))
    async with asyncio.timeout(LIMIT_S):
        if by == "close":
            await anext(pieces)
            await pieces.aclose()
        else:
            task = asyncio.ensure_future(_exhaust(pieces))
            await server.received(1)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert task.cancelled()
        request = await server.received(1)
        await request.left.wait()
    return request


async def _exhaust(pieces: Any) -> None:
    async with aclosing(pieces):
        async for _ in pieces:
            pass


def said(call: Call = CALL, tokens: int = 24) -> str:
    """What the local provider answers to a call."""
    return answer(call.model, [(message.role, str(message.content)) for message in call.messages], tokens)


def brisk_settings(**changes: Any) -> Settings:
    """Settings under which a silent server is given up soon, and a busy machine still is none."""
    return Settings(first_token_timeout_s=0.2, between_token_timeout_s=0.2, **changes)


def _row(situation: str, behaviour: Behaviour, code: str) -> Any:
    return pytest.param(behaviour, code, id=situation)


def failures(*, gateway_timeout: str) -> list[Any]:
    """Every situation in which a provider fails: (behaviour, our code). Retryable or not follows from the code."""
    status: Callable[[int], Behaviour] = lambda number: Behaviour(str(number))  # noqa: E731
    return [
        _row("429", status(429), "provider_rate_limited"),
        _row("no quota", Behaviour("quota"), "provider_quota"),
        *(_row(str(number), status(number), "provider_unavailable") for number in (500, 502, 503, 529, 408, 409)),
        _row("504", status(504), gateway_timeout),
        *(_row(str(number), status(number), "provider_rejected") for number in (400, 404, 413, 422)),
        *(_row(str(number), status(number), "provider_auth") for number in (401, 403)),
        _row("402", status(402), "provider_quota"),
        _row("connection refused midway", Behaviour("refuse"), "provider_unavailable"),
        _row("no response head in time", Behaviour("hang"), "provider_timeout"),
        _row("stall before the first token", Behaviour("stall"), "provider_timeout"),
        _row("stall in mid-stream", Behaviour("stall", 3), "provider_timeout"),
        _row("drop before the first token", Behaviour("drop"), "provider_interrupted"),
        _row("drop in mid-stream", Behaviour("drop", 3), "provider_interrupted"),
        _row("early clean end", Behaviour("end", 3), "provider_interrupted"),
        _row("malformed frame", Behaviour("garbage", 3), "provider_protocol"),
        _row("error frame", Behaviour("error", 3), "provider_unavailable"),
        _row("a gateway's page", Behaviour("page"), "provider_protocol"),
    ]
