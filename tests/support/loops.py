"""Tasks of tests: loops that run for the length of a block, ended for sure, and waiting until something is so."""

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import shared.tasks

GUARD_S = 15.0
"""A guard, not a promise: a test that waits so long has failed."""


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks until they have ended; TimeoutError if they do not."""
    async with asyncio.timeout(GUARD_S):
        await shared.tasks.end(*tasks)


@contextlib.asynccontextmanager
async def running(*loops: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Loops that run for the length of a block; what one of them raises is raised at its end."""
    tasks = [asyncio.create_task(loop) for loop in loops]
    try:
        yield
    finally:
        await end(*tasks)
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError):
            task.result()


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Return once `condition` holds; TimeoutError if it never does."""
    async with asyncio.timeout(GUARD_S):
        while True:
            holds = condition()
            if await holds if inspect.isawaitable(holds) else holds:
                return
            await asyncio.sleep(0.002)
