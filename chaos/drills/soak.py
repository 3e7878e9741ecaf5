"""Many minutes of ordinary work with a kill now and then: nothing grows, nothing is left, nobody loses an event."""

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tailrace_client import AsyncTailrace, Patience, TailraceError

from chaos.drills._answers import until
from chaos.drills._meter import descriptors, rss_bytes, slope
from chaos.drills.frame import Drill, Figure, at_least, at_most, exactly
from tests.support.cluster import Cluster, Process, running_cluster

JOBS_PER_MIN = 100
JOB: dict[str, Any] = {"tokens": 150, "tokens_per_s": 30}
TTL_S = 60
"""Longer than any reader is away."""
WARM_UP_S = 60.0
BURST = 100
SAMPLE_S = 5.0
KILL_EVERY_S = 20.0
PATIENCE = Patience(tries=20)
"""A node that is killed is back after some seconds; who asks for a job waits so long."""
KEPT_BY_CONTRACT = ("*:tomb", "tailrace:idem:*", "tailrace:jobs:*")


@dataclass
class Work:
    """The load, and what came of it."""

    cluster: Cluster
    ended: int = 0
    lost: int = 0
    resumes: int = 0
    attempts: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    running: set[asyncio.Task[None]] = field(default_factory=set)

    async def run(self, seconds: float) -> None:
        """Jobs at an even pace; returns when the time is over and all of them have ended."""
        now = asyncio.get_running_loop().time
        since = now()
        async with self._clients() as (first, second):
            for number in range(round(seconds * JOBS_PER_MIN / 60)):
                await asyncio.sleep(max(0.0, since + number * 60 / JOBS_PER_MIN - now()))
                one, other = (first, second) if number % 2 else (second, first)
                task = asyncio.create_task(self._job(one, other, number))
                self.running.add(task)
                task.add_done_callback(self.running.discard)
            await asyncio.gather(*self.running)

    @contextlib.asynccontextmanager
    async def _clients(self) -> AsyncIterator[tuple[AsyncTailrace, AsyncTailrace]]:
        one, other = self.cluster.urls
        async with AsyncTailrace(one, patience=PATIENCE) as first, AsyncTailrace(other, patience=PATIENCE) as second:
            yield first, second

    async def _job(self, one: AsyncTailrace, other: AsyncTailrace, number: int) -> None:
        """A job with a reader at either node; lost unless both have its text, each event once."""
        params = {**JOB, "seed": number}
        stream = one.stream(provider="scripted", model="demo", prompt="soak", params=params, ttl_s=TTL_S)
        try:
            await anext(stream)
            reader = other.events(str(stream.job_id))
            await asyncio.gather(stream.finish(), reader.finish())
            text = (await other.job(str(stream.job_id))).text
        except TailraceError as error:
            self.refused[f"{type(error).__name__}: {error}"[:80]] += 1
            return
        self.ended += stream.terminal is not None and stream.terminal.type == "done"
        self.attempts += int(stream.terminal.data["attempt"]) if stream.terminal else 0
        for one_of_them in (stream, reader):
            counters = one_of_them.counters
            self.lost += bool(counters.lost or counters.doubled) or one_of_them.transcript.text != text
            self.resumes += counters.resumes


async def soak(count: int) -> Sequence[Figure]:
    """`count` minutes of a hundred jobs a minute; one node, one worker and the store live through all of them."""
    with running_cluster(api=2, workers=3) as cluster:
        await Work(cluster).run(WARM_UP_S)
        await _fill_pools(cluster)
        before = await _settled(cluster)
        work, samples, kills = Work(cluster), Samples(cluster), Kills(cluster)
        others = [asyncio.create_task(samples.run()), asyncio.create_task(kills.run())]
        await work.run(count * 60)
        for task in others:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        after = await _settled(cluster)
    jobs = round(count * JOBS_PER_MIN)
    return [
        exactly("jobs that were done", work.ended, jobs),
        exactly("readers that lost, doubled or changed anything", work.lost, 0),
        exactly("readers that were refused", dict(work.refused), {}),
        at_least("kills", kills.done, max(1, count * 2)),
        at_least("resumes and new attempts that they made", work.resumes + work.attempts - work.ended, kills.done),
        *samples.figures(),
        *(
            at_most(f"{name}: more than before ({before[name]})", (after[name] - before[name]) / before[name], 0.05)
            for name in before
        ),
    ]


@dataclass
class Kills:
    """kill -9 for one of those that need not live, in turn; each is started again."""

    cluster: Cluster
    done: int = 0

    async def run(self) -> None:
        """Until cancelled."""
        for victim in itertools.cycle((self.cluster.workers[1], self.cluster.apis[1], self.cluster.workers[2])):
            await asyncio.sleep(KILL_EVERY_S)
            await asyncio.shield(asyncio.to_thread(_again, victim))
            self.done += 1


def _again(victim: Process) -> None:
    victim.kill()
    victim.start()


class Samples:
    """The memory of those that live all the time."""

    def __init__(self, cluster: Cluster) -> None:
        self._processes = {"the node": cluster.apis[0], "the worker": cluster.workers[0]}
        self._found: dict[str, list[tuple[float, float]]] = {name: [] for name in self._processes}

    async def run(self) -> None:
        """Until cancelled."""
        now = asyncio.get_running_loop().time
        while True:
            for name, process in self._processes.items():
                self._found[name].append((now(), rss_bytes(process.pid)))
            await asyncio.sleep(SAMPLE_S)

    def figures(self) -> list[Figure]:
        """How fast each of them grew."""
        made = []
        for name, points in self._found.items():
            mean = sum(rss for _, rss in points) / len(points)
            growth = slope(points) * 600 / mean * 100
            made.append(at_most(f"memory of {name} ({mean / 1e6:.0f} MB) grows by", growth, 1.0, "% in 10 min"))
        return made


async def _fill_pools(cluster: Cluster) -> None:
    """Let each node open as many connections to the store as it ever will: it keeps them."""
    for url in cluster.urls:
        async with AsyncTailrace(url) as tailrace:
            await asyncio.gather(*(tailrace.jobs() for _ in range(BURST)))


async def _settled(cluster: Cluster) -> dict[str, int]:
    """What is open and held once nothing is going on, and everything that may expire has expired."""
    with cluster.valkey.client() as client:
        await until(lambda: not client.zcard("tailrace:open") and not any(client.scan_iter(match="*:meta")))
        for pattern in KEPT_BY_CONTRACT:
            for key in client.scan_iter(match=pattern, count=1000):
                client.unlink(key)
        await asyncio.sleep(10)
        found = {
            f"descriptors of {process.name}": descriptors(process.pid) for process in (*cluster.apis, *cluster.workers)
        }
        found["clients of the store"] = client.info("clients")["connected_clients"]
        found["memory of the store, without tombstones and key records"] = client.info("memory")["used_memory"]
    return found


DRILLS = (Drill("soak", (38,), "a day's work leaves nothing behind (count: minutes)", 10, soak),)
