"""API nodes that are killed and drained under their readers, behind the shipped gateway."""

import asyncio
import signal
import time
from collections.abc import Sequence
from itertools import islice

from tailrace_client import AsyncTailrace

from chaos.drills._answers import KEY, STACK_ENV, all_opened, demand_nginx, mismatches, submit, until
from chaos.drills._event_source import EventSource
from chaos.drills.frame import Drill, Figure, at_least, at_most, exactly, percentile
from tests.support.containers import Stack, running_stack

KILL_EVERY_S = 2.0
READERS = 40
JOBS = 10


async def kill_nodes(count: int) -> Sequence[Figure]:
    """`count` kills, one every two seconds, of two nodes in turn."""
    demand_nginx()
    with running_stack(STACK_ENV, api=2) as stack:
        readers = await _readers(stack, READERS, tokens=1_000_000, tokens_per_s=10)
        for reader in readers:
            reader.retry_s = 1.0  # what `retry:` says, from the first break on
        reading = [asyncio.create_task(reader.read()) for reader in readers]
        await all_opened(readers)
        hits = await _kill_in_turn(stack, readers, count)
        async with AsyncTailrace(stack.url, KEY) as tailrace:
            await asyncio.gather(*(tailrace.cancel(job) for job in {reader.job for reader in readers}))
        await asyncio.gather(*reading)
        wrong = await mismatches(stack.url, KEY, readers)
    absences = [absence for reader in readers for absence in reader.absences_s]
    return [
        at_least("kills that cut readers off", hits, count),
        at_least("connections cut", len(absences), count * 2),
        at_most("a reader is back, the slowest", max(absences, default=0.0), 2.0, "s"),
        exactly("readers whose events are not the log's", wrong, 0),
        exactly("events lost", sum(reader.holes for reader in readers), 0),
        exactly("events doubled", sum(reader.doubled for reader in readers), 0),
    ]


async def _readers(stack: Stack, count: int, **params: float) -> list[EventSource]:
    async with AsyncTailrace(stack.url, KEY) as tailrace:
        jobs = [await submit(tailrace, **params) for _ in range(JOBS)]
    return [EventSource(stack.url, jobs[number % JOBS], KEY) for number in range(count)]


async def _kill_in_turn(stack: Stack, readers: list[EventSource], count: int) -> int:
    """Kill and start again; how many of the kills cut at least one reader off."""
    now = asyncio.get_running_loop().time
    nodes, hits = list(stack.api), 0
    for number in range(count):
        due = now() + KILL_EVERY_S
        broken = sum(len(reader.broken_at) for reader in readers)
        await asyncio.to_thread(stack.kill, nodes[number % 2])
        await asyncio.to_thread(stack.start, nodes[number % 2])
        await _all_back(readers)  # a kill that finds nobody would prove nothing
        await asyncio.sleep(max(0.0, due - now()))
        hits += sum(len(reader.broken_at) for reader in readers) > broken
    return hits


async def _all_back(readers: list[EventSource]) -> None:
    await until(lambda: all(len(reader.back_at) == len(reader.broken_at) for reader in readers))


async def drain_node(count: int) -> Sequence[Figure]:
    """SIGTERM for a node with `count` readers, while another one is there to take them."""
    demand_nginx()
    with running_stack(STACK_ENV, api=1) as stack:
        readers = await _readers(stack, count, tokens=80, tokens_per_s=2)
        reading = [asyncio.create_task(reader.read()) for reader in readers]
        await all_opened(readers)
        (leaving,) = stack.api
        await asyncio.to_thread(stack.add_api)
        told = time.monotonic()
        stack.api[leaving].signal(signal.SIGTERM)
        status = await asyncio.to_thread(stack.api[leaving].wait)
        exit_s = time.monotonic() - told
        stack.publish()
        await asyncio.gather(*reading)
        wrong = await mismatches(stack.url, KEY, readers)
    absences = [absence for reader in readers for absence in reader.absences_s]
    came = [moment for reader in readers for moment in islice(reader.back_at, 1)]
    spread_s = percentile(came, 0.95) - percentile(came, 0.05)
    return [
        at_least("readers sent away", sum(bool(reader.broken_at) for reader in readers), count),
        exactly("exit status", status, 0),
        at_most("exit after", exit_s, 10.0, "s"),
        at_most("a reader is back, the slowest", max(absences), 3.0, "s"),
        at_least("nine tenths of them come back spread over", spread_s, 1.0, "s"),
        exactly("readers whose events are not the log's", wrong, 0),
    ]


DRILLS = (
    Drill("node-kill", (7,), "an API node that is killed costs its readers two seconds and no event", 30, kill_nodes),
    Drill("node-drain", (18,), "a node that is told to go sends its readers away, not all at once", 500, drain_node),
)
