"""What closing the last gaps costs: waiting for a replica, and writing to disk before answering."""

import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import redis

from chaos.drills.frame import Drill, Figure
from shared.events import Token
from shared.storage.batch import Batcher
from shared.storage.connect import open_redis
from shared.storage.creation import Creation
from shared.storage.jobs import Claimed, JobStore
from tests.storage import acts
from tests.support.cluster import free_port, until
from tests.support.loops import running
from tests.support.stores import ValkeyProcess, running_valkey

ROUNDS = 5


async def run(count: int) -> Sequence[Figure]:
    """Time creates and appends, one after the other, without and with each setting, in turns."""
    with tempfile.TemporaryDirectory(prefix="tailrace-drill-") as folder, ExitStack() as stack:
        primary = stack.enter_context(running_valkey(Path(folder) / "primary"))
        replica = stack.enter_context(running_valkey(Path(folder) / "replica"))
        with primary.client() as one, replica.client() as other:
            _replicate(one, other)
            figures: dict[str, list[float]] = {}
            for _ in range(ROUNDS):
                for name, replicas, fsync in (
                    ("as shipped", 0, "everysec"),
                    ("1 replica", 1, "everysec"),
                    ("fsync always", 0, "always"),
                ):
                    one.config_set("appendfsync", fsync)
                    create_ms, append_ms = await _time(primary, replicas, count)
                    figures.setdefault(f"a create, {name}", []).append(create_ms)
                    figures.setdefault(f"an append, {name}", []).append(append_ms)
    return [
        Figure(name, f"{median(values):.2f} ms ({min(values):.2f}–{max(values):.2f})", "told", ok=True)
        for name, values in sorted(figures.items())
    ]


def _replicate(primary: "redis.Redis", replica: "redis.Redis") -> None:
    port = free_port()
    primary.config_set("bind", "127.0.0.1")
    primary.config_set("port", port)
    primary.config_set("repl-diskless-sync-delay", 0)
    replica.replicaof("127.0.0.1", str(port))
    until(lambda: _link(replica) == "up")


def _link(replica: "redis.Redis") -> str:
    told: Any = replica.info("replication")
    return str(told.get("master_link_status"))


async def _time(server: ValkeyProcess, replicas: int, count: int) -> tuple[float, float]:
    """Milliseconds of a create, and of an append, each the mean of `count`."""
    client = open_redis(server.url, timeout_s=5.0, max_connections=8)
    batcher = Batcher(client, replicas)
    async with running(batcher.run()):
        store = JobStore(client, batcher)
        jobs = [acts.new_job() for _ in range(count)]
        create_ms = await _mean_ms([partial(store.create, Creation(job, acts.request(), 60, ttl_s=1)) for job in jobs])
        taken = await store.claim(jobs[0], "w1", acts.LEASE_MS)
        assert isinstance(taken, Claimed)
        first = taken.seq + 1
        append_ms = await _mean_ms(
            [partial(store.append, jobs[0], taken.epoch, first + n, [Token("on ")]) for n in range(count)]
        )
        for job in jobs:
            await store.cancel(job, "user")
    await client.aclose()
    return create_ms, append_ms


async def _mean_ms(calls: Sequence[Callable[[], Awaitable[object]]]) -> float:
    began = time.perf_counter()
    for call in calls:
        await call()
    return (time.perf_counter() - began) * 1000 / len(calls)


DRILLS = (Drill("durability", (), "what waiting for a replica, or for the disk, costs", 200, run),)
