"""The `anthropic` provider: Anthropic's messages, and every server that speaks their protocol."""

import json
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any

import httpx2
import msgspec
from anthropic import AsyncAnthropic, DefaultAioHttpClient

from shared.errors import ProviderError
from shared.settings import Settings
from worker.providers import failures, outward, wire
from worker.providers.anthropic_messages import SAMPLING, SAMPLING_HEADERS, convert
from worker.providers.base import Call, Finish, FinishReason, Piece
from worker.providers.credentials import NO_KEYS, Clients, ProviderKeys, credentials
from worker.providers.pieces import Pieces, conversation, count_tokens

_OFFICIAL = "https://api.anthropic.com"
_REASONS: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


class _OutputDetails(msgspec.Struct):
    thinking_tokens: int | None = None


class _Usage(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    output_tokens_details: _OutputDetails | None = None


class _Message(msgspec.Struct):
    usage: _Usage | None = None


class _Block(msgspec.Struct):
    type: str = ""
    id: str | None = None
    name: str | None = None
    input: Any = None
    text: str | None = None
    thinking: str | None = None


class _Delta(msgspec.Struct):
    type: str = ""
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None


class _Event(msgspec.Struct):
    type: str = ""
    index: int = 0
    message: _Message | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: _Usage | None = None
    error: Any = None


_decoder = msgspec.json.Decoder(_Event)


class _Answer:
    """One answer as its events come in."""

    def __init__(self, request_id: str | None) -> None:
        self._pieces = Pieces()
        self._request_id = request_id
        self._usage = _Usage()
        self._reason: FinishReason = "other"
        self._tools: set[int] = set()  # the content blocks that are calls of the client's tools
        self._over = False

    @property
    def patience_s(self) -> float | None:
        """After `message_stop` only the end of the response can come."""
        return 0.1 if self._over else None

    def feed(self, data: bytes) -> Iterator[Piece]:
        """The pieces in one frame. ProviderError for an error event, msgspec's and json's errors for garbage."""
        event = wire.decode(data, _decoder)
        match event.type:
            case "message_start":
                yield from self._count(event.message.usage if event.message else None)
            case "content_block_start":
                yield from self._block(event.index, event.content_block or _Block())
            case "content_block_delta":
                yield from self._delta(event.index, event.delta or _Delta())
            case "message_delta":
                if event.delta and event.delta.stop_reason:
                    self._reason = _REASONS.get(event.delta.stop_reason, "other")
                yield from self._count(event.usage)
            case "message_stop":
                self._over = True
            case "error":
                raise failures.reported(event.error, request_id=self._request_id)

    def finish(self) -> Iterator[Piece]:
        """The pieces at the end. ProviderError(provider_interrupted) if no `message_stop` was seen."""
        if not self._over:
            raise ProviderError("provider_interrupted", detail="the stream ended without message_stop")
        yield from self._pieces.rest()
        yield Finish(self._reason)

    def _block(self, index: int, block: _Block) -> Iterator[Piece]:
        match block.type:
            case "text":
                yield from self._pieces.token(block.text)
            case "thinking":
                yield from self._pieces.reasoning(block.thinking)
            case "tool_use":
                # Real servers start with an empty input and stream it; some others give it whole.
                arguments = json.dumps(block.input) if block.input else ""
                self._tools.add(index)
                yield from self._pieces.tool_call(index, block.id, block.name, arguments)

    def _delta(self, index: int, delta: _Delta) -> Iterator[Piece]:
        match delta.type:
            case "text_delta":
                yield from self._pieces.token(delta.text)
            case "thinking_delta":
                yield from self._pieces.reasoning(delta.thinking)
            case "input_json_delta" if index in self._tools:  # not those of tools that run at Anthropic's
                yield from self._pieces.tool_call(index, None, None, delta.partial_json)

    def _count(self, usage: _Usage | None) -> Iterator[Piece]:
        """Counts are cumulative: what comes later replaces, what is missing stays. Cached input is counted apart."""
        if usage is None:
            return
        for name in _Usage.__struct_fields__:
            if getattr(usage, name) is not None:
                setattr(self._usage, name, getattr(usage, name))
        now = self._usage
        cached = (now.cache_read_input_tokens or 0) + (now.cache_creation_input_tokens or 0)
        yield count_tokens(
            (now.input_tokens or 0) + cached,
            now.output_tokens,
            cache_read=now.cache_read_input_tokens,
            cache_write=now.cache_creation_input_tokens,
            reasoning=now.output_tokens_details.thinking_tokens if now.output_tokens_details else None,
        )


class AnthropicProvider:
    """Talks through the official SDK; one client for each key, and one connection pool for all of them."""

    name = "anthropic"

    def __init__(self, settings: Settings, keys: ProviderKeys = NO_KEYS) -> None:
        self._settings = settings
        self._http: httpx2.AsyncClient | None = None
        self.clients = Clients("anthropic", keys, self._connect)
        # Made here where it can be: this runs in a thread, and certificates and resources take a while to load.
        with suppress(Exception):  # the first call will say it better
            self._create("")

    def stream(self, call: Call) -> AsyncGenerator[Piece, None]:
        """The pieces of one answer; see Provider.stream."""
        return wire.answer(lambda: self._request(call), _Answer)

    async def pour(self, call: Call, take: Callable[[Piece], bool]) -> None:
        """The same without a task's turn for each piece; see Pours."""
        await wire.pour(lambda: self._request(call), _Answer, take)

    async def aclose(self) -> None:
        """Close the connections."""
        if self._http is not None:
            await self._http.aclose()

    def _create(self, tenant: str) -> Any:
        """The SDK's method that opens a raw response."""
        return self.clients.of(tenant).messages.with_streaming_response.create

    def _request(self, call: Call) -> AbstractAsyncContextManager[wire.Response]:
        request: AbstractAsyncContextManager[wire.Response] = self._create(call.tenant)(**self._body(call))
        return request

    def _connect(self, own_key: str | None) -> AsyncAnthropic:
        key, base_url = credentials("anthropic", own_key)
        base_url, headers = wire.without_user(base_url or _OFFICIAL)
        if self._http is None:
            self._http = outward.without_cookies(DefaultAioHttpClient(**outward.pool(self._settings)))
        return AsyncAnthropic(
            api_key=key, base_url=base_url, default_headers=headers, max_retries=0, http_client=self._http
        )

    def _body(self, call: Call) -> dict[str, Any]:
        system, messages = convert(conversation(call), call.system)
        asked = dict(call.params) | ({} if call.temperature is None else {"temperature": call.temperature})
        body: dict[str, Any] = {
            **{name: value for name, value in asked.items() if name not in SAMPLING},
            "model": call.model,
            "messages": messages,
            "max_tokens": call.max_tokens or self._settings.anthropic_max_tokens,
            "stream": True,
        }
        if system:
            body["system"] = system
        if sampling := {name: value for name, value in asked.items() if name in SAMPLING}:
            body |= {"extra_body": sampling, "extra_headers": SAMPLING_HEADERS}
        return body
