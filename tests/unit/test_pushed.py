"""Taking a body's bytes as they come: what it leans on in aiohttp and in the SDKs, and how it ends."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import openai
import pytest
from aiohttp import ClientPayloadError, StreamReader
from aiohttp.base_protocol import BaseProtocol
from aiohttp.client_proto import ResponseHandler

from tests.support.loops import end, until
from tests.support.provider_server import ProviderServer
from worker.providers.pushed import FRAMES_A_TURN, Pushing, body_of


def lines(chunk: bytes) -> list[bytes]:
    """Every line is a frame."""
    return chunk.splitlines()


async def at_rest(body: StreamReader) -> None:
    """Return once all that has come was taken: more is being waited for, or there is no more."""
    await until(lambda: body._waiter is not None or body.is_eof())


class Reading:
    """A body that is being read, and what was taken of it."""

    def __init__(self, *, take: Callable[[bytes], None] | None = None, patience_s: float | None = None) -> None:
        loop = asyncio.get_running_loop()
        self.body = StreamReader(BaseProtocol(loop), 2**16, loop=loop)
        self.taken: list[bytes] = []
        self.patience_s = patience_s
        pushing = Pushing(self.body, lines, take or self.taken.append, lambda: self.patience_s)
        self.task = asyncio.create_task(pushing.run())

    async def begun(self) -> None:
        """Return once the body is being waited for."""
        await at_rest(self.body)

    def saw(self, frame: bytes, taken: list[bytes]) -> None:
        """Take a frame, of which `end` makes the answer whole."""
        taken.append(frame)
        if frame == b"end":
            self.patience_s = 60.0

    async def ended(self) -> None:
        async with asyncio.timeout(10):
            await self.task


async def test_bytes_are_taken_in_the_next_turn_without_a_tasks() -> None:
    reading = Reading()
    await reading.begun()
    for number in range(3):
        reading.body.feed_data(b"a\nb")
        assert len(reading.taken) == 2 * number  # aiohttp's parser is at work: nothing may be read from within it
        await until(lambda number=number: len(reading.taken) == 2 * number + 2)  # type: ignore[misc]
    reading.body.feed_eof()
    await reading.ended()


@pytest.mark.parametrize("size", [1, 7, 16, 40])
async def test_an_answer_is_whole_however_the_network_cuts_it(size: int) -> None:
    """Through aiohttp's own parser: chunks of the body need not come in one piece, nor one chunk at a time."""
    said = [b"token %d" % number for number in range(20)]
    sent = b"".join(b"%x\r\n%b\r\n" % (len(line) + 1, line + b"\n") for line in said) + b"0\r\n\r\n"
    handler, body = await _answer()
    taken: list[bytes] = []
    reading = asyncio.create_task(Pushing(body, lines, taken.append, lambda: None).run())
    await at_rest(body)
    for start in range(0, len(sent), size):
        handler.data_received(sent[start : start + size])
        await at_rest(body)
    async with asyncio.timeout(10):
        await reading
    assert b"".join(taken) == b"".join(said)


async def test_what_came_is_let_go_once_it_is_taken() -> None:
    handler, body = await _answer()
    reading = asyncio.create_task(Pushing(body, lines, lambda _: None, lambda: None).run())
    await at_rest(body)
    pieces = [b"4\r\n%03d\n\r\n" % number for number in range(100)]
    before = [sys.getrefcount(piece) for piece in pieces]
    for piece in pieces:
        handler.data_received(piece)
        await at_rest(body)
    assert [sys.getrefcount(piece) for piece in pieces][:-1] == before[:-1]
    await end(reading)


async def _answer() -> tuple[ResponseHandler, StreamReader]:
    """A response in chunks whose head has come, and its body."""
    handler = ResponseHandler(asyncio.get_running_loop())
    handler.connection_made(asyncio.Transport())
    handler.set_response_params(read_until_eof=True, auto_decompress=False)
    handler.data_received(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    _, body = await handler.read()
    return handler, body


async def test_what_came_before_anybody_looked_is_taken_first() -> None:
    reading = Reading()
    reading.body.feed_data(b"a")
    reading.body.feed_data(b"b")
    reading.body.feed_eof()
    await reading.ended()
    assert b"".join(reading.taken) == b"ab"


async def test_of_a_flood_so_much_is_taken_a_turn_and_nothing_is_lost() -> None:
    taken: list[bytes] = []
    turns: list[int] = []
    """How many frames were taken in each turn of the loop."""
    turn_is_over = asyncio.Event()
    turn_is_over.set()

    def take(frame: bytes) -> None:
        taken.append(frame)
        if turn_is_over.is_set():
            turn_is_over.clear()
            turns.append(0)
            asyncio.get_running_loop().call_soon(turn_is_over.set)
        turns[-1] += 1

    reading = Reading(take=take)
    await reading.begun()
    reading.body.feed_data(b"x\n" * 5 * FRAMES_A_TURN)
    reading.body.feed_data(b"y")
    reading.body.feed_eof()
    await reading.ended()
    assert taken == [b"x"] * 5 * FRAMES_A_TURN + [b"y"]
    assert turns == [FRAMES_A_TURN] * 5 + [1]


async def test_what_taking_raises_ends_the_reading() -> None:
    def refuse(_: bytes) -> None:
        raise ValueError("enough")

    reading = Reading(take=refuse)
    await reading.begun()
    reading.body.feed_data(b"a")
    with pytest.raises(ValueError, match="enough"):
        await reading.ended()


async def test_what_came_before_the_connection_broke_may_hold_the_end() -> None:
    taken: list[bytes] = []
    reading = Reading(take=lambda frame: reading.saw(frame, taken))
    await reading.begun()
    reading.body.feed_data(b"x\n" * 3 * FRAMES_A_TURN)
    reading.body.feed_data(b"end")
    reading.body.set_exception(ClientPayloadError("cut"))
    await reading.ended()
    assert len(taken) == 3 * FRAMES_A_TURN + 1


@pytest.mark.parametrize("whole", [False, True])
async def test_a_broken_connection_spoils_only_what_is_not_whole(*, whole: bool) -> None:
    reading = Reading(patience_s=60.0 if whole else None)
    await reading.begun()
    reading.body.feed_data(b"a")
    reading.body.set_exception(ClientPayloadError("cut"))
    if whole:
        await reading.ended()
    else:
        with pytest.raises(ClientPayloadError):
            await reading.ended()
    assert reading.taken == [b"a"]


async def test_silence_after_the_whole_ends_it() -> None:
    reading = Reading()
    await reading.begun()
    reading.patience_s = 0.0
    reading.body.feed_data(b"a")
    await reading.ended()


async def test_a_reading_that_is_cancelled_takes_nothing_more() -> None:
    reading = Reading()
    await reading.begun()
    reading.task.cancel()
    await asyncio.wait([reading.task])
    reading.body.feed_data(b"a")
    assert reading.taken == []
    assert reading.task.cancelled()


@pytest.mark.parametrize("vendor", ["openai", "anthropic"])
async def test_the_body_is_found_under_the_sdks_raw_response(vendor: str) -> None:
    async with ProviderServer() as server, _opened(vendor, server) as response:
        body = body_of(response)
        assert type(body) is StreamReader
        assert hasattr(body, "_waiter")
        assert await body.read()


@asynccontextmanager
async def _opened(vendor: str, server: ProviderServer) -> AsyncIterator[Any]:
    asked: Any = {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True}
    base_url = server.environment[f"{vendor.upper()}_BASE_URL"]
    if vendor == "openai":
        async with (
            openai.AsyncOpenAI(api_key="x", base_url=base_url, http_client=openai.DefaultAioHttpClient()) as client,
            client.chat.completions.with_streaming_response.create(**asked) as response,
        ):
            yield response
    else:
        async with (
            anthropic.AsyncAnthropic(
                api_key="x", base_url=base_url, http_client=anthropic.DefaultAioHttpClient()
            ) as claude,
            claude.messages.with_streaming_response.create(**asked, max_tokens=9) as message,
        ):
            yield message
