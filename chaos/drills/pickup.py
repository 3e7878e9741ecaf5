"""How long a job waits for a worker: an idle one, and one with a single free slot beside 150 running jobs."""

import asyncio
from collections.abc import Sequence

from chaos.drills._load import Load
from chaos.drills._stage import Stage, stage
from chaos.drills.frame import Drill, Figure, at_least, at_most, exactly, percentile
from shared.events import Start, Token

RUNNING = 150
BESIDE = 25
"""New jobs beside the 150, one after the other."""


async def idle(count: int) -> Sequence[Figure]:
    """One job after another for an idle worker. By the store's clock, from `queued` to `start`: an upper bound, for
    the API makes its offer only after the former."""
    async with stage() as on:
        await _pickups(on, 20)
        waits = await _pickups(on, count)
        return [
            at_least("jobs", len(waits), count),
            at_most("queued → start, p50", percentile(waits, 0.5), 3, "ms"),
            at_most("queued → start, p99", percentile(waits, 0.99), 20, "ms"),
            Figure("queued → start, max", f"{max(waits):.0f} ms", "no bound", ok=True),
        ]


async def beside_many(count: int) -> Sequence[Figure]:
    """As many slots as running jobs and one more: arq alone would not see the new job before one of the others ends."""
    async with stage(env={"TAILRACE_SLOTS": str(count + 1)}) as on:
        async with Load(on, count, lambda n: {"params": {"tokens": 200, "tokens_per_s": 4, "seed": n}}) as load:
            await load.speaking()
            load.no_more()
            running = len(await on.held_by(on.cluster.workers[0], load.open))
            waits = await _pickups(on, BESIDE)
            still = len(await on.held_by(on.cluster.workers[0], load.open))
            await asyncio.gather(*(on.tailrace.cancel(job) for job in load.open))
        return [
            exactly("jobs running before, and after", (running, still), (count, count)),
            at_least("new jobs", len(waits), BESIDE),
            at_most("queued → start of a new one, p50", percentile(waits, 0.5), 50, "ms"),
            at_most("queued → start of a new one, max", max(waits), 50, "ms"),
            exactly("running jobs that were disturbed", len(await load.faults()), 0),
        ]


async def _pickups(on: Stage, count: int) -> list[float]:
    """Milliseconds from `queued` to `start` of so many one-token jobs, one after another."""
    waits: list[float] = []
    for _ in range(count):
        job = await on.tailrace.submit(provider="scripted", model="drill", prompt="x", params={"tokens": 1})
        await on.tailrace.events(job.id).finish()
        log = [entry.event for entry in await on.entries(job.id)]
        assert any(isinstance(event, Token) for event in log)
        waits += [event.queue_ms for event in log if isinstance(event, Start)]
    return waits


DRILLS = (
    Drill("pickup", (13,), "an idle worker has a new job within milliseconds", 1000, idle),
    Drill("one-free-slot", (15,), "a new job does not wait behind the ones that run", RUNNING, beside_many),
)
