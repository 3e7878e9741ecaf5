"""The `openai` provider: chat completions of OpenAI and of every server that speaks its protocol.

With `params.background` it speaks OpenAI's Responses API instead (openai_responses.py).
"""

from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from typing import Any

import httpx2
import msgspec
from openai import AsyncOpenAI, DefaultAioHttpClient

from shared.errors import ProviderError
from shared.jobs import Upstream
from shared.settings import Settings
from worker.providers import failures, openai_responses, outward, wire
from worker.providers.base import Call, Finish, FinishReason, Piece, Usage, drain
from worker.providers.credentials import NO_KEYS, Clients, ProviderKeys, credentials
from worker.providers.pieces import Pieces, conversation, count_tokens

_OFFICIAL = "https://api.openai.com/v1"
_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    refusal: str | None = None
    # Not OpenAI's: DeepSeek and older vLLM say `reasoning_content`, vLLM and OpenRouter `reasoning`.
    reasoning_content: Any = None
    reasoning: Any = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct, gc=False):
    index: int | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Details(msgspec.Struct, gc=False):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


_decoder = msgspec.json.Decoder(_Chunk)


class _Answer:
    """One answer as its chunks come in."""

    def __init__(self, request_id: str | None) -> None:
        self._pieces = Pieces()
        self._request_id = request_id
        self._reason: FinishReason | None = None
        self._usage: Usage | None = None
        self._over = False

    @property
    def patience_s(self) -> float | None:
        """After the finish reason the usage may still come; after `[DONE]` only the end of the response."""
        if self._over:
            return 0.1
        return None if self._reason is None else 5.0

    def feed(self, data: bytes) -> Sequence[Piece]:
        """The pieces in one frame. ProviderError for an error frame, msgspec's and json's errors for garbage."""
        if data == b"[DONE]":
            self._over = True
            return ()
        pieces: list[Piece] = []
        chunk = wire.decode(data, _decoder)
        if chunk.error:
            raise failures.reported(chunk.error, request_id=self._request_id)
        for choice in chunk.choices or ():
            if choice.delta is not None and not choice.index:
                self._delta(choice.delta, pieces)
            if choice.finish_reason and not choice.index:
                self._reason = _REASONS.get(choice.finish_reason, "other")
        if chunk.usage is not None:
            self._usage = _usage(chunk.usage)
        return pieces

    def finish(self) -> Iterator[Piece]:
        """The pieces at the end. ProviderError(provider_interrupted) if no finish reason was seen."""
        if self._reason is None:
            raise ProviderError("provider_interrupted", detail="the stream ended without a finish_reason")
        yield from self._pieces.rest()
        if self._usage is not None:
            yield self._usage
        yield Finish(self._reason)

    def _delta(self, delta: _Delta, pieces: list[Piece]) -> None:
        reasoning = delta.reasoning_content or delta.reasoning
        if reasoning is not None:
            pieces += self._pieces.reasoning(reasoning)
        pieces += self._pieces.token(delta.content)
        if delta.refusal is not None:
            pieces += self._pieces.token(delta.refusal)
        for position, call in enumerate(delta.tool_calls or ()):
            function = call.function or _Function()
            key = position if call.index is None else call.index
            pieces += self._pieces.tool_call(key, call.id, function.name, function.arguments)


def _usage(usage: _Usage) -> Usage:
    inputs, outputs = usage.prompt_tokens_details or _Details(), usage.completion_tokens_details or _Details()
    return count_tokens(
        usage.prompt_tokens,
        usage.completion_tokens,
        cache_read=inputs.cached_tokens,
        cache_write=inputs.cache_write_tokens,
        reasoning=outputs.reasoning_tokens,
    )


class OpenAIProvider:
    """Talks through the official SDK; one client for each key, and one connection pool for all of them."""

    name = "openai"

    def __init__(self, settings: Settings, keys: ProviderKeys = NO_KEYS) -> None:
        self._settings = settings
        self._http: httpx2.AsyncClient | None = None
        self.clients = Clients("openai", keys, self._connect)
        # Made here where it can be: this runs in a thread, and certificates and resources take a while to load.
        with suppress(Exception):  # the first call will say it better
            self._create(self.clients.of(""))

    def stream(self, call: Call) -> AsyncGenerator[Piece, None]:
        """The pieces of one answer; see Provider.stream."""
        if call.params.get("background"):
            return self._background(call)
        return wire.answer(lambda: self._request(call), _Answer)

    async def pour(self, call: Call, take: Callable[[Piece], bool]) -> None:
        """The same without a task's turn for each piece; see Pours."""
        if call.params.get("background"):
            await drain(self._background(call), take)
        else:
            await wire.pour(lambda: self._request(call), _Answer, take)

    async def _background(self, call: Call) -> AsyncGenerator[Piece, None]:
        resource = self.clients.of(call.tenant).responses
        upstream = call.upstream
        stream = (
            openai_responses.begin(resource, call) if upstream is None else openai_responses.read_on(resource, upstream)
        )
        async with aclosing(stream) as pieces:
            async for piece in pieces:
                yield piece

    async def cancel(self, upstream: Upstream, tenant: str) -> None:
        """End a generation in the background; see Cancels."""
        await openai_responses.cancel(self.clients.of(tenant).responses, upstream)

    async def aclose(self) -> None:
        """Close the connections."""
        if self._http is not None:
            await self._http.aclose()

    def _create(self, client: AsyncOpenAI) -> Any:
        """The SDK's method that opens a raw response."""
        return client.chat.completions.with_streaming_response.create

    def _request(self, call: Call) -> AbstractAsyncContextManager[wire.Response]:
        client = self.clients.of(call.tenant)
        create = self._create(client)
        official = str(client.base_url).startswith(_OFFICIAL)
        body = _body(call, official=official)
        # As `extra_body`, which the SDK sends as it is: looking for names to translate in the messages, of which none
        # need it, costs it a quarter of the call.
        request: AbstractAsyncContextManager[wire.Response] = create(
            model=call.model, messages=[], stream=True, extra_body=body
        )
        return request

    def _connect(self, own_key: str | None) -> AsyncOpenAI:
        key, base_url = credentials("openai", own_key)
        base_url, headers = wire.without_user(base_url or _OFFICIAL)
        if self._http is None:
            self._http = outward.without_cookies(DefaultAioHttpClient(**outward.pool(self._settings)))
        client = AsyncOpenAI(
            api_key=key, base_url=base_url, default_headers=headers, max_retries=0, http_client=self._http
        )
        if own_key is not None:
            client.organization = client.project = None  # the environment's are the installation's
        return client


def _body(call: Call, *, official: bool) -> dict[str, Any]:
    messages = [msgspec.to_builtins(message) for message in conversation(call)]
    if call.system is not None:
        messages.insert(0, {"role": "system", "content": call.system})
    body: dict[str, Any] = {
        **{name: value for name, value in call.params.items() if name != "background"},
        "model": call.model,
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if call.temperature is not None:
        body["temperature"] = call.temperature
    if call.max_tokens is not None:
        # OpenAI's newer models refuse the old name; most other servers know no other.
        body["max_completion_tokens" if official else "max_tokens"] = call.max_tokens
    return body
