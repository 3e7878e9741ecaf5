"""Taking a body's bytes as they come: what it leans on in aiohttp and in the SDKs, and how it ends."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import openai
import pytest
from aiohttp import ClientPayloadError, StreamReader
from aiohttp.base_protocol import BaseProtocol

from tests.support.provider_server import ProviderServer
from worker.providers.pushed import FRAMES_A_TURN, Pushing, body_of


def lines(chunk: bytes) -> list[bytes]:
    """Every line is a frame."""
    return chunk.splitlines()


class Reading:
    """A body that is being read, and what was taken of it."""

    def __init__(self, *, take: Callable[[bytes], None] | None = None, patience_s: float | None = None) -> None:
        loop = asyncio.get_running_loop()
        self.body = StreamReader(BaseProtocol(loop), 2**16, loop=loop)
        self.taken: list[bytes] = []
        self.patience_s = patience_s
        pushing = Pushing(self.body, lines, take or self.taken.append, lambda: self.patience_s)
        self.task = asyncio.create_task(pushing.run())

    async def ended(self) -> None:
        async with asyncio.timeout(10):
            await self.task


async def test_bytes_are_taken_in_the_very_turn_in_which_they_come() -> None:
    reading = Reading()
    await asyncio.sleep(0)
    for number in range(3):
        reading.body.feed_data(b"a\nb")
        assert len(reading.taken) == 2 * number + 2
    reading.body.feed_eof()
    await reading.ended()


async def test_what_came_before_anybody_looked_is_taken_first() -> None:
    reading = Reading()
    reading.body.feed_data(b"a")
    reading.body.feed_data(b"b")
    reading.body.feed_eof()
    await reading.ended()
    assert b"".join(reading.taken) == b"ab"


async def test_of_a_flood_so_much_is_taken_a_turn_and_nothing_is_lost() -> None:
    reading = Reading()
    await asyncio.sleep(0)
    reading.body.feed_data(b"x\n" * 5 * FRAMES_A_TURN)
    reading.body.feed_data(b"y")
    reading.body.feed_eof()
    assert len(reading.taken) == FRAMES_A_TURN
    await reading.ended()
    assert reading.taken == [b"x"] * 5 * FRAMES_A_TURN + [b"y"]


async def test_what_taking_raises_ends_the_reading() -> None:
    def refuse(_: bytes) -> None:
        raise ValueError("enough")

    reading = Reading(take=refuse)
    await asyncio.sleep(0)
    reading.body.feed_data(b"a")
    with pytest.raises(ValueError, match="enough"):
        await reading.ended()


@pytest.mark.parametrize("whole", [False, True])
async def test_a_broken_connection_spoils_only_what_is_not_whole(*, whole: bool) -> None:
    reading = Reading(patience_s=60.0 if whole else None)
    await asyncio.sleep(0)
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
    await asyncio.sleep(0)
    reading.patience_s = 0.0
    reading.body.feed_data(b"a")
    await reading.ended()


async def test_a_reading_that_is_cancelled_takes_nothing_more() -> None:
    reading = Reading()
    await asyncio.sleep(0)
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
