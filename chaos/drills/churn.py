"""What coming and going leaves behind in a node, and what a long replay does to those who share its loop."""

import asyncio
import random
import socket
import struct
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tailrace_client import AsyncTailrace

from chaos.drills._answers import submit
from chaos.drills._event_source import body
from chaos.drills._meter import PROBE, PROBED, descriptors, probe
from chaos.drills.frame import Drill, Figure, at_least, at_most, exactly, percentile
from tests.support.cluster import Cluster, running_cluster

AT_ONCE = 50
JOBS = 20
LONG_TOKENS = 20_000
REPLAYS = 10
PING_EVERY_S = 0.02
_SETTLED_S = 20.0
_RST = struct.pack("ii", 1, 0)


@asynccontextmanager
async def _probed() -> AsyncIterator[tuple[Cluster, str]]:
    """A node with a probe, a worker, and where the probe is asked."""
    with tempfile.TemporaryDirectory(prefix="tailrace-drill-") as folder:
        where = str(Path(folder, "probe"))
        with running_cluster(api=0, env={PROBE: where}) as cluster:
            cluster.add_api(program=PROBED)
            yield cluster, where


async def churn(count: int) -> Sequence[Figure]:
    """`count` connections that are dropped, politely or not, before, in and after the answer's first bytes."""
    async with _probed() as (cluster, where), AsyncTailrace(cluster.url) as tailrace:
        jobs = [await submit(tailrace, first_token_ms=600_000) for _ in range(JOBS)]
        jobs += [await submit(tailrace, tokens=100_000, tokens_per_s=5) for _ in range(JOBS)]
        await _come_and_go(cluster.url, jobs, 20 * AT_ONCE)  # what a node keeps for later: its pools, its caches
        base = await _settled(cluster, where)
        held, reached = await _come_and_go(cluster.url, jobs, count), await _settled(cluster, where)
    return [
        at_least("connections made and dropped", held, count),
        *(
            at_most(f"{name} more than before", after - before, 0)
            for name, before, after in zip(("tasks", "descriptors", "subscriptions"), base, reached, strict=True)
        ),
    ]


async def _come_and_go(url: str, jobs: list[str], count: int) -> int:
    """Make connections and drop them; how many had their answer's head, or were dropped before it on purpose."""
    chance, numbers, done = random.Random(count), iter(range(count)), []

    async def one_after_another() -> None:
        for number in numbers:
            await _drop_one(url, chance.choice(jobs), chance)
            done.append(number)

    await asyncio.gather(*(one_after_another() for _ in range(AT_ONCE)))
    return len(done)


async def _drop_one(url: str, job: str, chance: random.Random) -> None:
    target = urlsplit(url)
    reader, writer = await asyncio.open_connection(target.hostname, target.port)
    sock: socket.socket = writer.get_extra_info("socket")
    if chance.random() < 0.5:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
    writer.write(f"GET /jobs/{job}/events HTTP/1.1\r\nHost: {target.netloc}\r\n\r\n".encode())
    moment = chance.choice(("at once", "head", "event"))
    if moment != "at once":
        head = await reader.readuntil(b"\r\n\r\n" if moment == "head" else b"event: queued")
        assert head.startswith(b"HTTP/1.1 200"), head
    writer.transport.abort()


async def _settled(cluster: Cluster, where: str) -> tuple[int, int, int]:
    """Tasks, descriptors and subscriptions of the node, at their lowest while nobody comes any more."""
    loop = asyncio.get_running_loop()
    until, seen = loop.time() + _SETTLED_S, list[tuple[int, int, int]]()
    while loop.time() < until and (len(seen) < 10 or len(set(seen[-10:])) > 1):
        await asyncio.sleep(0.2)
        with cluster.valkey.client() as client:
            channels = len(client.pubsub_channels("*:log:n"))
        seen.append(((await probe(where))[0], descriptors(cluster.apis[0].pid), channels))
    return seen[-1]


async def replay_lag(count: int) -> Sequence[Figure]:
    """`count` times ten replays at once of a log of 20,000 events, event by event, while others ask for /healthz."""
    async with _probed() as (cluster, where), AsyncTailrace(cluster.url) as tailrace:
        job = await submit(tailrace, tokens=LONG_TOKENS)
        await tailrace.events(job).finish()
        await probe(where)
        pings: list[float] = []
        pinging = asyncio.create_task(_ping(tailrace, pings))
        read = 0
        for _ in range(count):
            read += sum(await asyncio.gather(*(_replay(cluster.url, job) for _ in range(REPLAYS))))
        _, late_ms = await probe(where)
        pinging.cancel()
    return [
        exactly("events replayed", read, count * REPLAYS * (LONG_TOKENS + 3)),
        at_least("looks at the loop meanwhile", len(late_ms), 100),
        at_most("the loop's lateness, p99", percentile(late_ms, 0.99), 50.0, "ms"),
        at_least("pings meanwhile", len(pings), 10),
    ]


async def _replay(url: str, job: str) -> int:
    """Read a whole log as fast as it comes; how many events it had."""
    target = urlsplit(url)
    reader, writer = await asyncio.open_connection(target.hostname, target.port)
    writer.write(f"GET /jobs/{job}/events?exact=true HTTP/1.1\r\nHost: {target.netloc}\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    read = b"".join([chunk async for chunk in body(head, reader)])
    writer.close()
    return read.count(b"\nid: ") + read.startswith(b"id: ")


async def _ping(tailrace: AsyncTailrace, took_s: list[float]) -> None:
    now = asyncio.get_running_loop().time
    while True:
        asked = now()
        await tailrace.health()
        took_s.append(now() - asked)
        await asyncio.sleep(PING_EVERY_S)


DRILLS = (
    Drill("reader-churn", (25,), "readers who come and go leave nothing behind", 10_000, churn),
    Drill("replay-lag", (26,), "a long replay does not hold up the others", 3, replay_lag),
)
