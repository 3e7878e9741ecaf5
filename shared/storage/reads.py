"""Reads of a whole process, joined: what is wanted while one exchange is under way goes out together in the next.

Readers who come at once, to one job or to many, would take a connection each from the pool and give it back, which
costs twice as much as the reading. Nothing waits for a timer, and nobody gets an answer that was asked for before.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Protocol

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from shared.storage.connect import Redis
from shared.storage.sending import OwnLine, exchange

log = logging.getLogger(__name__)

AT_ONCE = 32
"""Callers in one exchange: their answers are in memory together, and a job's record may have a large prompt."""

Command = tuple[Any, ...]


class Line(Protocol):
    """A way to the store. What it raises, `storage_errors` knows."""

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """As many replies as commands; what the server refuses is a ResponseError in its place."""


class Pooled:
    """A line of the client's pool: for few callers."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """See `Line`."""
        return await exchange(self._redis, commands)


class Joined:
    """One line for many callers. Owned by the composition root, which keeps `run()` in its task group."""

    def __init__(self, redis: Redis) -> None:
        self._line = OwnLine(redis)
        self._pending: list[tuple[Sequence[Command], asyncio.Future[list[Any]]]] = []
        self._wanted = asyncio.Event()

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """See `Line`."""
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._pending.append((commands, future))
        self._wanted.set()
        return await future

    async def run(self) -> None:
        """Serve callers until cancelled; who is still waiting then is cancelled too."""
        calls: list[tuple[Sequence[Command], asyncio.Future[list[Any]]]] = []
        try:
            while True:
                await self._wanted.wait()
                self._wanted.clear()
                while self._pending:
                    calls, self._pending = self._pending[:AT_ONCE], self._pending[AT_ONCE:]
                    await self._serve(calls)
                    calls = []  # with their answers
        finally:
            for _, future in (*calls, *self._pending):
                future.cancel()
            await self._line.aclose()

    async def _serve(self, calls: list[tuple[Sequence[Command], asyncio.Future[list[Any]]]]) -> None:
        try:
            replies = await self._line.exchange([command for commands, _ in calls for command in commands])
        except Exception as error:
            if not isinstance(error, RedisError | OSError | TimeoutError):
                log.exception("store")  # the client library met something it did not expect
            # Whoever came meanwhile has waited for the same store, and would wait for as long again.
            pending, self._pending = self._pending, []
            for _, future in (*calls, *pending):
                if not future.done():
                    future.set_exception(RedisConnectionError(type(error).__name__))
            return
        at = 0
        for commands, future in calls:
            if not future.done():
                future.set_result(replies[at : at + len(commands)])
            at += len(commands)
