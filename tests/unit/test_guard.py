"""What a node holds of bodies that are still coming has a bound, and is given back when they go."""

import asyncio

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from api import guard as guard_module
from api.guard import Guard
from tests.support.loops import GUARD_S, until
from tests.support.serving import address_of, serving

HEAD = (
    b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 1024\r\n\r\n"
)


async def _app(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await PlainTextResponse("taken")(scope, receive, send)


async def test_bodies_that_do_not_end_take_bounded_memory_and_keep_nobody_out_for_longer_than_they_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guard_module, "_HELD_BODIES", 4)
    guard = Guard(_app, 1024, GUARD_S)
    async with asyncio.timeout(GUARD_S), serving(guard) as server:
        held = []
        for _ in range(4):
            _, writer = await asyncio.open_connection(*address_of(server))
            writer.write(HEAD + b" " * 1000)
            held.append(writer)
        await until(lambda: guard._held_bytes == 4000)

        async def answered() -> bytes:
            reader, writer = await asyncio.open_connection(*address_of(server))
            writer.write(HEAD + b" " * 1024)
            answer = await reader.read()
            writer.close()
            return answer

        refused = await answered()
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"node_full" in refused
        for writer in held:
            writer.close()
        await until(lambda: guard._held_bytes == 0)
        assert (await answered()).startswith(b"HTTP/1.1 200 ")
