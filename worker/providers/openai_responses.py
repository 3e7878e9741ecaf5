"""OpenAI's Responses API in background mode: a generation that goes on without us and can be read on by anybody.

`position` is the API's `sequence_number` of the last event whose pieces have gone out.
"""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from functools import partial
from typing import Any

import msgspec

from shared.errors import ProviderError
from shared.events import clean_text
from shared.jobs import Upstream
from worker.providers import failures, wire
from worker.providers.base import Call, Finish, FinishReason, Piece, UpstreamLostError, Usage
from worker.providers.openai_input import body
from worker.providers.pieces import Pieces, count_tokens

_LONGEST_ID = 200
_CALLS = {"function_call", "custom_tool_call"}
_INCOMPLETE: dict[str, FinishReason] = {"max_output_tokens": "length", "content_filter": "content_filter"}


class _Item(msgspec.Struct):
    type: str | None = None
    id: Any = None
    call_id: Any = None
    name: Any = None
    arguments: Any = None
    input: Any = None


class _InputDetails(msgspec.Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _InputDetails | None = None
    output_tokens_details: _OutputDetails | None = None


class _Incomplete(msgspec.Struct):
    reason: str | None = None


class _Response(msgspec.Struct):
    id: str | None = None
    status: str | None = None
    error: Any = None
    incomplete_details: _Incomplete | None = None
    usage: _Usage | None = None
    output: list[_Item] | None = None


class _Event(msgspec.Struct):
    type: str = ""
    sequence_number: int | None = None
    response: _Response | None = None
    output_index: int | None = None
    summary_index: int | None = None
    item_id: str | None = None
    item: _Item | None = None
    delta: Any = None
    code: Any = None
    error: Any = None


_decoder = msgspec.json.Decoder(_Event)


class _Answer:
    """One generation as its events come in: from its beginning, or from where `upstream` stands."""

    def __init__(self, request_id: str | None, upstream: Upstream | None = None) -> None:
        self._pieces = Pieces()
        self._request_id = request_id
        self._upstream = upstream
        self._id = upstream.id if upstream else ""
        self._position = upstream.position if upstream else -1
        self._waiting: list[Piece] = []
        self._tools = False
        self._reason: FinishReason | None = None
        self._usage: Usage | None = None

    @property
    def patience_s(self) -> float | None:
        """After the last event only the end of the response comes."""
        return None if self._reason is None else 0.1

    def feed(self, data: bytes) -> Iterator[Piece]:
        """The pieces in one event and, where they are whole, the position that covers them.

        What the position covers already is read again, for what it leaves behind, and gives nothing. ProviderError for
        an event that reports an error, msgspec's and json's errors for garbage.
        """
        if data == b"[DONE]":
            return
        event = wire.decode(data, _decoder)
        if event.response is not None and not self._id and len(event.response.id or "") <= _LONGEST_ID:
            self._id = clean_text(event.response.id or "")
        # All of an event's pieces at once: an error among them must not leave some shown and not covered.
        pieces = list(self._read(event))
        place = event.sequence_number
        if place is not None and place <= self._position:
            return
        self._waiting += pieces
        # The last event is not covered: whoever reads on after it would wait for an end that has been.
        if self._reason is None and (self._pieces.whole or not self._id):
            yield from self._waiting
            self._waiting = []
            if place is not None and self._id:
                self._position = place
                yield Upstream(self._id, place, stateful=self._tools)

    def finish(self) -> Iterator[Piece]:
        """The pieces at the end. ProviderError(provider_interrupted) if the last event was not seen."""
        if self._reason is None:
            raise ProviderError("provider_interrupted", detail="the stream ended without response.completed")
        yield from self._waiting
        yield from self._pieces.rest()
        if self._usage is not None:
            yield self._usage
        yield Finish(self._reason)

    def _read(self, event: _Event) -> Iterator[Piece]:
        match event.type:
            case "response.output_text.delta" | "response.refusal.delta":
                yield from self._pieces.token(event.delta)
            case "response.reasoning_summary_text.delta" | "response.reasoning_text.delta":
                yield from self._pieces.reasoning(event.delta)
            case "response.reasoning_summary_part.added" if event.summary_index:
                yield from self._pieces.reasoning("\n\n")
            case "response.output_item.added" if event.item is not None and event.item.type in _CALLS:
                self._tools = True
                item = event.item
                yield from self._pieces.tool_call(_key(event), item.call_id, item.name, item.arguments or item.input)
            case "response.function_call_arguments.delta" | "response.custom_tool_call_input.delta":
                self._tools = True
                yield from self._pieces.tool_call(_key(event), None, None, event.delta)
            case "response.completed" | "response.incomplete" | "response.failed" | "response.cancelled":
                self._end(event.type.removeprefix("response."), event.response or _Response())
            case "error":
                raise self._broken(event)

    def _end(self, how: str, response: _Response) -> None:
        if how == "failed":
            error = failures.reported(response.error, request_id=self._request_id)
            raise UpstreamLostError(error.code, detail=error.detail)
        if "cancelled" in (how, response.status):
            raise UpstreamLostError("provider_interrupted", detail="cancelled at the provider")
        if how == "completed":
            called = self._tools or any(item.type in _CALLS for item in response.output or ())
            self._reason = "tool_calls" if called else "stop"
        else:
            self._reason = _INCOMPLETE.get((response.incomplete_details or _Incomplete()).reason or "", "other")
        if response.usage is not None:
            self._usage = _usage(response.usage)

    def _broken(self, event: _Event) -> ProviderError:
        """An error in the stream may be the connection's or the generation's: the latter comes again at once."""
        error = failures.reported(event.error or {"code": event.code}, request_id=self._request_id)
        if self._upstream is not None and self._position == self._upstream.position:
            return UpstreamLostError(error.code, detail=error.detail)
        return error


def _key(event: _Event) -> int | str:
    return event.output_index if event.output_index is not None else event.item_id or 0


def _usage(usage: _Usage) -> Usage:
    inputs, outputs = usage.input_tokens_details or _InputDetails(), usage.output_tokens_details or _OutputDetails()
    return count_tokens(
        usage.input_tokens,
        usage.output_tokens,
        cache_read=inputs.cached_tokens,
        cache_write=inputs.cache_write_tokens,
        reasoning=outputs.reasoning_tokens,
    )


async def begin(responses: Any, call: Call) -> AsyncGenerator[Piece, None]:
    """A new generation. `responses`: the SDK's resource of that name."""
    create = responses.with_streaming_response.create
    async with aclosing(wire.answer(lambda: create(**body(call)), _Answer)) as pieces:
        async for piece in pieces:
            yield piece


async def read_on(responses: Any, upstream: Upstream) -> AsyncGenerator[Piece, None]:
    """What comes after `upstream`. UpstreamLostError where the provider has no such generation (any more)."""
    after = {} if upstream.stateful or upstream.position < 0 else {"starting_after": upstream.position}
    request = partial(responses.with_streaming_response.retrieve, upstream.id, stream=True, **after)
    read = partial(_Answer, upstream=upstream)
    try:
        async with aclosing(wire.answer(request, read)) as pieces:
            async for piece in pieces:
                yield piece
    except UpstreamLostError:
        raise
    except ProviderError as error:
        if error.code == "provider_rejected":
            raise UpstreamLostError("provider_interrupted", detail=error.detail) from None
        raise


async def cancel(responses: Any, upstream: Upstream) -> None:
    """End a generation. ProviderError where the provider does not answer, or refuses."""
    try:
        async with responses.with_streaming_response.cancel(upstream.id):
            pass  # what it answers is the whole generation, which nobody wants any more
    except Exception as error:
        raise failures.classify(error, started=False) from None
