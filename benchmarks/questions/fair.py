"""How long a tenant waits while another has 10,000 jobs waiting, over while that has a handful, and all slots.

A worker of 20 slots, in which the other tenant's jobs take half a second to one and a half: about every 50 ms a slot is
free for somebody.
"""

import contextlib
import random
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from benchmarks.bench import Bench
from benchmarks.processes import Running, Tailrace
from benchmarks.questions.pickup import waits
from benchmarks.samples import Sample, percentiles_ms
from benchmarks.targets import OURS
from shared.jobs import JobKey, JobRequest, Message, new_job_id
from shared.queue import Queue
from shared.settings import Settings
from shared.storage.control import Control
from shared.storage.creation import Creation
from shared.storage.keys import waiting
from shared.storage.sealed import PLAIN

QUESTION = "fair"
SLOTS = 20
HANDFUL = 200
"""Enough to keep the slots full for as long as is measured beside them."""
MANY = 10_000
TENANT = "many"
TOKENS = (10, 30)
"""Jobs of one length, begun together, would free all slots at one moment and none for a second."""
TOKENS_PER_S = 20


def measure(bench: Bench) -> list[Sample]:
    """Tailrace alone, with itself."""
    return bench.each((OURS,), partial(_ask, bench), rounds=3)


def _ask(bench: Bench, running: Running, number: int) -> Sample:
    count = 30 if bench.plan.quick else 60
    with _small() as small:
        waits(small, 5)
        _post(small, HANDFUL)
        few = waits(small, count)
        _post(small, MANY - _waiting(small))
        many = waits(small, count)
        left = _waiting(small)
    figures = {**percentiles_ms(many), **percentiles_ms(few, "handful_"), "left": float(left)}
    figures["p50_ratio"] = figures["p50_ms"] / figures["handful_p50_ms"]
    return Sample(QUESTION, running.name, number, figures)


@contextlib.contextmanager
def _small() -> Iterator[Tailrace]:
    running = Tailrace(0, env={"TAILRACE_SLOTS": str(SLOTS)})
    try:
        yield running
    finally:
        running.stop()


def _waiting(running: Tailrace) -> int:
    return int(str(running.store.zcard(waiting(TENANT))))


def _post(running: Tailrace, count: int) -> None:
    """So many jobs of the other tenant, made in the store as a node makes them."""
    unused: Any = None  # only commands are asked for
    control, queue = Control(unused), Queue(unused, Settings().queue_name)
    for begin in range(0, count, 250):
        pipe = running.store.pipeline(transaction=False)
        for _ in range(min(250, count - begin)):
            job = JobKey(TENANT, new_job_id())
            params = {"tokens": random.randint(*TOKENS), "tokens_per_s": TOKENS_PER_S}
            asked = JobRequest("scripted", "demo", [Message("user", "x")], params=params)
            creation = Creation(job, asked, deadline_s=3600, ttl_s=60)
            for command in (
                *control.indexing(job, time.time_ns() // 1_000_000, 3_600_000),
                creation.command(True, PLAIN),
                *queue.offering(job, epoch=0, priority=5),
            ):
                pipe.execute_command(*command)  # type: ignore[no-untyped-call]
        pipe.execute()
