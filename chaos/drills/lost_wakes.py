"""Wakes and offers that get lost between API and store: how long the jobs wait that nobody was told of."""

import asyncio
from collections.abc import Sequence

from chaos.drills._judge import none
from chaos.drills._stage import Stage, client, stage
from chaos.drills._store_wire import LossyWire, lossy_wire
from chaos.drills.frame import Drill, Figure, at_least, at_most, exactly, percentile
from shared.events import Start
from shared.settings import Settings
from tests.support.cluster import Process, clean_environment, free_port

SHARE = 0.1
AT_ONCE = 10


async def lost_wakes(count: int) -> Sequence[Figure]:
    """Post through a node whose wakes and whose offers are lost, one in ten of each, independently."""
    async with stage(workers=2, seed=count) as on:
        path = on.cluster.folder / "lossy.sock"
        url = on.cluster.valkey.url
        async with lossy_wire(url, path, Settings().queue_name, SHARE, on.chance) as (lossy_url, wire):
            node = await _lossy_node(on, lossy_url)
            jobs = await _post(on.cluster.urls[-1], count)
            left = await on.ended(jobs)
            on.kill(node)
        await on.store.delete(*wire.astray)
        waits = [
            entry.event.queue_ms
            for job in jobs
            for entry in await on.entries(job)
            if isinstance(entry.event, Start) and entry.event.attempt == 1
        ]
        return [
            *_bites(wire, count),
            exactly("jobs without a terminal event", left, 0),
            exactly("jobs that were started", len(waits), count),
            Figure("queued → start, p50, p90", _quantiles(waits), "no bound", ok=True),
            at_most("queued → start, p99", percentile(waits, 0.99) / 1000, 2, "s"),
            at_most("queued → start, max", max(waits) / 1000, 2, "s"),
            none("processes that ended", on.died()),
        ]


async def _lossy_node(on: Stage, store_url: str) -> Process:
    """One more API node, which reaches the store over the lossy wire."""
    port = free_port()
    env = {**clean_environment(), "TAILRACE_REDIS_URL": store_url}
    node = Process("api-lossy", ["api", "--port", str(port)], env, on.cluster.folder / "api-lossy.log")
    on.cluster.apis.append(node)
    on.cluster.urls.append(f"http://127.0.0.1:{port}")
    return await asyncio.to_thread(node.start)


async def _post(url: str, count: int) -> list[str]:
    """So many jobs of one token, a few at a time."""
    jobs: list[str] = []
    async with client(url) as tailrace:

        async def some(number: int) -> None:
            for _ in range(number, count, AT_ONCE):
                job = await tailrace.submit(provider="scripted", model="drill", prompt="x", params={"tokens": 1})
                jobs.append(job.id)
                await asyncio.sleep(0.2)

        async with asyncio.TaskGroup() as group:
            for number in range(min(AT_ONCE, count)):
                group.create_task(some(number))
    return jobs


def _bites(wire: LossyWire, count: int) -> list[Figure]:
    return [
        at_least("wakes lost", wire.lost["wakes"], 0.05 * count),
        at_least("offers lost", wire.lost["offers"], 0.05 * count),
    ]


def _quantiles(waits: list[int]) -> str:
    return f"{percentile(waits, 0.5):.0f}, {percentile(waits, 0.9):.0f} ms"


DRILLS = (Drill("lost-wakes", (14,), "a wake or an offer that is lost strands no job", 1000, lost_wakes),)
