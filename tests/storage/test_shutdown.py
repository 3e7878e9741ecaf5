"""Background loops end when they are told to, in whatever they are: a process that hangs at its end is killed."""

import asyncio

import pytest

from api.node import running_node
from api.tail import Tail, Tails
from shared import recovery, tasks
from shared.queue import Queue
from shared.recovery import Reaper
from shared.settings import Settings
from shared.storage.batch import Batcher
from shared.storage.connect import open_redis
from shared.storage.control import Control
from shared.storage.jobs import JobStore
from shared.storage.log import EventLog
from shared.storage.notices import Notices
from tests.storage.acts import new_job
from tests.support.loops import end
from tests.support.stores import ValkeyProcess

TURNS = 80


async def _ends(task: asyncio.Task[None]) -> bool:
    """Whether it ends when it is ended as the processes do it."""
    async with asyncio.timeout(5):
        await tasks.end(task)
    return task.done()


@pytest.mark.parametrize("which", ["batcher", "reaper", "tails"])
async def test_a_loop_that_is_cancelled_at_any_moment_ends(
    valkey: ValkeyProcess, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    monkeypatch.setattr(recovery, "TICK_S", 0.0005)
    redis = open_redis(valkey.url, timeout_s=5.0, max_connections=8)
    batcher, tails = Batcher(redis), Tails(EventLog(redis), Notices(redis), tick_s=0.0005, ring_events=16)
    store, job = JobStore(redis, batcher), new_job()
    tails._tails[job] = Tail(job, 16)
    loops = {
        "batcher": batcher.run,
        "reaper": Reaper(store, Control(redis), Queue(redis, "q"), owner="me", lease_s=6).run,
        "tails": tails.run,
    }

    async def keep_busy() -> None:
        while True:
            await store.renew(job, "w1", 1, 1000)

    for turn in range(TURNS):
        asking = asyncio.create_task(keep_busy())
        loop = asyncio.create_task(loops[which]())
        await asyncio.sleep(0.0001 * (turn % 40))
        ended = await _ends(loop)
        await end(asking)
        if not ended:
            break
    await redis.aclose()
    assert ended


async def test_a_node_that_is_left_at_any_moment_is_closed(
    valkey: ValkeyProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "TICK_S", 0.0005)
    settings = Settings(redis_url=valkey.url, tail_tick_s=0.001)

    async def visit(turn: int) -> None:
        async with running_node(settings):
            await asyncio.sleep(0.0001 * (turn % 100))

    for turn in range(TURNS):
        visiting = asyncio.create_task(visit(turn))
        _, pending = await asyncio.wait([visiting], timeout=2.0)
        if pending:
            await end(*(asyncio.all_tasks() - {asyncio.current_task()}))
            break
    assert not pending
