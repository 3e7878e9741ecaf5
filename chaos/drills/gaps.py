"""Logs that are trimmed, deleted and expired under their readers: no silence, no jump, nothing left."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

from chaos.drills._answers import until
from chaos.drills.frame import Drill, Figure, at_least, at_most, exactly
from shared.jobs import JobKey
from shared.storage.keys import job_keys
from tests.support.cluster import Cluster, running_cluster
from tests.support.wire import Json, Wire

TOLD_S = 5.0
"""A reader whose log is gone is told within a tick (2 s) and a look or two, and not after a time-out."""
GUARD_S = 30.0
AT_ONCE = 5
TALKING: Json = {"tokens": 2000, "tokens_per_s": 50}
TTL_S = 4
TEXT_BYTES = 20_000
ALLOWED = 0.05


async def tell_gaps(count: int) -> Sequence[Figure]:
    """`count` times: a log trimmed under a cursor, deleted under a reader, and asked for with a cursor to come."""
    told: Counter[str] = Counter()
    slowest_s = 0.0
    with running_cluster() as cluster:
        async with Wire(cluster.url) as wire:
            for start in range(0, count, AT_ONCE):
                rounds = range(start, min(start + AT_ONCE, count))
                told.update(await asyncio.gather(*(_trimmed(cluster, wire) for _ in rounds)))
                told.update(await asyncio.gather(*(_from_the_future(wire) for _ in rounds)))
                for how, took_s in await asyncio.gather(*(_deleted(cluster, wire) for _ in rounds)):
                    told[how] += 1
                    slowest_s = max(slowest_s, took_s)
    return [
        at_least("trimmed under a cursor: a snapshot, and then the rest", told["trimmed"], count),
        at_least("a cursor to come: a snapshot, and then the rest", told["future"], count),
        at_least("deleted under a reader: log_lost", told["deleted"], count),
        exactly("anything else", told.total() - 3 * count, 0),
        at_most("a lost log is told after, the slowest", slowest_s, TOLD_S, "s"),
    ]


def _log_of(job: str) -> str:
    return job_keys(JobKey("default", job)).log


async def _snapshot_and_rest(wire: Wire, job: str, cursor: str, name: str) -> str:
    """Read on from a cursor that the log does not hold while the job runs; `name` if it is told and goes on whole."""
    async with wire.tail(job, cursor, exact="true") as tail:
        got = await tail.until(lambda streamed: len(streamed.frames) >= 4)
        await wire.cancel(job)
        got = await tail.end()
    first = got.frames[0]
    whole = all(later.seq == sooner.seq + 1 for sooner, later in zip(got.frames, got.frames[1:], strict=False))
    snapshot = first.event == "reset" and first.body.get("snapshot") is True
    return name if snapshot and whole and got.names[-1] == "cancelled" else f"{name}: {got.names[:3]}"


async def _trimmed(cluster: Cluster, wire: Wire) -> str:
    job = await wire.submit(params=TALKING)
    async with wire.tail(job, exact="true") as tail:
        seen = await tail.until(lambda streamed: streamed.names.count("token") >= 5)
        cursor = str(seen.ids[3])
        await tail.until(lambda streamed: streamed.names.count("token") >= 10)
        with cluster.valkey.client() as client:
            client.xtrim(_log_of(job), maxlen=3, approximate=False)
    return await _snapshot_and_rest(wire, job, cursor, "trimmed")


async def _from_the_future(wire: Wire) -> str:
    job = await wire.submit(params=TALKING)
    async with wire.tail(job) as tail:
        await tail.until(lambda streamed: "token" in streamed.names)
    return await _snapshot_and_rest(wire, job, "99999999999-7", "future")


async def _deleted(cluster: Cluster, wire: Wire) -> tuple[str, float]:
    """What a reader of a silent job gets when its keys go, and how long after."""
    now = asyncio.get_running_loop().time
    job = await wire.submit(params={"first_token_ms": 600_000})
    async with wire.tail(job, exact="true") as tail:
        await tail.until(lambda streamed: "start" in streamed.names)
        with cluster.valkey.client() as client:
            client.delete(*job_keys(JobKey("default", job))[:4])
        gone_at = now()
        async with asyncio.timeout(GUARD_S):
            got = await tail.end()
    lost = got.last.event == "failed" and got.last.body["code"] == "log_lost" and got.last.id is None
    return "deleted" if lost else f"deleted: {got.names[-1]}", now() - gone_at


async def expire(count: int) -> Sequence[Figure]:
    """`count` jobs that are kept for four seconds: what is left of them when that is over."""
    with running_cluster() as cluster:
        async with Wire(cluster.url) as wire:
            await _jobs(wire, 50, ttl_s=1)  # what the store and its clients keep anyway
            with cluster.valkey.client() as client:
                await _expired(client, 0)
                base = _used(client)
                jobs = await _jobs(wire, count, ttl_s=TTL_S)
                peak = _used(client)
                await _expired(client, 0)
                left = await _lowest(client, base + ALLOWED * (peak - base))
                statuses = Counter([(await wire.ask("GET", f"/jobs/{job}")).status_code for job in jobs])
                asked = [(await wire.ask("GET", f"/jobs/{job}/events")).status_code for job in jobs[:50]]
    return [
        at_least("memory that the jobs took", (peak - base) / 1e6, count * TEXT_BYTES / 2e6, "MB"),
        at_most("share of it that is left", max(0, left - base) / (peak - base), ALLOWED),
        exactly("answers to GET /jobs/{id}", dict(statuses), {410: count}),
        exactly("answers to GET /jobs/{id}/events", dict(Counter(asked)), {410: len(asked)}),
    ]


async def _jobs(wire: Wire, count: int, ttl_s: int) -> list[str]:
    """Finished jobs of some size; their ids."""
    text = ("x" * 99 + " ") * (TEXT_BYTES // 100)
    done: list[str] = []

    async def some() -> None:
        while len(done) < count:
            done.append("")
            place = len(done) - 1
            done[place] = await wire.submit(text, ttl_s=ttl_s)
            await wire.events(done[place])

    await asyncio.gather(*(some() for _ in range(10)))
    return done


def _used(client: Any) -> int:
    used: int = client.info("memory")["used_memory"]
    return used


async def _lowest(client: Any, enough: float) -> int:
    """The memory in use, once it is enough, or the watch is over: buffers of clients shrink within seconds."""
    now = asyncio.get_running_loop().time
    until_s, lowest = now() + GUARD_S, _used(client)
    while lowest > enough and now() < until_s:
        await asyncio.sleep(0.5)
        lowest = min(lowest, _used(client))
    return lowest


async def _expired(client: Any, left: int) -> None:
    """Wait until no log is in the store any more."""
    await until(lambda: sum(1 for _ in client.scan_iter(match="*:log", count=1000)) <= left)


DRILLS = (
    Drill("gap-is-told", (33,), "a reader whose place in the log is gone is told, and goes on whole", 20, tell_gaps),
    Drill("retention", (36,), "what has expired is gone, and its memory too", 500, expire),
)
