"""Jobs whose generation the provider keeps: made, taken over, and thrown back by a failover of the store."""

from typing import Any

from shared.events import Reset, Token
from shared.jobs import JobKey, JobRequest, Upstream
from shared.storage.jobs import Claimed
from shared.storage.keys import job_keys
from tests.storage import acts
from tests.storage.conftest import Stores
from worker.claim import Claimer, Taken

AT_5 = Upstream("resp_1", 5)
AT_6 = Upstream("resp_1", 6)


async def stored(stores: Stores, job: JobKey) -> Upstream | None:
    """What the job's record says."""
    return (await stores.jobs.show(job)).upstream


async def attached(stores: Stores, *texts: str, asked: JobRequest | None = None) -> tuple[JobKey, Claimed]:
    """A running job whose text so far is covered by `AT_5`."""
    job = await acts.create(stores, asked=asked)
    claimed = await acts.claim(stores, job)
    events = [Token(text) for text in texts]
    assert (await stores.jobs.append(job, claimed.epoch, 3, list(events), 7, AT_5)).verdict == "OK"
    return job, claimed


def claimer(stores: Stores, worker: str = "w2") -> Claimer:
    """Claims for one worker."""
    return Claimer(stores.jobs, stores.log, worker, acts.LEASE_MS)


async def take(stores: Stores, job: JobKey) -> Taken:
    """The job taken by a successor, its owner being lost."""
    await acts.lapse(stores, job)
    taken = await claimer(stores).take(job)
    assert isinstance(taken, Taken), taken
    return taken


async def last_reset(stores: Stores, job: JobKey) -> Reset:
    """The reset that began the last attempt."""
    return [event for event in await acts.events(stores, job) if isinstance(event, Reset)][-1]


Copy = tuple[dict[str, str], list[Any], str | None]


async def copy(stores: Stores, job: JobKey) -> Copy:
    """What a replica has of a job, at one moment."""
    keys = job_keys(job)
    pipe = stores.redis.pipeline(transaction=True)
    pipe.hgetall(keys.meta)
    pipe.xrange(keys.log)
    pipe.get(keys.lease)
    meta, rows, lease = await pipe.execute()
    return meta, rows, lease


async def put_back(stores: Stores, job: JobKey, copy: Copy) -> None:
    """What a failover does that lost everything since: the replica never had it."""
    keys, (meta, rows, lease) = job_keys(job), copy
    pipe = stores.redis.pipeline()
    pipe.delete(keys.meta, keys.log, keys.lease, keys.ops)
    pipe.hset(keys.meta, mapping=meta)
    for entry_id, fields in rows:
        pipe.xadd(keys.log, fields, id=entry_id)
    if lease is not None:
        pipe.set(keys.lease, lease, px=acts.LEASE_MS)
    for key in (keys.meta, keys.log):
        pipe.pexpire(key, 60_000)
    await pipe.execute()
