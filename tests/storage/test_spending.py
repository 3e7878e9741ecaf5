"""Tokens of the day, where the worker that should tell of them is gone."""

import time
from collections.abc import AsyncIterator

import pytest

from shared.events import Done
from shared.jobs import Act, JobKey
from shared.limits import LimitTable
from shared.recovery import Reaper
from shared.settings import Settings
from shared.spending import Spending
from shared.storage.batch import Batcher
from shared.storage.keys import OPEN, tokens_of_day
from shared.storage.limits import LimitStore, day_of
from tests.storage import acts
from tests.storage.conftest import Stores
from tests.support.loops import running

USAGE = {"input_tokens": 3, "output_tokens": 4, "provider_calls": 1}


@pytest.fixture
async def spending(stores: Stores) -> AsyncIterator[Spending]:
    """Of an installation whose tenants have a budget."""
    batcher = Batcher(stores.redis)
    async with running(batcher.run()):
        yield Spending(LimitTable(Settings(tenant_tokens_per_day=100)), LimitStore(batcher, lease_s=10.0))


def _reaper(stores: Stores, spending: Spending | None) -> Reaper:
    return Reaper(stores.jobs, stores.control, stores.queue, owner="me", lease_s=6.0, spending=spending)


async def _finished(stores: Stores) -> JobKey:
    """A job whose worker died as soon as its end was in the log."""
    job = acts.new_job("acme")
    await stores.control.index(job, time.time_ns() // 1_000_000, 60_000)
    await acts.create(stores, job)
    claimed = await acts.claim(stores, job)
    done = Done("stop", USAGE, 0, 1, {"latency_ms": 5}, at_ms=5)
    answer = await stores.jobs.finish(job, claimed.epoch, claimed.seq + 1, [done], act=Act.DONE, usage=USAGE)
    assert answer.verdict == "OK"
    return job


async def _spent(stores: Stores, job: JobKey) -> int:
    found = await stores.redis.hget(tokens_of_day(job.tenant, day_of(job.id)), "total")  # type: ignore[misc]
    return int(found or 0)


async def test_what_a_job_used_whose_worker_died_at_its_end_is_counted_by_the_reaper(
    stores: Stores, spending: Spending
) -> None:
    job = await _finished(stores)
    await _reaper(stores, spending).sweep(trusted=True)
    assert await stores.redis.zcard(OPEN) == 0
    assert await _spent(stores, job) == 7


async def test_the_worker_and_the_reaper_count_a_job_once(stores: Stores, spending: Spending) -> None:
    job = await _finished(stores)
    await spending.tell({job: 7})
    await _reaper(stores, spending).sweep(trusted=True)
    assert await _spent(stores, job) == 7


async def test_without_a_budget_the_reaper_counts_nothing(stores: Stores) -> None:
    job = await _finished(stores)
    async with running((batcher := Batcher(stores.redis)).run()):
        none = Spending(LimitTable(Settings()), LimitStore(batcher, lease_s=10.0))
        await _reaper(stores, none).sweep(trusted=True)
    assert await stores.redis.zcard(OPEN) == 0
    assert await _spent(stores, job) == 0
