"""What a tenant feels of the thousands that another has waiting, with real workers: one turn. Starts are counted."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest

from shared.jobs import JobKey, JobRequest, Message, Status, new_job_id
from shared.queue import Queue
from shared.storage.batch import Batcher
from shared.storage.connect import open_redis
from shared.storage.control import Control
from shared.storage.creation import Creation
from shared.storage.jobs import JobStore
from shared.storage.keys import waiting
from tests.acceptance.conftest import ClusterFactory
from tests.support.cluster import Cluster
from tests.support.loops import running, until

THOUSANDS = 10_000
SILENT: dict[str, Any] = {"first_token_ms": 600_000}
"""A job that holds its slot until it is cancelled."""


class Tenants:
    """Makes, watches and cancels jobs in the store itself, whatever a node would allow a tenant to post."""

    def __init__(self, store: JobStore, control: Control, queue: Queue, redis: Any) -> None:
        self._store = store
        self._control = control
        self._queue = queue
        self._redis = redis

    async def post(self, tenant: str, priority: int = 5) -> JobKey:
        """A silent job of `tenant`."""
        job = JobKey(tenant, new_job_id())
        asked = JobRequest("scripted", "demo", [Message("user", "go")], params=SILENT, priority=priority)
        now_ms, _ = await self._store.standings([])
        await self._control.index(job, now_ms, 3_600_000)
        await self._store.create(Creation(job, asked, deadline_s=600, ttl_s=60))
        await self._queue.offer(job, epoch=0, priority=priority)
        return job

    async def post_many(self, tenant: str, count: int) -> list[JobKey]:
        """So many, a hundred at a time."""
        jobs: list[JobKey] = []
        while len(jobs) < count:
            jobs += await asyncio.gather(*(self.post(tenant) for _ in range(100)))
        return jobs

    async def waiting(self, tenant: str) -> int:
        """How many have not been given to a worker."""
        return int(await self._redis.zcard(waiting(tenant)))

    async def running(self, jobs: list[JobKey]) -> list[JobKey]:
        """Those that run."""
        _, standings = await self._store.standings(jobs)
        return [
            job for job, one in zip(jobs, standings, strict=True) if one is not None and one.status is Status.RUNNING
        ]

    async def runs(self, job: JobKey) -> bool:
        """Whether it runs."""
        return await self.running([job]) == [job]

    async def cancel(self, job: JobKey) -> None:
        """End it, so that its slot is free."""
        assert await self._store.cancel(job, "user")


@contextlib.asynccontextmanager
async def _tenants(cluster: Cluster) -> AsyncIterator[Tenants]:
    redis = open_redis(cluster.valkey.url, timeout_s=10.0, max_connections=128)
    batcher = Batcher(redis)
    async with running(batcher.run()):
        yield Tenants(JobStore(redis, batcher), Control(redis), Queue(redis, "tailrace:queue"), redis)
    await redis.aclose()


@pytest.mark.requirement("FR-1")
async def test_a_tenants_next_job_starts_next_whatever_another_has_waiting(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of(api=0, workers=2, env={"TAILRACE_SLOTS": "2"})
    async with _tenants(cluster) as tenants:
        many = await tenants.post_many("many", THOUSANDS)
        await until(lambda: _left(tenants, THOUSANDS - 4))
        for left in range(THOUSANDS - 4, THOUSANDS - 9, -1):
            mine = await tenants.post("few")
            assert not await tenants.runs(mine)
            await tenants.cancel((await tenants.running(many))[0])
            await until(partial(tenants.runs, mine))
            assert await tenants.waiting("many") == left

            await tenants.cancel(mine)
            await until(partial(_left, tenants, left - 1))


async def _left(tenants: Tenants, count: int) -> bool:
    """Whether so many of the many still wait, and all slots are theirs."""
    return await tenants.waiting("many") == count


@pytest.mark.requirement("FR-2")
async def test_a_tenant_at_its_limit_leaves_the_slots_to_others_and_goes_on_when_one_ends(
    cluster_of: ClusterFactory,
) -> None:
    cluster = cluster_of(api=0, workers=2, env={"TAILRACE_SLOTS": "9", "TAILRACE_TENANT_RUNNING_JOBS": "2"})
    async with _tenants(cluster) as tenants:
        many = await tenants.post_many("many", 100)
        others = [await tenants.post(tenant) for tenant in ("few", "none", "some")]
        await until(lambda: _all_run(tenants, others))
        await until(lambda: _so_many_run(tenants, many, 2))
        for left in range(98, 94, -1):
            assert await tenants.waiting("many") == left
            ended, other = await tenants.running(many)
            await tenants.cancel(ended)
            await until(partial(_left, tenants, left - 1))
            await until(lambda: _so_many_run(tenants, many, 2))
            assert other in await tenants.running(many)


async def test_the_seats_of_a_killed_worker_are_given_to_others(cluster_of: ClusterFactory) -> None:
    short = {"TAILRACE_LEASE_S": "1.5", "TAILRACE_LEASE_RENEW_S": "0.5"}
    cluster = cluster_of(api=0, workers=2, env={**short, "TAILRACE_TENANT_RUNNING_JOBS": "1"})
    async with _tenants(cluster) as tenants:
        jobs = [await tenants.post("many") for _ in range(2)]
        await until(lambda: len(_owned(cluster, jobs)) == 1)
        (first,) = _owned(cluster, jobs)
        owner = cluster.owner_of(first.id, "many")
        assert owner is not None
        owner.kill()
        while jobs:
            await until(lambda: len(_owned(cluster, jobs)) == 1)
            (runs,) = _owned(cluster, jobs)
            await tenants.cancel(runs)
            jobs.remove(runs)


def _owned(cluster: Cluster, jobs: list[JobKey]) -> list[JobKey]:
    """Those that a living worker has."""
    owners = [(job, cluster.owner_of(job.id, job.tenant)) for job in jobs]
    return [job for job, owner in owners if owner is not None and owner.alive]


async def _all_run(tenants: Tenants, jobs: list[JobKey]) -> bool:
    return await tenants.running(jobs) == jobs


async def _so_many_run(tenants: Tenants, jobs: list[JobKey], count: int) -> bool:
    return len(await tenants.running(jobs)) == count


@pytest.mark.requirement("CR-12")
@pytest.mark.parametrize("workers", [1, 3])
async def test_the_highest_priority_of_a_tenant_starts_first(cluster_of: ClusterFactory, workers: int) -> None:
    cluster = cluster_of(api=0, workers=0, env={"TAILRACE_SLOTS": "1"})
    async with _tenants(cluster) as tenants:
        priorities = {await tenants.post("many", priority): priority for priority in (0, 5, 9, 5, 9, 9)}
        jobs = list(priorities)
        for _ in range(workers):
            await asyncio.to_thread(cluster.add_worker)
        by_priority = sorted(jobs, key=lambda job: (-priorities[job], job.id))  # two may be of one millisecond
        while by_priority:
            await until(lambda: _so_many_run(tenants, jobs, min(workers, len(by_priority))))
            now = await tenants.running(jobs)
            assert set(now) == set(by_priority[: len(now)])
            await tenants.cancel(by_priority.pop(0))
