"""What a provider is: an adapter that turns one request into a stream of pieces, and its errors into ours."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from shared.errors import ProviderError
from shared.events import Reasoning, Token, ToolCall
from shared.jobs import Message, Upstream

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "other"]


@dataclass(frozen=True, slots=True)
class Call:
    """One call to a model. `continue_text`: text of an interrupted attempt that the model is to go on from.

    `upstream`: a generation under way that is to be read on instead of beginning one; then nothing else here counts.
    """

    job_id: str
    model: str
    messages: list[Message]
    attempt: int = 1
    system: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    params: dict[str, Any] = field(default_factory=dict)
    continue_text: str = ""
    upstream: Upstream | None = None
    tenant: str = ""
    """Whose own key is taken, where the installation has one for it."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts so far, by OpenTelemetry-like names (input_tokens, output_tokens, …). A later one replaces it."""

    counts: dict[str, int]


@dataclass(frozen=True, slots=True)
class Finish:
    """The provider's own end mark was seen. A stream that ends without one is a failed attempt."""

    reason: FinishReason


Piece = Token | Reasoning | ToolCall | Usage | Finish | Upstream
"""An `Upstream` comes right behind the pieces that it covers: between them the stream never waits for anything."""


class UpstreamLostError(ProviderError):
    """The generation that was read has come to nothing, or the provider does not know it any more."""


class StillWorkingError(ProviderError):
    """Nothing has come for long of a generation that the provider keeps: it may think. It is asked again, and neither
    counted as a failure nor held against the provider."""

    def __init__(self) -> None:
        super().__init__("provider_timeout", detail="nothing came of a generation that goes on")


class Provider(Protocol):
    """One per name and process; shared by all jobs of the worker.

    `stream` yields pieces in the order the model gave them. It raises ProviderError and nothing else of its
    vendor's; it closes the connection when it is closed or cancelled. It knows no time-outs and makes no retries:
    the caller owns both.
    """

    name: str

    def stream(self, call: Call) -> AsyncGenerator[Piece, None]:
        """The pieces of one answer."""
        ...

    async def aclose(self) -> None:
        """Give back what the provider holds."""
        ...


@runtime_checkable
class Pours(Protocol):
    """A provider that can hand out pieces without a task's turn for each. A short cut to `stream`, with one meaning."""

    async def pour(self, call: Call, take: Callable[[Piece], bool]) -> None:
        """Give each piece of one answer to `take`; what that raises, a TailraceError, ends the answer."""
        ...


async def pour(provider: Provider, call: Call, take: Callable[[Piece], bool]) -> None:
    """Give each piece of one answer to `take`, which says whether others in the loop should have their turn then."""
    if isinstance(provider, Pours):
        await provider.pour(call, take)
    else:
        await drain(provider.stream(call), take)


async def drain(stream: AsyncGenerator[Piece, None], take: Callable[[Piece], bool]) -> None:
    """Give each piece of `stream` to `take`, and close it however this ends."""
    async with aclosing(stream) as pieces:
        async for piece in pieces:
            if take(piece):
                # An SDK hands out what it has read without a pause: let the first token go, and others run.
                await asyncio.sleep(0)


@runtime_checkable
class Cancels(Protocol):
    """A provider whose generations go on when nobody reads them."""

    async def cancel(self, upstream: Upstream, tenant: str) -> None:
        """End a generation of `tenant` that nobody wants any more. ProviderError where the provider cannot be told."""
        ...
