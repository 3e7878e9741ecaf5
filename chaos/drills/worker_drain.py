"""Workers that are told to go in the middle of long jobs, and a job that takes its workers down."""

import asyncio
import signal
from collections.abc import Sequence
from typing import Any

from chaos.drills._judge import created_ms, end_of, faults_of_log, none
from chaos.drills._load import Load
from chaos.drills._stage import Stage, now_ms, stage
from chaos.drills.frame import Drill, Figure, at_least, at_most, exactly, percentile
from shared.events import Done, Entry, Failed, Reset
from shared.settings import Settings
from tests.support.cluster import Process

WORKERS = 10
WIDTH = 40
EVERY_S = 1.5
"""Between two SIGTERMs: each worker then lives for about three drains."""
INNOCENT = 20


def talk(number: int) -> dict[str, Any]:
    """A job of 30 s that goes on where it was, or of 8 s that starts anew: either ends within five attempts."""
    if number % 4:
        return {"params": {"tokens": 600, "tokens_per_s": 20}, "on_interrupt": "continue"}
    return {"params": {"tokens": 160, "tokens_per_s": 20, "seed": number}}


def innocent(number: int) -> dict[str, Any]:
    """A job of twelve seconds: long enough to be there at all three crashes of a poisonous one."""
    return {"params": {"tokens": 240, "tokens_per_s": 20, "seed": number}}


async def drain(count: int) -> Sequence[Figure]:
    """SIGTERM one worker after the other, each replaced beforehand; time from the end of its drain to the new start."""
    drain_s = Settings().worker_drain_s
    async with stage(workers=WORKERS, seed=count) as on:
        held: list[tuple[str, int, float]] = []
        async with Load(on, WIDTH, talk) as load:
            await load.speaking()
            for _ in range(count):
                began = now_ms()
                await on.add_worker()
                await asyncio.sleep(max(0.0, EVERY_S - (now_ms() - began) / 1000))
                oldest = on.living_workers[0]
                jobs = await on.held_by(oldest, load.open)
                on.is_told_to_go(oldest)
                moment = now_ms()
                held += [(job, epoch, moment) for job, epoch in jobs.items()]
                oldest.signal(signal.SIGTERM)
        gone = [worker for worker in on.cluster.workers if worker not in on.living_workers]
        statuses = {await asyncio.to_thread(worker.wait) for worker in gone}
        logs = {watched.job_id: await on.entries(watched.job_id) for watched in load.watched}
        moves = [late for job, epoch, at in held if (late := _moved_s(logs[job], epoch, at, drain_s)) is not None]
        crashes = sum([(await on.record(job)).crashes for job in logs])
        return [
            at_least("SIGTERMs of workers with jobs in hand", len({at for *_, at in held}), 0.9 * count),
            at_least("jobs that outlasted the drain and were moved", len(moves), count),
            at_most("moved after the drain time, p99", percentile(moves, 0.99), 1, "s"),
            at_most("moved after the drain time, max", max(moves), 1, "s"),
            exactly("crashes counted", crashes, 0),
            exactly("jobs that did not end whole", sum(not isinstance(end_of(log), Done) for log in logs.values()), 0),
            none("faults in logs and at readers", await load.faults()),
            exactly("exit statuses of drained workers", statuses, {0}),
            none("processes that ended by themselves", on.died()),
        ]


def _moved_s(log: list[Entry], epoch: int, sigterm_ms: float, drain_s: float) -> float | None:
    """Seconds from the end of the drain to the job's new attempt; None where it ended within the drain."""
    for entry in log:
        if entry.id.epoch > epoch and isinstance(entry.event, Reset):
            return (created_ms(log) + (entry.event.at_ms or 0) - sigterm_ms) / 1000 - drain_s
    return None


async def poison(count: int) -> Sequence[Figure]:
    """Jobs that end their worker, one after another, among others that do not; workers are started again as they go."""
    async with stage(workers=3, seed=count) as on:
        supervising = asyncio.create_task(_supervise(on))
        async with Load(on, INNOCENT, innocent) as load:
            await load.speaking()
            bad = [await _end_of_a_poisonous_one(on, load) for _ in range(count)]
        supervising.cancel()
        logs = {job: await on.entries(job) for job in bad}
        ends = [end_of(log) for log in logs.values()]
        others = {watched.job_id: await on.entries(watched.job_id) for watched in load.watched}
        harmed = [job for job, log in others.items() if not isinstance(end_of(log), Done)]
        deaths = sum(not worker.alive for worker in on.cluster.workers)
        return [
            exactly("workers that went down", deaths, 3 * count),
            exactly("poisonous jobs that failed as such", sum(_as_poison(end) for end in ends), count),
            exactly("of their crashes", {(await on.record(job)).attempt for job in bad}, {3}),
            at_least("other jobs meanwhile", len(others), INNOCENT),
            at_least("of them hit by a crash", sum(_lost_a_worker(log) for log in others.values()), count),
            none("other jobs that did not end whole", harmed),
            none("faults in logs", [fault for log in logs.values() for fault in faults_of_log(log)]),
            none("faults at the others and their readers", await load.faults()),
            exactly("workers alive at the end", sum(worker.alive for worker in on.cluster.workers), 3),
        ]


async def _end_of_a_poisonous_one(on: Stage, load: Load) -> str:
    """Its id, once it and all that met it have ended: two killers at once are more than is promised (decision 0016)."""
    fault = {"kind": "exit", "after": 3, "attempts": 5}
    job = await on.tailrace.submit(
        provider="scripted", model="drill", prompt="x", params={"tokens": 9, "tokens_per_s": 20, "fault": fault}
    )
    await on.ended([job.id])
    await on.ended(load.open)
    return job.id


async def _supervise(on: Stage) -> None:
    """Start a worker for each that went down, as any supervisor does."""
    known: set[Process] = set()
    while True:
        for worker in on.cluster.workers:
            if not worker.alive and worker not in known:
                known.add(worker)
                await on.add_worker()
        await asyncio.sleep(0.1)


def _as_poison(end: object) -> bool:
    return isinstance(end, Failed) and end.code == "poisoned"


def _lost_a_worker(log: list[Entry]) -> bool:
    return any(isinstance(entry.event, Reset) and entry.event.reason == "worker_lost" for entry in log)


DRILLS = (
    Drill("worker-drain", (17,), "SIGTERM of a worker hands its jobs over, and that is no crash", 100, drain),
    Drill("poison", (20,), "a job that kills its workers fails after three crashes and harms no other", 2, poison),
)
