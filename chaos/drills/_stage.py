"""The stage of the worker, store and provider drills: real processes, a client, and a look into the store itself."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

from tailrace_client import AsyncTailrace, Patience

from shared.events import Entry
from shared.jobs import JobKey, JobRecord
from shared.storage.batch import Batcher
from shared.storage.connect import Redis, open_redis
from shared.storage.jobs import JobStore
from shared.storage.keys import job_keys
from shared.storage.log import EventLog
from tests.support.cluster import Cluster, Process, running_cluster

GUARD_S = 120.0
"""No drill waits longer for one thing."""


def key(job_id: str) -> JobKey:
    """A job of an open node."""
    return JobKey("default", job_id)


def now_ms() -> float:
    """Milliseconds since 1970: the store runs on this machine, so this is its clock too."""
    return time.time() * 1000


class Stage:
    """A cluster under a drill. Processes that the drill itself ends are ended through `kill` and `replace`."""

    def __init__(self, cluster: Cluster, store: Redis, tailrace: AsyncTailrace, chance: random.Random) -> None:
        self.cluster = cluster
        self.store = store
        self.tailrace = tailrace
        self.chance = chance
        self.jobs = JobStore(store, Batcher(store))
        self.log = EventLog(store)
        self._ended: set[Process] = set()

    @property
    def living_workers(self) -> list[Process]:
        """The workers that the drill has not ended."""
        return [worker for worker in self.cluster.workers if worker not in self._ended]

    def kill(self, process: Process) -> float:
        """kill -9; the moment of it, in ms since 1970."""
        self._ended.add(process)
        moment = now_ms()
        process.kill()
        return moment

    def is_told_to_go(self, process: Process) -> None:
        """This process may end now: the drill has asked it to."""
        self._ended.add(process)

    async def add_worker(self) -> Process:
        """One more worker, once it is ready."""
        return await asyncio.to_thread(self.cluster.add_worker)

    def died(self) -> list[str]:
        """Processes that have ended although the drill did not end them."""
        every = (*self.cluster.apis, *self.cluster.workers)
        return [process.name for process in every if process not in self._ended and not process.alive]

    async def held_by(self, worker: Process, jobs: Iterable[str]) -> dict[str, int]:
        """Those of `jobs` whose lease is this worker's, each with its running epoch."""
        asked = list(jobs)
        pipe = self.store.pipeline(transaction=False)
        for job in asked:
            pipe.get(job_keys(key(job)).lease)
        leases = [str(lease or "") for lease in (await pipe.execute() if asked else [])]
        return {
            job: int(lease.rpartition(":")[2])
            for job, lease in zip(asked, leases, strict=True)
            if f"-{worker.pid}-" in lease
        }

    async def entries(self, job: str) -> list[Entry]:
        """The job's log, as it stands in the store."""
        return await self.log.read_all(key(job))

    async def record(self, job: str) -> JobRecord:
        """The job's record."""
        return await self.jobs.show(key(job))

    async def ended(self, jobs: list[str], guard_s: float = GUARD_S) -> int:
        """Wait until all of `jobs` have ended, for `guard_s` at most; how many have not."""
        until = time.monotonic() + guard_s
        while True:
            records = await self.jobs.show_many([key(job) for job in jobs])
            left = sum(record is None or not record.ended for record in records)
            if not left or time.monotonic() > until:
                return left
            await asyncio.sleep(0.05)

    def logged(self, words: str) -> int:
        """How often the workers' logs say this."""
        return sum(worker.log.count(words) for worker in self.cluster.workers)

    def tracebacks(self) -> int:
        """How many tracebacks all processes have written."""
        return sum(process.log.count("Traceback") for process in (*self.cluster.apis, *self.cluster.workers))


@contextlib.asynccontextmanager
async def stage(
    api: int = 1, workers: int = 1, env: dict[str, str] | None = None, *, seed: int = 1
) -> AsyncIterator[Stage]:
    """Real processes for the length of a block; they all end with it."""
    async with contextlib.AsyncExitStack() as stack:
        cluster = await asyncio.to_thread(stack.enter_context, running_cluster(api, workers, env))
        store = open_redis(cluster.valkey.url, timeout_s=30.0, max_connections=16)
        stack.push_async_callback(store.aclose)
        tailrace = await stack.enter_async_context(client(cluster.url))
        yield Stage(cluster, store, tailrace, random.Random(seed))


def client(url: str, **patience: Any) -> AsyncTailrace:
    """A client that comes back at once: politeness would blur the figures."""
    return AsyncTailrace(url, patience=Patience(backoff=lambda tries, hint: 0.05 * min(tries + 1, 4), **patience))


async def until(condition: Callable[[], bool], guard_s: float = GUARD_S) -> None:
    """Wait for a condition; TimeoutError when the guard runs out."""
    async with asyncio.timeout(guard_s):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in other processes
            await asyncio.sleep(0.01)
