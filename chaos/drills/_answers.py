"""Jobs and readers that drills share: submit, follow, and hold what was received against the log."""

import asyncio
import os
import shutil
from collections.abc import Callable, Iterable
from typing import Any

from tailrace_client import AsyncTailrace

from chaos.drills._event_source import EventSource

KEY = "key-of-the-drill"
STACK_ENV = {
    "TAILRACE_VALKEY_PASSWORD": "a-long-random-word",
    "TAILRACE_API_KEYS": f"drill:{KEY}",
}
"""What docker-compose.yml demands."""
GUARD_S = 120.0


def demand_nginx() -> None:
    """RuntimeError where there is no nginx to be measured through."""
    if shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None:
        raise RuntimeError("nginx is not installed: this drill measures through it")


async def submit(tailrace: AsyncTailrace, **params: Any) -> str:
    """A scripted job; its id."""
    return (await tailrace.submit(provider="scripted", model="demo", prompt="drill", params=params)).id


async def all_opened(readers: Iterable[EventSource]) -> None:
    """Wait until every reader has its first answer."""
    async with asyncio.timeout(GUARD_S):
        await asyncio.gather(*(reader.opened.wait() for reader in readers))


async def until(condition: Callable[[], bool]) -> None:
    """Return once the condition holds; TimeoutError if it does not come to."""
    async with asyncio.timeout(GUARD_S):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


async def logs(url: str, key: str, jobs: Iterable[str]) -> dict[str, list[tuple[str | None, str, str]]]:
    """The whole logs of finished jobs, entry by entry, each read over one connection."""
    found = {}
    for job in set(jobs):
        replay = EventSource(url, job, key)
        async with asyncio.timeout(GUARD_S):
            await replay.read()
        found[job] = replay.shown
    return found


async def mismatches(url: str, key: str, readers: list[EventSource]) -> int:
    """How many readers received anything but the log of their job, event for event and byte for byte.

    All readers of one job are held against the same log, so none of them has another payload for an id.
    """
    whole = await logs(url, key, (reader.job for reader in readers))
    return sum(reader.shown != whole[reader.job] or bool(reader.holes) or bool(reader.doubled) for reader in readers)
