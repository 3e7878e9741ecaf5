"""What a proxy with its own defaults does to a stream: hold it back, compress it, cut it when it is silent."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise

from tailrace_client import AsyncTailrace

from chaos.drills._answers import KEY, STACK_ENV, demand_nginx, submit
from chaos.drills._event_source import EventSource
from chaos.drills._event_source import body as pieces
from chaos.drills._meter import lateness_ms
from chaos.drills._proxy import bare_proxy
from chaos.drills.frame import Drill, Figure, at_least, at_most, exactly, percentile
from tests.support.cluster import running_cluster
from tests.support.containers import running_stack
from tests.support.sse_reader import SseReader

PACE_PER_S = 20
TOKENS = 60
SILENT_S = 70.0
PROXY_LIMIT_S = 60.0
HEARTBEAT_S = 15.0


async def through_nginx(count: int) -> Sequence[Figure]:
    """`count` answers through the shipped gateway and as many through a bare nginx that compresses what it can."""
    demand_nginx()
    with running_stack(STACK_ENV) as stack:
        shipped = [await _paced(stack.url, KEY) for _ in range(count)]
    with running_cluster() as cluster, bare_proxy(cluster.url) as url:
        bare = [await _paced(url, "") for _ in range(count)]
    return [*_held_back("the shipped gateway", shipped), *_held_back("a bare nginx with gzip", bare)]


def _held_back(name: str, answers: list[tuple[float, list[float]]]) -> list[Figure]:
    late = [ms for _, lateness in answers for ms in lateness]
    return [
        at_least(f"{name}: tokens that came", len(late), len(answers) * TOKENS),
        at_most(f"{name}: the first event, the slowest", max(first for first, _ in answers), 100.0, "ms"),
        at_most(f"{name}: a token is held back, p99", percentile(late, 0.99), 100.0, "ms"),
        at_most(f"{name}: a token is held back, at most", max(late), 100.0, "ms"),
    ]


async def _paced(url: str, key: str) -> tuple[float, list[float]]:
    """POST a paced job and read its answer: ms to the first event, and how late each token was."""
    body = {"provider": "scripted", "model": "demo", "prompt": "x"}
    sent = json.dumps({**body, "params": {"tokens": TOKENS, "tokens_per_s": PACE_PER_S}}).encode()
    heard: list[float] = []
    first_ms, parser, asked = 0.0, SseReader(), time.perf_counter()
    async for chunk in _post(url, key, sent):
        now = time.perf_counter()
        for frame in parser.feed(chunk):
            first_ms = first_ms or (now - asked) * 1000
            heard += [now] * frame.n if frame.event == "token" else []
    return first_ms, lateness_ms(heard, PACE_PER_S)


async def _post(url: str, key: str, body: bytes) -> AsyncIterator[bytes]:
    """The pieces of the answer as the socket gives them."""
    host = url.removeprefix("http://")
    reader, writer = await asyncio.open_connection(*host.rsplit(":", 1))
    head = [
        "POST /jobs HTTP/1.1", f"Host: {host}", "Accept: text/event-stream", "Accept-Encoding: gzip",
        "Content-Type: application/json", f"Content-Length: {len(body)}",
        *([f"Authorization: Bearer {key}"] if key else []),
    ]  # fmt: skip
    writer.write("\r\n".join([*head, "", ""]).encode() + body)
    try:
        answered = await reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in answered.splitlines()[0], answered
        async for chunk in pieces(answered, reader):
            yield chunk
    finally:
        writer.close()


async def silent_job(count: int) -> Sequence[Figure]:
    """`count` readers of a job that is silent for 70 s, through a proxy that cuts what is silent for 60."""
    demand_nginx()
    async with _behind_a_bare_proxy() as (url, tailrace):
        job = await submit(tailrace, first_token_ms=SILENT_S * 1000, tokens=3)
        readers = [EventSource(url, job) for _ in range(count)]
        await asyncio.gather(*(reader.read() for reader in readers))
    silences = [later - sooner for reader in readers for sooner, later in pairwise(reader.spoke_at)]
    events = [later - sooner for reader in readers for sooner, later in pairwise(reader.heard_at)]
    return [
        at_least("the longest time without an event", max(events), PROXY_LIMIT_S, "s"),
        exactly("connections cut", sum(len(reader.broken_at) for reader in readers), 0),
        at_most("the longest silence on the wire, to a tenth", round(max(silences), 1), HEARTBEAT_S, "s"),
        exactly("readers that came to the end", sum(reader.ended for reader in readers), count),
    ]


@asynccontextmanager
async def _behind_a_bare_proxy() -> AsyncIterator[tuple[str, AsyncTailrace]]:
    with running_cluster() as cluster, bare_proxy(cluster.url) as url:
        async with AsyncTailrace(cluster.url) as tailrace:
            yield url, tailrace


DRILLS = (
    Drill(
        "through-nginx", (27,), "a proxy holds nothing back, not even one with buffering and gzip", 10, through_nginx
    ),
    Drill("silent-job", (28,), "a job that is silent for longer than a proxy's patience is not cut", 20, silent_job),
)
