"""Readers that vanish without a word: no FIN, no RST, as a phone in a tunnel."""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from chaos.drills._meter import descriptors, sockets
from chaos.drills._netns import NODE, Wire, wire
from chaos.drills.frame import Drill, Figure, at_least, at_most, exactly
from tests.support.cluster import TAILRACE, Cluster, running_cluster

KEY = "key-of-the-drill"
FREED_S = 15.0
WATCH_S = 25.0
_CHILD = (sys.executable, "-m", "chaos.drills.vanished")


async def vanish(count: int) -> Sequence[Figure]:
    """`count` readers of a job that talks and as many of one that is silent; then their wire goes dead."""
    with wire() as between, running_cluster(api=0, env={"TAILRACE_API_KEYS": f"drill:{KEY}"}) as cluster:
        node = cluster.add_api(program=[*between.node, *TAILRACE], host=NODE)
        port = int(cluster.url.rpartition(":")[2])
        async with _readers(between, cluster.url, count):
            pass  # they leave as readers do, so that the node has all that it keeps for later ones
        base, channels = await _settled(node.pid), _subscriptions(cluster)
        async with _readers(between, cluster.url, count):
            held = len(sockets(port, between.node))
            between.cut()
            freed_s = await _freed(between, port)
            left = len(sockets(port, between.node))
            after, listening = await _settled(node.pid), _subscriptions(cluster)
    return [
        at_least("readers connected when the wire went dead", held, 2 * count),
        at_most("the last connection is freed after", freed_s, FREED_S, "s"),
        exactly("connections left", left, 0),
        at_most("descriptors more than before", after - base, 0),
        at_most("subscriptions more than before", listening - channels, 0),
    ]


@asynccontextmanager
async def _readers(between: Wire, url: str, count: int) -> AsyncIterator[None]:
    """The readers at the far end of the wire, all of them reading. They are killed at the end of the block."""
    command = [*between.readers, *_CHILD, url, str(count)]
    readers = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert readers.stdout is not None
    try:
        if await readers.stdout.readline() != b"reading\n":
            raise RuntimeError("the readers did not come to read")
        yield
    finally:
        readers.kill()
        await readers.wait()


async def _settled(pid: int) -> int:
    """The node's descriptors, once they are the same for a second."""
    seen = [descriptors(pid)]
    while len(seen) < 10 or len(set(seen[-10:])) > 1:
        await asyncio.sleep(0.1)
        seen.append(descriptors(pid))
    return seen[-1]


def _subscriptions(cluster: Cluster) -> int:
    with cluster.valkey.client() as client:
        return len(client.pubsub_channels("*:log:n"))


async def _freed(between: Wire, port: int) -> float:
    """Seconds until the node has no connection left; infinity where it still has some when the watch ends."""
    now = asyncio.get_running_loop().time
    since = now()
    while now() < since + WATCH_S:
        if not await asyncio.to_thread(sockets, port, between.node):
            return now() - since
        await asyncio.sleep(0.1)
    return float("inf")


async def _read(url: str, count: int) -> None:
    """The readers, run where the wire can be cut: half of them at a job that talks, half at one that is silent."""
    from tailrace_client import AsyncTailrace

    from chaos.drills._answers import all_opened, submit
    from chaos.drills._event_source import EventSource

    talking: dict[str, Any] = {"tokens": 2000, "tokens_per_s": 20}
    async with AsyncTailrace(url, KEY) as tailrace:
        jobs = [await submit(tailrace, **talking), await submit(tailrace, first_token_ms=600_000)]
    readers = [EventSource(url, job, KEY) for job in jobs for _ in range(count)]
    reading = asyncio.gather(*(reader.read() for reader in readers))
    await all_opened(readers)
    print("reading", flush=True)
    await reading


DRILLS = (Drill("vanished-readers", (24,), "a reader that vanishes is given up within seconds", 50, vanish),)

if __name__ == "__main__":
    asyncio.run(_read(sys.argv[1], int(sys.argv[2])))
