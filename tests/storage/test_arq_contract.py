"""arq 0.28 as we lean on it, one test for each thing of it that we touch; a new version of arq is tried here first."""

import asyncio
import inspect
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
from arq.connections import ArqRedis
from arq.constants import in_progress_key_prefix, job_key_prefix
from arq.jobs import deserialize_job_raw, serialize_job
from arq.worker import RetryJob, Worker, func
from redis.exceptions import RedisError

from shared.errors import StorageError
from shared.queue import FUNCTION, Queue, arq_pool, deserialize, offer_id, serialize
from shared.settings import Settings
from shared.storage.connect import Redis, open_redis
from shared.storage.keys import TURNS, WAKE, waiting
from shared.storage.turns import Seats
from tests.storage.acts import new_job
from tests.support.loops import GUARD_S, end, running, until
from tests.support.stores import ValkeyProcess, running_valkey
from worker.intake import ArqWorker, Intake
from worker.runner import Runner

QUEUE = "tailrace:queue"


class Slots:
    """A runner as the intake sees it: slots, which nothing ever fills, and what was started."""

    def __init__(self) -> None:
        self.free = 10
        self.started: list[str] = []

    def start(self, offer: str, *, seated: bool = False) -> None:
        """As Runner.start."""
        self.started.append(offer)

    async def wait_free(self) -> bool:
        """As Runner.wait_free."""
        await until(lambda: self.free > 0)
        return False


class Arq:
    """Our intake, and both ends of its queue."""

    def __init__(self, url: str) -> None:
        settings = Settings(redis_url=url, redis_timeout_s=2.0)
        self.redis: Redis = open_redis(url, timeout_s=2.0, max_connections=8)
        self.pool: ArqRedis = arq_pool(settings)
        self.queue = Queue(self.redis, QUEUE)
        self.slots = Slots()
        self.intake = Intake(settings, cast("Runner", self.slots), self.queue, self.pool, self.redis)
        self.rung: list[str] = []
        self.answers: list[bool | StorageError] = []
        """What the next bells are answered; after them the store says it."""
        self._ring = self.queue.turns.ring
        self.queue.turns.ring = self._heard  # type: ignore[method-assign]

    async def _heard(self, name: str) -> bool:
        answer = self.answers.pop(0) if self.answers else await self._ring(name)
        self.rung.append(name)
        if isinstance(answer, StorageError):
            raise answer
        return answer

    async def offer(self, *, priority: int = 5, epoch: int = 0) -> str:
        """A fresh job's offer in arq's queue alone, as an older process makes it whose wake was lost."""
        job = new_job()
        await self.queue.offer(job, epoch=epoch, priority=priority)
        await self.redis.delete(WAKE, TURNS, waiting(job.tenant))
        return offer_id(job, epoch)

    async def left(self) -> set[str]:
        """Every key in the store but arq's own sign of life."""
        return {str(key) for key in await self.redis.keys("*")} - {f"{QUEUE}:health-check"}

    async def empty(self) -> bool:
        """Whether arq is through with everything."""
        return not await self.left()

    async def aclose(self) -> None:
        """Close both clients."""
        await self.pool.aclose(close_connection_pool=True)
        await self.redis.aclose()


@pytest.fixture
async def arq(valkey: ValkeyProcess) -> AsyncIterator[Arq]:
    """arq on an empty real store, not running yet."""
    made = Arq(valkey.url)
    await made.redis.flushall()
    yield made
    await made.aclose()


async def test_the_constructor_takes_what_we_give_it(arq: Arq) -> None:
    worker = arq.intake._make_arq()
    assert isinstance(worker, ArqWorker)
    assert (worker.queue_name, worker.queue_read_limit, worker.keep_result_s) == (QUEUE, 200, 0)
    assert (worker.job_timeout_s, worker.in_progress_timeout_s, worker.max_tries) == (5, 6, 1_000_000)
    assert (worker.job_serializer, worker.job_deserializer) == (serialize, deserialize)
    assert (worker.pool, worker._handle_signals, worker.log_results) == (arq.pool, False, False)
    assert (worker.functions[FUNCTION].timeout_s, worker.functions[FUNCTION].max_tries) == (5, 1_000_000)
    assert {"name", "timeout", "max_tries"} <= inspect.signature(func).parameters.keys()


async def test_the_limit_is_a_property_that_follows_our_slots(arq: Arq) -> None:
    worker = arq.intake._make_arq()
    assert worker.max_jobs == 10
    arq.slots.free = 3
    assert worker.max_jobs == 3
    assert worker.job_counter == 0


async def test_arq_rests_while_all_that_waits_waits_for_a_seat(arq: Arq) -> None:
    arq.intake._seats = Seats(1)
    worker = arq.intake._make_arq()
    jobs = [new_job() for _ in range(3)]
    for job in jobs:
        await arq.queue.offer(job, epoch=0, priority=5)
    async with running(arq.intake.run_turns()):
        await until(lambda: len(arq.slots.started) == 1 and worker.max_jobs == 0)
        await arq.queue.turns.leave_seats(arq.slots.started)
        await until(lambda: len(arq.slots.started) == 2)
        await arq.queue.withdraw(*(offer_id(job, 0) for job in jobs))
        await until(lambda: worker.max_jobs == 10)


async def test_a_full_worker_takes_nothing_off_the_queue_and_goes_on_when_a_slot_frees(arq: Arq) -> None:
    arq.slots.free = 0
    name = await arq.offer()
    async with running(arq.intake.run_arq()):
        await until(lambda: _polled(arq))
        assert arq.rung == []
        assert in_progress_key_prefix + name not in await arq.left()
        arq.slots.free = 1
        await until(lambda: arq.rung == [name])


async def _polled(arq: Arq) -> bool:
    """Whether arq has looked at its queue: at the end of each look it gives a sign of life."""
    return bool(await arq.redis.exists(f"{QUEUE}:health-check"))


async def test_an_offer_that_arq_brings_is_started_once_and_stays_until_it_is_withdrawn(arq: Arq) -> None:
    names = [await arq.offer(priority=priority) for priority in (0, 9, 5)]
    async with running(arq.intake.run_arq(), arq.intake.run_turns()):
        await until(lambda: len(arq.slots.started) == 3)
        await until(lambda: len(arq.rung) > 3)  # arq has brought one a second time
        assert await arq.redis.zcard(QUEUE) == 3
        await arq.queue.withdraw(*names)
        await until(lambda: _idle(arq, *names))
    assert sorted(arq.slots.started) == sorted(names)


async def _idle(arq: Arq, *names: str) -> bool:
    """Whether arq has nothing under way, nor anything left to bring."""
    return not await arq.redis.exists(QUEUE, *(in_progress_key_prefix + name for name in names))


async def test_an_offer_that_comes_later_is_found_by_polling(arq: Arq) -> None:
    async with running(arq.intake.run_arq()):
        await until(lambda: _polled(arq))
        name = await arq.offer()
        await until(lambda: arq.rung[:1] == [name])


async def test_an_offer_that_is_claimed_while_arq_brings_it_leaves_nothing(arq: Arq) -> None:
    arq.answers = [False]
    name = await arq.offer()
    async with running(arq.intake.run_arq()):
        await until(arq.empty)
    assert arq.rung == [name]


@pytest.mark.parametrize("answer", [True, StorageError("storage_unavailable")], ids=["stands", "no store"])
async def test_an_offer_that_stands_keeps_its_place(arq: Arq, answer: bool | StorageError) -> None:
    arq.answers = [answer]
    name = await arq.offer(priority=9)
    async with running(arq.intake.run_arq()):
        await until(lambda: len(arq.rung) == 1)
        await until(lambda: _delivered(arq, name))
    later = await arq.offer(priority=0)
    assert await arq.redis.zrange(QUEUE, 0, -1) == [name, later]


async def _delivered(arq: Arq, name: str) -> bool:
    """Whether a delivery of this offer is over, and nothing will move it any more."""
    return not await arq.redis.exists(in_progress_key_prefix + name)


async def test_an_offer_that_is_under_way_elsewhere_is_not_delivered_twice(arq: Arq) -> None:
    name = await arq.offer()
    await arq.redis.set(in_progress_key_prefix + name, "1", px=60_000)
    other = await arq.offer()
    arq.answers = [False]
    async with running(arq.intake.run_arq()):
        await until(lambda: arq.rung == [other])
        await until(lambda: _delivered(arq, other))
    assert arq.rung == [other]


async def test_a_delivery_is_marked_for_as_long_as_a_claim_may_take(arq: Arq) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    async def slow(ctx: dict[Any, Any], *_: Any, **__: Any) -> None:
        started.set()
        await go_on.wait()

    name = await arq.offer()
    worker = arq.intake._make_arq()
    worker.functions[FUNCTION].coroutine = slow
    delivering = asyncio.create_task(worker.async_run())
    async with asyncio.timeout(GUARD_S):
        await started.wait()
    left_ms = await arq.redis.pttl(in_progress_key_prefix + name)
    assert (worker.job_counter, set(worker.tasks)) == (1, {name})
    go_on.set()
    await until(arq.empty)
    await end(delivering)
    assert 0 < left_ms <= 6_000


async def test_a_function_gets_the_offers_id_and_the_jobs_name(arq: Arq) -> None:
    got: list[tuple[str, ...]] = []

    async def note(ctx: dict[Any, Any], *args: Any, **_: Any) -> None:
        got.append((ctx["job_id"], *args))

    name = await arq.offer(epoch=602_505)
    worker = arq.intake._make_arq()
    worker.functions[FUNCTION].coroutine = note
    delivering = asyncio.create_task(worker.async_run())
    await until(lambda: bool(got))
    await until(arq.empty)
    await end(delivering)
    assert got == [(name, name.rpartition(".")[0])]


async def test_an_offer_is_written_as_arq_reads_it() -> None:
    body = serialize_job(FUNCTION, ("default/x",), {}, None, 7, serializer=serialize)
    assert json.loads(body) == {"t": None, "f": FUNCTION, "a": ["default/x"], "k": {}, "et": 7}
    function, args, _, _, offered_ms = deserialize_job_raw(body, deserializer=deserialize)
    assert (function, list(args), offered_ms) == (FUNCTION, ["default/x"], 7)
    assert (job_key_prefix, in_progress_key_prefix) == ("arq:job:", "arq:in-progress:")


@pytest.mark.parametrize("body", [None, "not json", '{"f":"other","a":[],"k":{},"t":null,"et":1}'])
async def test_an_offer_that_cannot_be_delivered_is_dropped_and_ends_nothing(arq: Arq, body: str | None) -> None:
    bad, good = await arq.offer(priority=9), await arq.offer()
    arq.answers = [False]
    await arq.redis.delete(job_key_prefix + bad)
    if body is not None:
        await arq.redis.set(job_key_prefix + bad, body, px=60_000)
    async with running(arq.intake.run_arq()):
        await until(arq.empty)
    assert arq.rung == [good]


async def test_arq_stops_when_it_is_cancelled_and_leaves_the_pool_to_us(arq: Arq) -> None:
    running_arq = asyncio.create_task(arq.intake.run_arq())
    await until(lambda: _polled(arq))
    await end(running_arq)
    assert await arq.pool.ping()


async def test_an_error_of_the_store_ends_arqs_loop_and_a_new_one_goes_on(tmp_path: Path) -> None:
    with running_valkey(tmp_path) as server:
        arq = Arq(server.url)
        arq.answers = [False, False]
        await arq.offer()
        worker = arq.intake._make_arq()
        looping = asyncio.create_task(worker.async_run())
        await until(arq.empty)
        server.kill()
        async with asyncio.timeout(GUARD_S):
            with pytest.raises(RedisError):
                await looping
        await asyncio.gather(*worker.tasks.values(), return_exceptions=True)

        async with running(arq.intake.run_arq()):
            server.start()
            again = await arq.offer()
            await until(lambda: again in arq.rung)
            await until(arq.empty)
        await arq.aclose()


def test_what_we_override_is_still_there_to_override() -> None:
    source = inspect.getsource(Worker)
    assert issubclass(RetryJob, Exception)
    assert "(asyncio.CancelledError, RetryJob)" in source
    assert "self.job_counter < self.max_jobs" in source
    assert "self.job_counter >= self.max_jobs" in source
    assert "self.in_progress_timeout_s" in inspect.getsource(Worker.start_jobs)
