"""Everything that can end a job, all at once: each job gets exactly one terminal event, and nothing follows it.

First the acts themselves, each over a connection of its own to a real store, in the worst of moments; then whole
processes: answers that end, deadlines and cancels that all fall into the same few milliseconds.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

from chaos.drills._judge import end_of, faults_of_log, none
from chaos.drills._stage import Stage, key, stage
from chaos.drills.frame import Drill, Figure, at_least, exactly
from shared.events import Done, Entry, Event, Failed, Token
from shared.jobs import Act, JobKey, JobRequest, Message, new_job_id
from shared.storage.batch import Batcher
from shared.storage.connect import open_redis
from shared.storage.creation import Creation
from shared.storage.jobs import Claimed, JobStore
from shared.storage.keys import job_keys
from tests.support.loops import running

CONNECTIONS = 6
AT_ONCE = 24
JITTER_S = {"done": 0.004, "failed": 0.004, "takeover": 0.001}
"""Each act begins at a random moment up to so late; those that need several round trips begin sooner."""
OTHERS_JITTER_S = 0.012
LEASE_MS = 6_000
REQUEST = JobRequest("scripted", "drill", [Message("user", "x")])
OVER_HTTP = 20
"""One in so many is raced by whole processes."""

Ending = Callable[[JobStore, JobKey, Claimed], Awaitable[bool]]


async def one_end(count: int) -> Sequence[Figure]:
    """So many races between all who may end a job."""
    env = {"TAILRACE_JOB_DEADLINE_S": "1.0"}
    async with stage(workers=1, env=env, seed=count) as on, AsyncExitStack() as stack:
        stores = []
        for _ in range(CONNECTIONS):
            redis = open_redis(on.cluster.valkey.url, timeout_s=10.0, max_connections=4)
            stack.push_async_callback(redis.aclose)
            batcher = Batcher(redis)
            await stack.enter_async_context(running(batcher.run()))
            stores.append(JobStore(redis, batcher))
        races = _Races(on, stores)
        await asyncio.gather(*(races.run(number, count) for number in range(AT_ONCE)))
        http = await _over_http(on, max(AT_ONCE, count // OVER_HTTP))
        return [
            at_least("jobs that several wanted to end at once", races.count, count),
            *(at_least(f"of them ended by {name}", races.won[name], 0.002 * count) for name in ENDINGS),
            none("jobs of which not exactly one believes to have ended it", races.disputed),
            none("terminal events but one, or not at the end", races.faults),
            at_least("over HTTP: ended whole", http["done"], 1),
            at_least("over HTTP: ended by the deadline", http["failed"], 1),
            at_least("over HTTP: cancelled", http["cancelled"], 1),
            exactly("over HTTP: faults", http["faults"], 0),
            none("processes that ended", on.died()),
        ]


class _Races:
    """Races over connections that know nothing of each other, and what came of them."""

    def __init__(self, on: Stage, stores: list[JobStore]) -> None:
        self._on = on
        self._stores = stores
        self.count = 0
        self.won: Counter[str] = Counter()
        self.disputed: list[str] = []
        self.faults: list[str] = []

    async def run(self, first: int, count: int) -> None:
        """Every AT_ONCE-th race of `count`."""
        for _ in range(first, count, AT_ONCE):
            await self._race(JobKey("default", new_job_id()))

    async def _race(self, job: JobKey) -> None:
        chance = self._on.chance
        owner, *others = chance.sample(self._stores, k=4)
        await owner.create(Creation(job, REQUEST, deadline_s=60, ttl_s=60))
        claimed = await owner.claim(job, "w1", LEASE_MS)
        assert isinstance(claimed, Claimed)
        names = [chance.choice(("done", "failed")), *chance.sample(OTHERS, k=3)]
        if {"poisoned", "takeover"} & set(names):
            await self._on.store.delete(job_keys(job).lease)
        answers = await asyncio.gather(
            *(self._act(name, store, job, claimed) for name, store in zip(names, (owner, *others), strict=True))
        )
        log = await self._on.log.read_all(job)
        winners = [name for name, won in zip(names, answers, strict=True) if won]
        if len(winners) != 1:
            self.disputed.append(f"{job}: {winners} of {names}")
        self.won.update(winners)
        self.faults += [f"{job}: {fault}" for fault in faults_of_log(log)]
        self.count += 1

    async def _act(self, name: str, store: JobStore, job: JobKey, claimed: Claimed) -> bool:
        await asyncio.sleep(self._on.chance.uniform(0, JITTER_S.get(name, OTHERS_JITTER_S)))
        return await ENDINGS[name](store, job, claimed)


async def _finish(store: JobStore, job: JobKey, claimed: Claimed, end: Event, act: Act) -> bool:
    last = [Token("so "), end]
    return (await store.finish(job, claimed.epoch, claimed.seq + 1, last, act=act, usage={})).verdict == "OK"


async def _done(store: JobStore, job: JobKey, claimed: Claimed) -> bool:
    return await _finish(store, job, claimed, Done("stop", {}, 1, claimed.attempt, {}), Act.DONE)


async def _failed(store: JobStore, job: JobKey, claimed: Claimed) -> bool:
    end = Failed("provider_timeout", "x", True, claimed.attempt, {})
    return await _finish(store, job, claimed, end, Act.FAILED)


async def _takeover(store: JobStore, job: JobKey, claimed: Claimed) -> bool:
    taken = await store.claim(job, "w2", LEASE_MS, offered=claimed.epoch)
    return isinstance(taken, Claimed) and await _done(store, job, taken)


ENDINGS: dict[str, Ending] = {
    "done": _done,
    "failed": _failed,
    "cancel": lambda store, job, _: store.cancel(job, "user"),
    "deadline": lambda store, job, _: store.fail(job, "deadline_exceeded"),
    "poisoned": lambda store, job, claimed: store.fail(job, "poisoned", epoch=claimed.epoch, unleased=True),
    "takeover": _takeover,
}
OTHERS = tuple(name for name in ENDINGS if name not in ("done", "failed"))


async def _over_http(on: Stage, count: int) -> Counter[str]:
    """Jobs that end by themselves, by their deadline and by a cancel, all about one second after their POST."""
    found: Counter[str] = Counter()

    async def race(number: int) -> None:
        params = {"tokens": 20, "tokens_per_s": on.chance.choice((15.0, 19.0, 21.0, 23.0)), "seed": number}
        job = await on.tailrace.submit(provider="scripted", model="drill", prompt="x", params=params)
        await asyncio.sleep(on.chance.uniform(0.7, 1.0))
        await on.tailrace.cancel(job.id)
        log = await on.log.read_all(key(job.id))
        found[_kind(log)] += 1
        found["faults"] += len(faults_of_log(log))

    for first in range(0, count, AT_ONCE):
        await asyncio.gather(*(race(number) for number in range(first, min(first + AT_ONCE, count))))
    return found


def _kind(log: list[Entry]) -> str:
    end = end_of(log)
    return end.type if end is not None else "open"


DRILLS = (Drill("one-end", (12,), "whoever races to end a job, it has one end", 5000, one_end),)
