"""Calls to providers go where the environment says and nowhere else, and no reply can fill a worker's memory."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from shared.errors import ProviderError
from shared.settings import Settings
from tests.support.loops import until
from tests.support.provider_calls import CALL, Outcome, call_it
from worker.providers import outward, wire
from worker.providers.anthropic import AnthropicProvider
from worker.providers.langchain import LangChainProvider
from worker.providers.openai import OpenAIProvider
from worker.providers.pieces import MOST_CALLS, Pieces
from worker.providers.registry import build_providers

ADAPTERS = ["openai", "anthropic", "langchain: openai", "langchain: anthropic"]
SECRET = "sk-canary-0123456789"
Reply = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Server:
    """A port that answers every request alike. `heads`: the requests' heads; `left`: connections that were closed."""

    port: int = 0
    heads: list[str] = field(default_factory=list)
    left: int = 0


@asynccontextmanager
async def serving(reply: Reply) -> AsyncIterator[Server]:
    """Such a server for the length of a block."""
    server, tasks = Server(), set[asyncio.Task[None] | None]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                server.heads.append(head.lower())
                length = next(line for line in head.lower().split("\r\n") if line.startswith("content-length:"))
                await reader.readexactly(int(length.partition(":")[2]))
                await reply(writer)
                await writer.drain()
        server.left += 1
        writer.transport.abort()

    listening = await asyncio.start_server(serve, "localhost", 0)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        for task in filter(None, tasks):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def whole(status: int, body: bytes = b"", **headers: str) -> Reply:
    """One reply of known length."""
    lines = [f"HTTP/1.1 {status} S", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]

    async def reply(writer: asyncio.StreamWriter) -> None:
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)

    return reply


def endless(status: int, piece: bytes, **headers: str) -> Reply:
    """A reply that never ends, until nobody takes it any more."""
    lines = [f"HTTP/1.1 {status} S", "transfer-encoding: chunked"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]

    async def reply(writer: asyncio.StreamWriter) -> None:
        writer.write("\r\n".join([*lines, "", ""]).encode())
        while True:
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            await writer.drain()

    return reply


async def ask(monkeypatch: pytest.MonkeyPatch, adapter: str, server: Server, calls: int = 1) -> Outcome:
    """The outcome of the last of `calls` to a vendor that is said to be at `server`."""
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://localhost:{server.port}/v1")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", f"http://localhost:{server.port}")
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("ANTHROPIC_API_KEY", SECRET)
    name, _, model = adapter.partition(": ")
    kinds: dict[str, Any] = {"openai": OpenAIProvider, "anthropic": AnthropicProvider, "langchain": LangChainProvider}
    async with aclosing(kinds[name](Settings())) as provider:
        for _ in range(calls):
            outcome = await call_it(provider, model=f"{model}:m" if model else "m")
    assert SECRET not in f"{outcome.error} {outcome.error and outcome.error.detail}"
    return outcome


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("adapter", ADAPTERS)
async def test_a_redirect_is_not_followed(monkeypatch: pytest.MonkeyPatch, adapter: str, status: int) -> None:
    async with serving(whole(200)) as elsewhere:
        location = f"http://localhost:{elsewhere.port}/v1/chat/completions"
        async with serving(whole(status, b"moved", location=location)) as server:
            outcome = await ask(monkeypatch, adapter, server)
        assert outcome.code == "provider_not_configured"
        assert outcome.error is not None
        assert "redirected" in outcome.error.message
        assert (len(server.heads), elsewhere.heads) == (1, [])


@pytest.mark.parametrize("adapter", ADAPTERS)
async def test_between_building_a_request_and_sending_it_others_have_their_turn(
    monkeypatch: pytest.MonkeyPatch, adapter: str
) -> None:
    pause, in_time = outward._pause, list[bool]()

    async def watched(request: Any) -> None:
        others: list[str] = []
        asyncio.get_running_loop().call_soon(others.append, "had a turn")
        await pause(request)
        in_time.append(bool(others) and not server.heads)

    monkeypatch.setattr(outward, "_pause", watched)
    async with serving(whole(401)) as server:
        await ask(monkeypatch, adapter, server)
    assert (in_time, len(server.heads)) == ([True], 1)


@pytest.mark.parametrize("adapter", ADAPTERS)
async def test_a_compressed_answer_is_refused_and_none_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, adapter: str
) -> None:
    bomb = gzip.compress(b"data: " + bytes(50_000_000))
    async with serving(whole(200, bomb, content_type="text/event-stream", content_encoding="gzip")) as server:
        assert (await ask(monkeypatch, adapter, server)).code == "provider_protocol"
    assert "accept-encoding: identity" in server.heads[0]


@pytest.mark.parametrize("adapter", ADAPTERS)
async def test_an_errors_body_is_read_to_its_bound_and_its_status_still_counts(
    monkeypatch: pytest.MonkeyPatch, adapter: str
) -> None:
    async with serving(endless(429, b"x" * 8192, content_type="application/json")) as server:
        assert (await ask(monkeypatch, adapter, server)).code == "provider_rate_limited"
        await until(lambda: server.left == 1)
    bomb = gzip.compress(bytes(50_000_000))
    async with serving(whole(401, bomb, content_encoding="gzip")) as server:
        assert (await ask(monkeypatch, adapter, server)).code == "provider_auth"


@pytest.mark.parametrize("piece", [b"data: " + b"x" * 8000, b"data: " + b"x" * 8000 + b"\n"], ids=["line", "lines"])
@pytest.mark.parametrize("adapter", ADAPTERS)
async def test_a_frame_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch, adapter: str, piece: bytes) -> None:
    monkeypatch.setattr(outward, "MAX_FRAME_BYTES", 200_000)
    monkeypatch.setattr(wire, "MAX_FRAME_BYTES", 200_000)
    async with serving(endless(200, piece, content_type="text/event-stream")) as server:
        assert (await ask(monkeypatch, adapter, server)).code == "provider_protocol"
        await until(lambda: server.left == 1)


@pytest.mark.parametrize("media_type", ["application/json", "text/html", "text/plain", "image/png"])
@pytest.mark.parametrize("adapter", ["openai", "anthropic"])
async def test_only_an_event_stream_is_taken_for_one(
    monkeypatch: pytest.MonkeyPatch, adapter: str, media_type: str
) -> None:
    body = b'data: {"choices": [{"delta": {"content": "x"}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
    async with serving(whole(200, body, content_type=media_type)) as server:
        assert (await ask(monkeypatch, adapter, server)).code == "provider_protocol"


@pytest.mark.parametrize("adapter", ADAPTERS)
async def test_a_providers_cookie_is_not_sent_with_the_next_call(monkeypatch: pytest.MonkeyPatch, adapter: str) -> None:
    async with serving(whole(500, b"{}", set_cookie="session=of-another; Path=/")) as server:
        await ask(monkeypatch, adapter, server, calls=2)
    assert len(server.heads) == 2
    assert not [head for head in server.heads if "\r\ncookie:" in head]


def test_a_long_line_costs_its_length_and_not_its_square() -> None:
    decoder = wire.Decoder()
    piece = b"x" * 1000
    assert decoder.feed(b"data: ") == []
    for _ in range(10_000):
        assert decoder.feed(piece) == []
    assert len(decoder._more) == 10_001  # the pieces wait to be joined
    assert decoder.feed(b"\n\n") == [piece * 10_000]
    assert decoder.feed(b"data: y\n\n") == [b"y"]


@pytest.mark.parametrize("field", ["id", "name"])
def test_a_tool_calls_name_of_a_megabyte_is_garbage(field: str) -> None:
    names = {"id": "a", "name": "f", field: "x" * 1_000_000}
    with pytest.raises(ProviderError) as caught:
        Pieces().tool_call(0, names["id"], names["name"], "")
    assert caught.value.code == "provider_protocol"
    pieces = Pieces()
    for number in range(MOST_CALLS):
        pieces.tool_call(number, None, None, None)
    with pytest.raises(ProviderError):
        pieces.tool_call(MOST_CALLS, None, None, None)


@pytest.mark.parametrize(
    "name", ["base_url", "api_key", "extra_headers", "extra_body", "extra_query", "timeout", "model"]
)
@pytest.mark.parametrize("provider", ["openai", "anthropic", "langchain"])
async def test_an_option_of_the_transport_reaches_no_adapter_even_from_the_store(provider: str, name: str) -> None:
    outcome = await call_it(build_providers(Settings())[provider], params={name: "http://169.254.169.254/"})
    assert outcome.code == "provider_rejected"
    assert CALL.params == {}
