"""Readers that stop reading, while the answer goes on and others read it."""

import asyncio
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tailrace_client import AsyncTailrace

from chaos.drills._answers import all_opened, submit
from chaos.drills._event_source import EventSource
from chaos.drills._meter import lateness_ms, rss_bytes, sockets
from chaos.drills.frame import Drill, Figure, at_least, at_most, exactly, percentile
from tests.support.cluster import Cluster, Process, running_cluster

PACE_PER_S = 20
OTHERS = 10
FILLED_S = 5.0
"""Until then they have been served as fast as they could take it; afterwards their buffers are full."""
WATCH_S = 30.0
"""How long stalled readers are watched: longer than the 25 s after which they must be gone."""
FAST: dict[str, Any] = {"text": ("x" * 799 + " ") * 200, "tokens": 9600, "tokens_per_s": 300}
"""The long fast stream: 240 kB/s for half a minute."""
SLACK_MS = 10.0
"""What counts as unchanged: the noise of a machine that does other things too."""
MB = 1_000_000


async def stall(count: int) -> Sequence[Figure]:
    """`count` sockets that ask for a fast stream and never read, beside readers of a paced one."""
    with running_cluster() as cluster:
        async with AsyncTailrace(cluster.url) as tailrace:
            base = await _phase(cluster, tailrace, None)
            stalled = Stalled(count, cluster.apis[0])
            late = await _phase(cluster, tailrace, stalled)
        alive = cluster.apis[0].alive
    before, during = percentile(base, 0.99), percentile(late, 0.99)
    return [
        at_least("stalled readers connected at once", stalled.connected, count),
        at_most("the last of them is dropped after", stalled.dropped_after_s, 25.0, "s"),
        exactly("connections left of theirs", stalled.left, 0),
        at_most(
            f"each pins, in the kernel ({stalled.kernel / count / MB:.2f} MB) and in the node",
            (stalled.kernel + stalled.rss) / count / MB,
            0.5,
            "MB",
        ),
        at_most(f"a token's lateness for others, p99 ({before:.1f} ms before)", during, before + SLACK_MS, "ms"),
        exactly("the node lives", alive, True),
    ]


@dataclass
class Stalled:
    """The readers that never read, and what they cost at most."""

    count: int
    node: Process
    connected: int = 0
    left: int = 0
    dropped_after_s: float = float("inf")
    kernel: int = 0
    rss: int = 0

    async def watch(self, url: str, job: str) -> None:
        """Connect, stall, and look at the node until all are dropped, or the time is over."""
        now = asyncio.get_running_loop().time
        port = int(url.rpartition(":")[2])
        others, memory = len(sockets(port)), rss_bytes(self.node.pid)
        held_by_others = sum(sockets(port))
        with ExitStack() as exits:
            for _ in range(self.count):
                exits.enter_context(await _never_reading(url, job))
            since = now()
            while now() < since + WATCH_S:
                held = await asyncio.to_thread(sockets, port)
                self.left = max(0, len(held) - others)
                self.connected = max(self.connected, self.left)
                self.kernel = max(self.kernel, sum(held) - held_by_others)
                self.rss = max(self.rss, rss_bytes(self.node.pid) - memory)
                if self.left == 0:
                    self.dropped_after_s = now() - since
                    return
                await asyncio.sleep(0.5)


async def _phase(cluster: Cluster, tailrace: AsyncTailrace, stalled: Stalled | None) -> list[float]:
    """Read a paced job beside a fast one, with or without readers that stall: how late each token was, in ms."""
    fast = await submit(tailrace, **FAST)
    paced = await submit(tailrace, tokens=round(PACE_PER_S * WATCH_S), tokens_per_s=PACE_PER_S)
    others = [EventSource(cluster.url, paced) for _ in range(OTHERS)]
    readers = [*others, EventSource(cluster.url, fast)]
    reading = asyncio.gather(*(reader.read() for reader in readers))
    await all_opened(readers)
    if stalled is not None:
        await stalled.watch(cluster.url, fast)
    await reading
    late: list[float] = []
    for reader in others:
        heard_at = reader.token_times()
        each = zip(heard_at, lateness_ms(heard_at, PACE_PER_S), strict=True)
        late += [ms for at, ms in each if at >= heard_at[0] + FILLED_S]
    return late


async def _never_reading(url: str, job: str) -> socket.socket:
    """A connection that has asked for a job's events, and of whose answer nobody will read a byte."""
    target = urlsplit(url)
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, (target.hostname, target.port))
    await loop.sock_sendall(sock, f"GET /jobs/{job}/events HTTP/1.1\r\nHost: {target.netloc}\r\n\r\n".encode())
    return sock


DRILLS = (
    Drill("stalled-readers", (23,), "a reader that does not read is dropped and costs the others nothing", 200, stall),
)
