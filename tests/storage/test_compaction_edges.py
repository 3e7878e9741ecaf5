"""Compact logs at their edges: a reading across a rewrite, a store that refuses half of it, long pieces, many logs."""

import asyncio
from collections.abc import Callable

import fakeredis
import pytest

from shared.errors import StorageError
from shared.events import START, Token
from shared.jobs import JobKey
from shared.storage import compaction
from shared.storage.keys import ERASE_MS, compact_form, job_keys
from shared.storage.merged import MOST_EVENTS
from tests.storage.acts import claim, create
from tests.storage.conftest import Stores
from tests.storage.test_compaction import ended, finish, rest


async def test_who_reads_a_log_while_it_is_rewritten_sees_no_event_twice(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await ended(stores, 300)
    log = await stores.log.read_all(job)
    read, pages = stores.log.read_raw, 0

    async def rewritten_behind_the_first_page(job: JobKey, start: str, count: int) -> object:
        nonlocal pages
        pages += 1
        if pages == 2:
            monkeypatch.undo()
            assert await stores.compaction.rewrite(job, rest) == "OK"
        return await read(job, start, count)

    monkeypatch.setattr(stores.log, "read_raw", rewritten_behind_the_first_page)
    assert await stores.log.read_all(job) == log
    assert await stores.redis.xlen(job_keys(job).log) < len(log)


async def test_a_store_that_refuses_to_copy_keeps_the_log(stores: Stores) -> None:
    if isinstance(stores.redis, fakeredis.FakeAsyncRedis):
        pytest.skip("fakeredis has no access rules")
    job = await ended(stores)
    log = await stores.log.read_all(job)
    await stores.redis.execute_command("ACL", "SETUSER", "default", "-copy")  # type: ignore[no-untyped-call]
    try:
        with pytest.raises(StorageError):
            await stores.compaction.rewrite(job, rest)
    finally:
        await stores.redis.execute_command("ACL", "SETUSER", "default", "+copy")  # type: ignore[no-untyped-call]
    assert await stores.log.read_all(job) == log


async def test_an_unfinished_form_outlives_no_deleted_log(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "PART", 10)
    job = await ended(stores)

    async def deleted() -> None:
        await stores.jobs.delete(job)
        raise StorageError("storage_unavailable")

    with pytest.raises(StorageError):
        await stores.compaction.rewrite(job, deleted)
    left_ms = [await stores.redis.pttl(name) for name in (compact_form(job), job_keys(job).log)]
    assert 0 < left_ms[0] <= left_ms[1] + 50 <= ERASE_MS + 50


async def test_pieces_that_are_long_are_packed_beside_the_loop(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[object] = []

    async def beside(work: Callable[..., object], *given: object) -> object:
        threads.append(work)
        return work(*given)

    monkeypatch.setattr(asyncio, "to_thread", beside)
    job = await create(stores)
    epoch = (await claim(stores, job)).epoch
    assert (await stores.jobs.append(job, epoch, 3, [Token("x" * 4096) for _ in range(20)])).verdict == "OK"
    await finish(stores, job, epoch, 23)
    log = await stores.log.read_all(job)
    assert await stores.compaction.rewrite(job, rest) == "OK"
    assert len(threads) == 1
    assert await stores.log.read_all(job) == log


async def test_many_logs_at_once_give_no_more_events_than_one_may(stores: Stores) -> None:
    jobs = [await ended(stores, 2000) for _ in range(6)]
    for job in jobs:
        assert await stores.compaction.rewrite(job, rest) == "OK"
    pages = await stores.log.read_many([(job, START) for job in jobs], 32)
    assert sum(len(page.entries) for page in pages) <= 6 * MOST_EVENTS + 8 * 33
    assert all(page.held and page.full for page in pages)
