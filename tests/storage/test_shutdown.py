"""Processes end when they are told to, whatever they are at: one that hangs at its end is killed, and its work lost."""

import asyncio
import gc
from collections.abc import Awaitable, Callable

import pytest

from api.node import running_node
from shared import recovery
from shared.settings import Settings
from shared.tasks import end
from tests.support.loops import GUARD_S
from tests.support.stores import ValkeyProcess
from worker.main import Worker

TURNS = 40


async def test_a_task_that_loses_a_cancellation_is_cancelled_again() -> None:
    lost = 0

    async def deaf() -> None:
        nonlocal lost
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                lost += 1
                if lost == 2:
                    raise

    task = asyncio.create_task(deaf())
    await asyncio.sleep(0)
    async with asyncio.timeout(GUARD_S):
        await end(task)
        await end(task)
        await end()
    assert (task.cancelled(), lost) == (True, 2)


async def _visit_node(settings: Settings, stay_s: float) -> None:
    async with running_node(settings):
        await asyncio.sleep(stay_s)


async def _visit_worker(settings: Settings, stay_s: float) -> None:
    worker = Worker(settings, providers={})
    running = asyncio.create_task(worker.run())
    await asyncio.sleep(stay_s)
    worker.stop()
    await running


# redis-py's pipeline keeps its connection when it is cancelled once more while it gives it back: closed when collected.
@pytest.mark.filterwarnings("ignore:Unclosed client session:ResourceWarning")
@pytest.mark.parametrize("visit", [_visit_node, _visit_worker])
async def test_a_process_that_is_told_to_go_at_any_moment_goes(
    valkey: ValkeyProcess, monkeypatch: pytest.MonkeyPatch, visit: Callable[[Settings, float], Awaitable[None]]
) -> None:
    monkeypatch.setattr(recovery, "TICK_S", 0.0005)
    settings = Settings(redis_url=valkey.url, tail_tick_s=0.001, worker_drain_s=0)
    for turn in range(TURNS):
        visiting = asyncio.ensure_future(visit(settings, 0.0002 * turn))
        _, pending = await asyncio.wait([visiting], timeout=GUARD_S)
        if pending:
            await end(*(asyncio.all_tasks() - {asyncio.current_task()}))
        assert not pending
        visiting.result()
    gc.collect()
