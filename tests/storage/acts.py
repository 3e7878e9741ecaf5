"""What storage tests do again and again: make a job, take it, let its lease lapse, read what its log says."""

import asyncio
from typing import Any

from shared.events import Done, Entry, Event
from shared.jobs import JobKey, JobRequest, Message, OnInterrupt, new_job_id
from shared.storage.creation import Creation
from shared.storage.jobs import Claimed
from shared.storage.keys import WAKE, job_keys, waiting
from shared.transcript import fold
from tests.storage.conftest import Stores
from tests.support.loops import GUARD_S

LEASE_MS = 6_000
DONE = Done("stop", {"output_tokens": 1}, 1, 1, {"latency_ms": 5}, at_ms=5)


def request(on_interrupt: OnInterrupt = OnInterrupt.RESTART, priority: int = 5) -> JobRequest:
    """An ordinary request."""
    return JobRequest("scripted", "demo", [Message("user", "hi")], on_interrupt=on_interrupt, priority=priority)


def new_job(tenant: str = "default") -> JobKey:
    """A fresh job's key."""
    return JobKey(tenant, new_job_id())


async def create(
    stores: Stores, job: JobKey | None = None, asked: JobRequest | None = None, *, deadline_s: float = 60
) -> JobKey:
    """A job in the log store."""
    job = job or new_job()
    assert await stores.jobs.create(Creation(job, asked or request(), deadline_s=deadline_s, ttl_s=60))
    return job


async def claim(stores: Stores, job: JobKey, worker: str = "w1") -> Claimed:
    """The job taken."""
    taken = await stores.jobs.claim(job, worker, LEASE_MS)
    assert isinstance(taken, Claimed), taken
    return taken


async def lapse(stores: Stores, job: JobKey) -> None:
    """What time does to a lease that nobody renews."""
    await stores.redis.delete(job_keys(job).lease)


async def offers(stores: Stores, tenant: str = "default") -> list[str]:
    """What waits of a tenant, in order."""
    return [str(name) for name in await stores.redis.zrange(waiting(tenant), 0, -1)]


async def bells(stores: Stores) -> list[str]:
    """What is in the wake list, the next one first."""
    redis: Any = stores.redis
    return [str(name) for name in reversed(await redis.lrange(WAKE, 0, -1))]


async def events(stores: Stores, job: JobKey) -> list[Event]:
    """The events of the whole log."""
    return [entry.event for entry in await stores.log.read_all(job)]


async def text(stores: Stores, job: JobKey) -> str:
    """The text that the log leaves."""
    return fold(await events(stores, job)).text


def assert_sound(entries: list[Entry]) -> None:
    """Ids rise, and seq has no hole (DESIGN §2, invariant 2)."""
    ids = [entry.id for entry in entries]
    assert [entry_id.seq for entry_id in ids] == list(range(1, len(ids) + 1))
    assert [entry_id.epoch for entry_id in ids] == sorted(entry_id.epoch for entry_id in ids)


async def lose_tail(stores: Stores, job: JobKey, keep: int) -> None:
    """What a failover does that lost the log's last entries: it never had them."""
    name = job_keys(job).log
    rows = await stores.redis.xrange(name, count=keep)
    await stores.redis.delete(name)
    for entry_id, fields in rows:
        await stores.redis.xadd(name, fields, id=entry_id)
    await stores.redis.pexpire(name, 60_000)


async def until_ms(stores: Stores, ms: int) -> None:
    """Wait for the store's clock."""
    async with asyncio.timeout(GUARD_S):
        while (await stores.jobs.standings([]))[0] < ms:
            pass
