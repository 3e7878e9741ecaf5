"""The worker's background work on ended logs: all of them, whoever ended them, and no one of them stands in the way."""

import asyncio

import fakeredis
import pytest

from shared.errors import StorageError
from shared.events import Token
from shared.jobs import JobKey
from shared.storage import keys
from shared.storage.keys import job_keys
from tests.storage.acts import claim, create, new_job
from tests.storage.conftest import Stores
from tests.storage.test_compaction import ended
from tests.support.loops import running, until
from worker import compaction
from worker.compaction import Compactor


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else is going on."""
    monkeypatch.setattr(compaction, "LOOK_S", 0.001)
    monkeypatch.setattr(compaction, "REST_S", 0)


def compactor(stores: Stores, after_s: float = 0.001) -> Compactor:
    """A worker's."""
    return Compactor(stores.control, stores.compaction, after_s=after_s)


async def closed(stores: Stores, tokens: int = 40) -> JobKey:
    """A job that has ended in both stores."""
    job = await ended(stores, tokens)
    await stores.control.close(job)
    return job


async def length(stores: Stores, job: JobKey) -> int:
    """How many entries the store has of its log."""
    return int(await stores.redis.xlen(job_keys(job).log))


async def idle(stores: Stores) -> bool:
    """Whether nothing is left to be done."""
    return not await stores.redis.exists(keys.ENDED)


async def test_ended_logs_become_compact_and_leave_the_list(stores: Stores) -> None:
    jobs = [await closed(stores) for _ in range(3)]
    cancelled = await create(stores)
    epoch = (await claim(stores, cancelled)).epoch
    await stores.jobs.append(cancelled, epoch, 3, [Token("a"), Token("b"), Token("c")])
    assert await stores.jobs.cancel(cancelled, "user")
    await stores.control.close(cancelled)
    logs = [await stores.log.read_all(job) for job in (*jobs, cancelled)]

    async with running(compactor(stores).run()):
        await until(lambda: idle(stores))

    assert [await length(stores, job) for job in (*jobs, cancelled)] == [4, 4, 4, 4]
    assert [await stores.log.read_all(job) for job in (*jobs, cancelled)] == logs


async def test_more_than_it_takes_at_once_are_all_done(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "AT_ONCE", 2)
    jobs = [await closed(stores, 5) for _ in range(5)]
    async with running(compactor(stores).run()):
        await until(lambda: idle(stores))
    assert [await length(stores, job) for job in jobs] == [4] * 5


async def test_a_log_is_left_alone_until_its_time(stores: Stores) -> None:
    job = await closed(stores)
    assert await compactor(stores, after_s=3600).look() is False
    assert await length(stores, job) == 43


async def test_turned_off_it_does_nothing(stores: Stores) -> None:
    job = await closed(stores)
    async with asyncio.timeout(5):
        await compactor(stores, after_s=0).run()
    assert await length(stores, job) == 43


async def test_a_damaged_log_and_one_that_is_gone_stand_in_nobodys_way(
    stores: Stores, caplog: pytest.LogCaptureFixture
) -> None:
    damaged, gone = await closed(stores), new_job()
    await stores.redis.set(job_keys(damaged).log, "?", px=60_000)
    odd = await closed(stores)
    await stores.redis.delete(job_keys(odd).log)
    await stores.redis.xadd(job_keys(odd).log, {"": "?"}, id="0-1")
    await stores.redis.pexpire(job_keys(odd).log, 60_000)
    await stores.control.close(gone)
    job = await closed(stores)
    async with running(compactor(stores).run()):
        await until(lambda: idle(stores))
    assert await length(stores, job) == 4
    assert str(damaged) in caplog.text


async def test_what_breaks_in_one_log_is_spoken_of_and_keeps_no_other(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bad, job = await closed(stores), await closed(stores)
    rewrite = stores.compaction.rewrite

    async def breaks(which: JobKey, *more: object) -> object:
        if which == bad:
            raise RuntimeError("no more")
        return await rewrite(which, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(stores.compaction, "rewrite", breaks)
    async with running(compactor(stores).run()):
        await until(lambda: idle(stores))
    assert await length(stores, job) == 4
    assert await length(stores, bad) == 43
    assert str(bad) in caplog.text


async def test_it_goes_on_when_the_store_is_back(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    job = await closed(stores)
    away = 3
    take = stores.control.take_ended

    async def sometimes(after_s: float, count: int) -> list[JobKey]:
        nonlocal away
        if away:
            away -= 1
            raise StorageError("storage_unavailable")
        return await take(after_s, count)

    monkeypatch.setattr(stores.control, "take_ended", sometimes)
    async with running(compactor(stores).run()):
        await until(lambda: idle(stores))
    assert await length(stores, job) == 4


async def test_an_end_is_taken_off_the_index_although_memory_is_full(stores: Stores) -> None:
    if isinstance(stores.redis, fakeredis.FakeAsyncRedis):
        pytest.skip("fakeredis is never full")
    job = new_job()
    await stores.control.index(job, 1, 60_000)
    await stores.redis.config_set("maxmemory", 1)
    try:
        await stores.control.close(job)
    finally:
        await stores.redis.config_set("maxmemory", 0)
    assert await stores.control.open_count() == 0


async def test_a_full_store_is_made_room_in(stores: Stores) -> None:
    if isinstance(stores.redis, fakeredis.FakeAsyncRedis):
        pytest.skip("fakeredis is never full")
    job = await closed(stores, 200)
    await stores.redis.config_set("maxmemory", 1)
    try:
        async with running(compactor(stores).run()):
            await until(lambda: _is_compact(stores, job))
    finally:
        await stores.redis.config_set("maxmemory", 0)


async def _is_compact(stores: Stores, job: JobKey) -> bool:
    return await length(stores, job) == 4
