"""A node whose loop stands still while the store has more to tell it than the store will keep for it."""

import asyncio
import signal
from collections.abc import Sequence

from tailrace_client import AsyncTailrace

from chaos.drills._answers import all_opened, mismatches, submit, until
from chaos.drills._event_source import EventSource
from chaos.drills.frame import Drill, Figure, at_least, at_most, exactly
from shared.jobs import JobKey
from shared.storage.keys import job_keys, notice_channel
from tests.support.cluster import Cluster, running_cluster

LOGS = 60
BLOCKED_S = 2.0
LIMIT = "pubsub 1mb 1mb 0"
NOISE = b"0-1" + b" " * 1000
"""A notice says nothing but that there is news; of long ones fewer fill the store's buffer."""
CAUGHT_UP_S = 4.0
"""A tick, and what reading sixty logs takes."""


async def lose_wakes(count: int) -> Sequence[Figure]:
    """`count` times two seconds of standstill under sixty logs that go on."""
    with running_cluster() as cluster:
        async with AsyncTailrace(cluster.url) as tailrace:
            jobs = [await submit(tailrace, tokens=100_000, tokens_per_s=10) for _ in range(LOGS)]
            readers = [EventSource(cluster.url, job) for job in jobs]
            reading = [asyncio.create_task(reader.read()) for reader in readers]
            await all_opened(readers)
            dropped, behind_s = 0, []
            for _ in range(count):
                await until(lambda: _subscribed(cluster))  # again: a node catches up sooner than it subscribes
                dropped += await _block(cluster, jobs)
                behind_s.append(await _caught_up(cluster, readers))
            await asyncio.gather(*(tailrace.cancel(job) for job in jobs))
            await asyncio.gather(*reading)
        wrong = await mismatches(cluster.url, "", readers)
    return [
        at_least("subscriptions that the store gave up", dropped, count),
        exactly("connections of readers that broke", sum(len(reader.broken_at) for reader in readers), 0),
        exactly("readers whose events are not the log's", wrong, 0),
        at_most("all logs are caught up after, the slowest", max(behind_s), CAUGHT_UP_S, "s"),
    ]


async def _block(cluster: Cluster, jobs: list[str]) -> int:
    """Stop the node, and let the store run over; how many of its clients it dropped for that."""
    with cluster.valkey.client() as client:
        client.config_set("client-output-buffer-limit", LIMIT)
        before = _dropped(client.info("stats"))
        now = asyncio.get_running_loop().time
        cluster.apis[0].signal(signal.SIGSTOP)
        until = now() + BLOCKED_S
        try:
            while now() < until:
                pipe = client.pipeline(transaction=False)
                for job in jobs:
                    pipe.publish(notice_channel(JobKey("default", job)), NOISE)
                pipe.execute()
                await asyncio.sleep(0.005)
        finally:
            cluster.apis[0].signal(signal.SIGCONT)
        return _dropped(client.info("stats")) - before


def _subscribed(cluster: Cluster) -> bool:
    with cluster.valkey.client() as client:
        return any(int(one.get("sub", 0)) == LOGS for one in client.client_list())


def _dropped(stats: dict[str, int]) -> int:
    return stats["client_output_buffer_limit_disconnections"]


async def _caught_up(cluster: Cluster, readers: list[EventSource]) -> float:
    """Seconds until every reader has at least what its log held when the node ran again."""
    now = asyncio.get_running_loop().time
    since = now()
    with cluster.valkey.client() as client:
        pipe = client.pipeline(transaction=False)
        for reader in readers:
            pipe.xrevrange(job_keys(JobKey("default", reader.job)).log, count=1)
        wanted = [int(rows[0][0].partition("-")[2]) for rows in pipe.execute()]
    pairs = list(zip(readers, wanted, strict=True))
    await until(lambda: all(reader.frames and reader.frames[-1].seq >= seq for reader, seq in pairs))
    return now() - since


DRILLS = (Drill("slow-wakes", (39,), "a node that lost its wake-ups looks at every log itself", 5, lose_wakes),)
