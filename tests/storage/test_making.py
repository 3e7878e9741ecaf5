"""Making a job: whole or not at all where one server is both stores, step by step where that is refused."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis as plain
from arq.constants import job_key_prefix

from api.making import Maker, Room
from shared.errors import StorageError, TailraceError
from shared.jobs import JobKey
from shared.limits import NONE
from shared.queue import Queue, offer_id
from shared.settings import Settings
from shared.storage.batch import Batcher
from shared.storage.connect import Redis, open_redis
from shared.storage.control import Control
from shared.storage.creation import Creation
from shared.storage.jobs import JobStore
from shared.storage.keys import OPEN, WAKE, job_keys, jobs_of
from shared.storage.limits import LimitStore
from shared.storage.transactions import RefusedError, Transactions
from tests.storage import acts
from tests.support.cutter import Cutter, cut_wire
from tests.support.loops import end, running, until
from tests.support.stores import ValkeyProcess, keys_without_end


@dataclass
class Making:
    """A node's maker, and the store as it is seen from beside it."""

    maker: Maker
    transactions: Transactions
    store: JobStore
    control: Control
    redis: Redis
    cutter: Cutter
    seen: "plain.Redis"

    def state(self, job: JobKey) -> tuple[bool, bool, bool, int, int]:
        """Is it on the index of open jobs, and on its tenant's; is there a log; how often was it offered, and woken?"""
        seen: Any = self.seen
        return (
            seen.zscore(OPEN, str(job)) is not None,
            seen.zscore(jobs_of(job.tenant), job.id) is not None,
            seen.xlen(job_keys(job).log) == 1,
            seen.zcard("tailrace:queue"),
            seen.llen(WAKE),
        )


MADE = (True, True, True, 1, 1)
NOTHING = (False, False, False, 0, 0)


@pytest.fixture
async def making(valkey: ValkeyProcess, tmp_path: Path) -> AsyncIterator[Making]:
    """A maker on a real server, over a wire that can be cut."""
    async with cut_wire(valkey.url, tmp_path / "s") as (url, cutter):
        redis = open_redis(url, timeout_s=2.0, max_connections=8)
        await redis.flushall()
        batcher, control, transactions = Batcher(redis), Control(redis), Transactions(redis)
        store, queue = JobStore(redis, batcher), Queue(redis, "tailrace:queue")
        limits = LimitStore(Batcher(redis), lease_s=10)
        maker = Maker(Settings(max_queued_jobs=640), store, control, queue, batcher, transactions, limits)
        with contextlib.closing(valkey.client()) as seen:
            async with running(batcher.run(), transactions.run()):
                await store.attend(acts.new_job())
                yield Making(maker, transactions, store, control, redis, cutter, seen)
            assert keys_without_end(seen) == []
        await redis.aclose()


def _creation(job: JobKey | None = None) -> Creation:
    return Creation(job or acts.new_job(), acts.request(), deadline_s=60, ttl_s=60)


async def test_a_job_is_made_whole_by_one_transaction(making: Making) -> None:
    creation = _creation()
    await making.maker.find_room(acts.new_job(), NONE)
    making.seen.config_resetstat()
    record = await making.maker.make(creation)

    assert making.state(creation.job) == MADE
    assert record == await making.store.show(creation.job)
    told: Any = making.seen.info("commandstats")
    assert (told["cmdstat_exec"]["calls"], told["cmdstat_eval"]["calls"]) == (1, 1)
    assert "cmdstat_evalsha" not in told
    assert making.seen.exists(job_key_prefix + offer_id(creation.job, 0))


async def test_a_job_is_the_same_made_at_once_or_step_by_step(making: Making, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once, by_steps = _creation(), _creation()
    await making.maker.make(at_once)
    made = _dump(making, at_once.job)

    async def refused(_: object) -> None:
        raise RefusedError

    making.seen.flushdb()
    monkeypatch.setattr(making.transactions, "carry_out", refused)
    await making.maker.make(by_steps)
    assert making.state(by_steps.job) == MADE
    assert _dump(making, by_steps.job) == made


def _dump(making: Making, job: JobKey) -> dict[str, Any]:
    """Every key with its type and fields, without what names the job or the time."""
    seen: Any = making.seen
    found = {name.replace(job.id, "JOB"): (seen.type(name), seen.pttl(name) > 0) for name in seen.scan_iter()}
    meta = {name: value for name, value in seen.hgetall(job_keys(job).meta).items() if not name.endswith("_ms")}
    return found | {"meta": meta}


async def test_a_server_that_has_forgotten_all_scripts_makes_the_job(making: Making) -> None:
    making.seen.script_flush()
    creation = _creation()
    assert await making.maker.make(creation) is not None
    assert making.state(creation.job) == MADE


async def test_a_lost_reply_makes_no_second_job_and_its_answer_is_the_jobs_record(making: Making) -> None:
    await making.maker.make(_creation())  # its connection stands
    making.seen.flushdb()
    creation = _creation()
    making.cutter.cut_next_reply()
    made = await making.maker.make(creation)
    assert making.cutter.cuts == 1
    assert made is None  # the repetition found it there
    assert making.state(creation.job)[:4] == MADE[:4]  # the wake is a hint, and may come twice


async def test_without_memory_nothing_is_left_of_a_refused_job(making: Making) -> None:
    creation = _creation()
    making.seen.config_set("maxmemory", "1mb")
    try:
        with pytest.raises(StorageError) as refusal:
            await making.maker.make(creation)
    finally:
        making.seen.config_set("maxmemory", "0")
    assert refusal.value.code == "storage_full"
    assert making.state(creation.job) == NOTHING

    assert await making.maker.make(creation) is not None
    assert making.state(creation.job) == MADE


async def test_a_transaction_that_is_refused_is_done_step_by_step(making: Making) -> None:
    creation = _creation()
    making.seen.execute_command("ACL SETUSER default -eval")  # type: ignore[no-untyped-call]
    try:
        record = await making.maker.make(creation)
    finally:
        making.seen.execute_command("ACL SETUSER default +eval")  # type: ignore[no-untyped-call]
    assert record is not None
    assert making.state(creation.job) == MADE


@pytest.mark.parametrize("part", ["tailrace:queue", WAKE])
async def test_a_job_whose_offer_breaks_is_accepted_and_left_to_the_reaper(making: Making, part: str) -> None:
    making.seen.set(part, "no list", px=60_000)
    creation = _creation()
    assert await making.maker.make(creation) is not None
    making.seen.delete(part)
    assert making.state(creation.job)[:3] == (True, True, True)


@pytest.mark.parametrize("index", [OPEN, jobs_of("default")])
async def test_a_job_without_a_place_on_an_index_is_not_accepted(making: Making, index: str) -> None:
    making.seen.set(index, "no set", px=60_000)
    with pytest.raises(TailraceError):
        await making.maker.make(_creation())
    making.seen.delete(index)


async def test_a_job_that_has_been_and_went_is_gone(making: Making) -> None:
    creation = _creation()
    await making.maker.make(creation)
    making.seen.delete(job_keys(creation.job).meta, job_keys(creation.job).log)
    with pytest.raises(TailraceError) as refusal:
        await making.maker.make(creation)
    assert refusal.value.code == "gone"


async def test_many_jobs_at_once_are_all_made_and_share_exchanges(making: Making) -> None:
    creations = [_creation() for _ in range(200)]
    records = await asyncio.gather(*(making.maker.make(creation) for creation in creations))
    assert [record is not None and record.key for record in records] == [creation.job for creation in creations]
    state = [making.state(creation.job) for creation in creations]
    assert state == [(True, True, True, 200, 200)] * 200


async def test_who_waits_behind_a_broken_exchange_is_told_and_nothing_of_his_is_sent(
    making: Making, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    exchange = making.transactions._line.exchange

    async def broken(commands: Any) -> list[Any]:
        if begun.is_set():
            return await exchange(commands)
        begun.set()
        await go_on.wait()
        raise OSError

    with monkeypatch.context() as patch:
        patch.setattr(making.transactions._line, "exchange", broken)
        first, second = _creation(), _creation()
        answers = [asyncio.create_task(making.maker.make(first))]
        await begun.wait()
        answers.append(asyncio.create_task(making.maker.make(second)))
        await asyncio.sleep(0)
        go_on.set()
        told = await asyncio.gather(*answers, return_exceptions=True)
    assert [type(error) for error in told] == [StorageError, StorageError]
    assert making.state(second.job) == NOTHING
    assert await making.maker.make(second) is not None


async def test_a_caller_who_leaves_takes_nobody_along(making: Making) -> None:
    leaving, staying = _creation(), _creation()
    tasks = [asyncio.create_task(making.maker.make(creation)) for creation in (leaving, staying)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    assert await tasks[1] is not None
    assert making.state(staying.job)[:3] == (True, True, True)


async def test_after_an_error_the_next_job_looks_before_it_is_made(
    making: Making, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    count = making.control.open_count

    async def counted() -> int:
        nonlocal looks
        looks += 1
        return await count()

    async def broken(_: object) -> None:
        raise OSError

    monkeypatch.setattr(making.control, "open_count", counted)
    for _ in range(3):
        await making.maker.find_room(acts.new_job(), NONE)
        await making.maker.make(_creation())
    assert looks == 1
    with monkeypatch.context() as patch:
        patch.setattr(making.transactions._line, "exchange", broken)
        await making.maker.find_room(acts.new_job(), NONE)
        with pytest.raises(StorageError):
            await making.maker.make(_creation())
    await making.maker.find_room(acts.new_job(), NONE)
    assert looks == 2


async def test_a_full_queue_refuses_and_writes_nothing(making: Making) -> None:
    for n in range(640):
        making.seen.zadd(OPEN, {f"default/{n}": n})
    with pytest.raises(TailraceError) as refusal:
        await making.maker.find_room(acts.new_job(), NONE)
    assert refusal.value.code == "queue_full"
    assert making.seen.zcard(OPEN) == 640
    making.seen.delete(OPEN)


def test_a_look_is_good_for_a_share_of_the_free_half_and_not_for_long() -> None:
    room = Room(640)
    assert not room.take(0.0)
    assert room.seen(320, 10.0)
    assert [room.take(10.5) for _ in range(11)] == [True] * 10 + [False]
    assert room.seen(0, 11.0)
    assert room.take(11.5)
    assert not room.take(12.0)


def test_where_half_is_taken_every_job_looks() -> None:
    room = Room(640)
    assert room.seen(321, 0.0)
    assert not room.take(0.1)
    assert not room.seen(640, 0.2)
    assert not room.take(0.3)


def test_a_small_limit_is_looked_at_for_every_job() -> None:
    room = Room(63)
    assert room.seen(0, 0.0)
    assert not room.take(0.1)


def test_what_was_seen_before_an_error_is_worth_nothing() -> None:
    room = Room(640)
    room.seen(0, 0.0)
    room.doubt()
    assert not room.take(0.1)


async def test_a_look_counts_what_still_waits_for_the_store(making: Making) -> None:
    slow, known = Transactions(making.redis), making.maker
    maker = Maker(known._settings, making.store, making.control, known._queue, known._batcher, slow, known._limits)
    posts = [asyncio.create_task(maker.make(_creation())) for _ in range(40)]
    await until(lambda: slow.under_way == 40)
    assert maker._seen(599)
    assert not maker._seen(600)
    await end(*posts)
