"""Workers that are killed, and workers that freeze and wake up: what becomes of the jobs in their hands."""

import asyncio
import signal
from collections.abc import Sequence
from typing import Any

from chaos.drills._judge import end_of, is_poisoned, none, reruns_ms
from chaos.drills._load import Load
from chaos.drills._stage import stage
from chaos.drills.frame import Drill, Figure, at_least, at_most, exactly, percentile
from shared.events import Done

WORKERS = 3
WIDTH = 30
FROZEN_S = 8.0


def talk(number: int) -> dict[str, Any]:
    """A job of about eight seconds whose every attempt says something else."""
    return {"params": {"tokens": 80, "tokens_per_s": 10, "seed": number}}


async def kill(count: int) -> Sequence[Figure]:
    """Kill one of three workers until so many running jobs were hit, and time their new starts.

    The next kill comes when all that the last one hit have ended: a job that is hit twice waits for a place of its own
    (decision 0016), which is another promise than this.
    """
    async with stage(workers=WORKERS, seed=count) as on:
        held: list[tuple[str, int, float]] = []
        kills = 0
        async with Load(on, 2 * WIDTH, talk) as load:
            await load.speaking()
            while len(held) < count:
                await asyncio.sleep(on.chance.uniform(0.0, 2.0))
                victim = on.chance.choice(on.living_workers)
                jobs = await on.held_by(victim, load.open)
                moment = on.kill(victim)
                kills += 1
                held += [(job, epoch, moment) for job, epoch in jobs.items()]
                await on.add_worker()
                await on.ended(list(jobs))
        logs = {watched.job_id: await on.entries(watched.job_id) for watched in load.watched}
        again = [ms for job, epoch, at in held if (ms := reruns_ms(logs[job], epoch, at)) is not None]
        unfair = [job for job, log in logs.items() if not isinstance(end_of(log), Done) and not is_poisoned(log)]
        return [
            at_least("running jobs hit by a kill", len(held), count),
            at_least("of them started again", len(again), 0.8 * count),
            exactly("jobs without a terminal event", sum(end_of(log) is None for log in logs.values()), 0),
            exactly("jobs that ended otherwise than whole, or poisoned by three crashes", len(unfair), 0),
            at_most("started again after the kill, p50", percentile(again, 0.5) / 1000, 8, "s"),
            at_most("started again after the kill, p99", percentile(again, 0.99) / 1000, 8, "s"),
            at_most("started again after the kill, max", max(again) / 1000, 10, "s"),
            none("faults in logs and at readers", await load.faults()),
            none("processes that ended by themselves", on.died()),
            Figure("kills, jobs", f"{kills}, {len(logs)}", "as many as it takes", ok=True),
        ]


async def zombies(count: int) -> Sequence[Figure]:
    """Freeze a worker for longer than its leases, wake it, and look for what it wrote behind its successors."""
    async with stage(workers=WORKERS, seed=count) as on:
        taken: list[tuple[str, int]] = []
        async with Load(on, WIDTH, talk) as load:
            await load.speaking()
            for _ in range(count):
                zombie = on.chance.choice(on.living_workers)
                jobs = await on.held_by(zombie, load.open)
                zombie.signal(signal.SIGSTOP)
                await asyncio.sleep(FROZEN_S)
                zombie.signal(signal.SIGCONT)
                await asyncio.sleep(on.chance.uniform(0.5, 1.5))
                taken += jobs.items()
        logs = {watched.job_id: await on.entries(watched.job_id) for watched in load.watched}
        moved = [(job, epoch) for job, epoch in taken if any(entry.id.epoch > epoch for entry in logs[job])]
        behind = 0
        for job, epoch in moved:
            order = [entry.id.epoch for entry in logs[job]]
            behind += epoch in order[next(place for place, one in enumerate(order) if one > epoch) :]
        return [
            at_least("running jobs in a frozen worker's hands", len(taken), 5 * count),
            at_least("of them taken over while it was frozen", len(moved), 2 * count),
            exactly("entries of an old epoch behind a new one", behind, 0),
            at_least("appends that were refused as FENCED", on.logged("FENCED"), count),
            none("faults in logs and at readers", await load.faults()),
            none("processes that ended by themselves", on.died()),
        ]


DRILLS = (
    Drill("worker-kill", (5,), "kill -9 of a worker in mid-generation costs its jobs a pause", 200, kill),
    Drill("zombies", (6,), "a frozen worker that wakes up appends nothing to a job that was taken over", 12, zombies),
)
