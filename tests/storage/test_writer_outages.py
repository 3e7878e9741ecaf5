"""The append pipeline while its store dies, freezes or is full: nothing is lost or doubled, and it ends in time."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared.events import Token
from shared.jobs import Act, JobKey
from shared.queue import Queue
from shared.storage.batch import Batcher
from shared.storage.compaction import LogCompaction
from shared.storage.connect import open_redis
from shared.storage.control import Control
from shared.storage.jobs import Claimed, JobStore
from shared.storage.log import EventLog
from shared.storage.notices import Notices
from tests.storage import acts
from tests.storage.conftest import Stores
from tests.support.loops import GUARD_S, end, running, until
from tests.support.stores import ValkeyProcess, running_valkey
from worker.writer import Ending, LogWriter

TEXTS = [f"{n} " for n in range(40)]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ValkeyProcess]:
    """A server that the test may hurt."""
    with running_valkey(tmp_path) as made:
        yield made


@pytest.fixture
async def hurt(server: ValkeyProcess) -> AsyncIterator[Stores]:
    """The storage layer on that server, with a time-out that a test can wait for."""
    redis = open_redis(server.url, timeout_s=0.3, max_connections=16)
    batcher, notices = Batcher(redis), Notices(redis)
    async with running(batcher.run()):
        log, queue = EventLog(redis), Queue(redis, "tailrace:queue")
        jobs, compaction = JobStore(redis, batcher), LogCompaction(log, batcher)
        yield Stores(redis, jobs, log, Control(redis), queue, notices, compaction)
    await redis.aclose()


async def _never() -> Claimed | None:
    raise AssertionError("a server that keeps its data loses no claim")


async def _writer(stores: Stores, patience_s: float = GUARD_S) -> tuple[JobKey, LogWriter, "asyncio.Task[Ending]"]:
    job = await acts.create(stores)
    writer = LogWriter(stores.jobs, job, await acts.claim(stores, job), reclaim=_never, patience_s=patience_s)
    return job, writer, asyncio.create_task(writer.run())


def _add(writer: LogWriter, texts: list[str]) -> None:
    for text in texts:
        writer.add(Token(text), 7)


async def _assert_whole(stores: Stores, job: JobKey, writer: LogWriter, task: "asyncio.Task[Ending]") -> None:
    writer.close(acts.DONE, Act.DONE, {})
    async with asyncio.timeout(GUARD_S):
        assert await task is Ending.WRITTEN
    entries = await stores.log.read_all(job)
    acts.assert_sound(entries)
    assert [entry.event.text for entry in entries if isinstance(entry.event, Token)] == TEXTS
    assert entries[-1].event == acts.DONE


async def test_a_server_that_is_killed_under_a_writer_costs_no_event(server: ValkeyProcess, hurt: Stores) -> None:
    job, writer, task = await _writer(hurt)
    _add(writer, TEXTS[:10])
    await writer.flush()
    _add(writer, TEXTS[10:20])
    await asyncio.sleep(0)
    server.kill()
    _add(writer, TEXTS[20:30])
    await until(lambda: writer._failing_since is not None)
    server.start()
    _add(writer, TEXTS[30:])
    await _assert_whole(hurt, job, writer, task)


async def test_a_server_that_freezes_with_our_append_in_hand_writes_it_once(
    server: ValkeyProcess, hurt: Stores
) -> None:
    job, writer, task = await _writer(hurt)
    _add(writer, TEXTS[:10])
    await writer.flush()
    server.signal(signal.SIGSTOP)
    _add(writer, TEXTS[10:20])
    await until(lambda: writer._failing_since is not None)  # the call has timed out, and the server has it still
    _add(writer, TEXTS[20:])
    server.signal(signal.SIGCONT)
    await _assert_whole(hurt, job, writer, task)


async def test_a_store_that_stays_away_is_given_up_after_the_writers_patience(
    server: ValkeyProcess, hurt: Stores
) -> None:
    _, writer, task = await _writer(hurt, patience_s=0.05)
    server.kill()
    _add(writer, TEXTS)
    async with asyncio.timeout(GUARD_S):
        assert await task is Ending.STORE_LOST


async def test_a_store_that_stays_full_is_told_apart_and_can_still_end_the_job(
    server: ValkeyProcess, hurt: Stores
) -> None:
    job, writer, task = await _writer(hurt, patience_s=0.05)
    await hurt.redis.config_set("maxmemory", 1)
    _add(writer, TEXTS)
    async with asyncio.timeout(GUARD_S):
        assert await task is Ending.STORE_FULL
    assert await hurt.jobs.renew(job, "w1", writer.epoch, acts.LEASE_MS) == "OK"
    assert await hurt.jobs.fail(job, "storage_full", epoch=writer.epoch)
    assert [event.type for event in await acts.events(hurt, job)] == ["queued", "start", "failed"]


async def test_memory_that_comes_back_costs_no_event(server: ValkeyProcess, hurt: Stores) -> None:
    job, writer, task = await _writer(hurt)
    await hurt.redis.config_set("maxmemory", 1)
    _add(writer, TEXTS)
    await until(lambda: writer._failing_since is not None)
    await hurt.redis.config_set("maxmemory", 0)
    await _assert_whole(hurt, job, writer, task)


async def test_an_answer_can_be_ended_when_memory_is_full(server: ValkeyProcess, hurt: Stores) -> None:
    job, writer, task = await _writer(hurt)
    await hurt.redis.config_set("maxmemory", 1)
    _add(writer, TEXTS)
    await _assert_whole(hurt, job, writer, task)


async def test_a_process_that_starts_while_memory_is_full_can_end_jobs_too(server: ValkeyProcess, hurt: Stores) -> None:
    job = await acts.create(hurt)
    await hurt.redis.config_set("maxmemory", 1)
    batcher = Batcher(hurt.redis)
    async with running(batcher.run()):
        assert await JobStore(hurt.redis, batcher).cancel(job, "user")


async def test_a_writer_that_is_cancelled_ends(server: ValkeyProcess, hurt: Stores) -> None:
    _, writer, task = await _writer(hurt)
    _add(writer, TEXTS)
    await end(task)
