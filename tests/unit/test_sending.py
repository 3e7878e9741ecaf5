"""Sending to a store: a cancellation is never lost, a time-out comes, and a half-sent command costs its connection."""

import asyncio
import contextlib
import ssl
from collections.abc import Iterator
from typing import Any

import pytest
from redis.asyncio import BlockingConnectionPool
from redis.asyncio.connection import Connection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared.storage.sending import let_cancellations_through


class Writer:
    """A socket's writing end that is full until `room` is done."""

    def __init__(self) -> None:
        self.room: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sent: list[bytes] = []
        self.closed = False

    def writelines(self, lines: list[bytes]) -> None:
        self.sent += lines

    async def drain(self) -> None:
        await self.room

    def close(self) -> None:
        self.closed = True


@contextlib.contextmanager
def connection(url: str = "redis://127.0.0.1:1", timeout_s: float = 60.0) -> Iterator[tuple[Connection, Writer]]:
    """A connection as our pools make them, its socket replaced."""
    tls = {"tls": ssl.create_default_context()} if url.startswith("rediss") else {}
    pool = BlockingConnectionPool.from_url(url, socket_timeout=timeout_s, **tls)
    let_cancellations_through(pool)
    made: Any = pool.make_connection()  # type: ignore[no-untyped-call]
    made._reader = made._writer = writer = Writer()
    yield made, writer
    made._reader = made._writer = None


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("url", ["redis://127.0.0.1:1", "rediss://127.0.0.1:1", "unix:///nowhere"])
async def test_a_cancellation_around_the_moment_in_which_the_store_takes_the_bytes_is_not_lost(
    url: str, turns: int
) -> None:
    with connection(url) as (made, writer):
        sending = asyncio.create_task(made.send_packed_command([b"PING"]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        writer.room.set_result(None)
        for _ in range(turns):
            await asyncio.sleep(0)
        was_done = sending.done()
        sending.cancel()
        await asyncio.wait([sending])

    assert sending.cancelled() is not was_done
    assert writer.closed is not was_done, "what may be half sent is of no more use"


async def test_a_store_that_takes_nothing_times_out() -> None:
    with connection(timeout_s=0.01) as (made, writer), pytest.raises(RedisTimeoutError):
        await made.send_packed_command([b"PING"])

    assert writer.closed


async def test_a_broken_socket_is_a_connection_error() -> None:
    with connection() as (made, writer):
        writer.room.set_exception(BrokenPipeError(32, "Broken pipe"))
        with pytest.raises(RedisConnectionError):
            await made.send_packed_command("PING")

    assert writer.closed
    assert writer.sent == [b"PING"]


@pytest.mark.parametrize("stray", [b"+stray\r\n", b"+half a", None])
async def test_a_connection_on_which_something_lies_that_nobody_asked_for_is_of_no_use(stray: bytes | None) -> None:
    with connection() as (made, _):
        reader = asyncio.StreamReader()
        made._reader = reader
        assert not await made.can_read_destructive()  # type: ignore[no-untyped-call]
        if stray is None:
            reader.feed_eof()
        else:
            reader.feed_data(stray)
        assert await made.can_read_destructive()  # type: ignore[no-untyped-call]
