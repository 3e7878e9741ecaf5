"""What a provider is: an adapter that turns one request into a stream of pieces, and its errors into ours."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from shared.events import Reasoning, Token, ToolCall
from shared.jobs import Message

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "other"]


@dataclass(frozen=True, slots=True)
class Call:
    """One call to a model. `continue_text`: text of an interrupted attempt that the model is to go on from."""

    job_id: str
    model: str
    messages: list[Message]
    attempt: int = 1
    system: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    params: dict[str, Any] = field(default_factory=dict)
    continue_text: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts so far, by OpenTelemetry-like names (input_tokens, output_tokens, …). A later one replaces it."""

    counts: dict[str, int]


@dataclass(frozen=True, slots=True)
class Finish:
    """The provider's own end mark was seen. A stream that ends without one is a failed attempt."""

    reason: FinishReason


Piece = Token | Reasoning | ToolCall | Usage | Finish


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
