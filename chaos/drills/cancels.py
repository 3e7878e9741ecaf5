"""Cancelling at any time: how soon the call to the provider is closed, and that nothing follows the end."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from chaos.drills._judge import faults_of_log, none
from chaos.drills._stage import Stage, stage, until
from chaos.drills.frame import Drill, Figure, at_least, at_most, exactly, percentile
from shared.events import Cancelled
from tests.support.provider_server import ProviderServer

AT_ONCE = 10
LATEST_S = 0.8
"""A cancel comes at a random moment up to so long after the POST, or after the provider got the call."""
AT_ONCE_S = 0.01
"""Or so soon after the POST that it meets the claim, or the job before it."""
SETTLE_S = 2.0
"""Long enough for a token that should not come."""


class Calls:
    """When each call reached the provider, and when the worker closed it. One task of the drill watches each."""

    def __init__(self, server: ProviderServer) -> None:
        self._server = server
        self._now = asyncio.get_running_loop().time
        self.open: set[str] = set()
        self.closed_s: dict[str, float] = {}

    async def watch(self) -> None:
        """Until cancelled."""
        count = 0
        async with asyncio.TaskGroup() as group:
            while True:
                try:
                    request = await self._server.received(count + 1)
                except TimeoutError:
                    continue
                count += 1
                group.create_task(self._one(request.body["model"], request.left))

    async def _one(self, model: str, left: asyncio.Event) -> None:
        self.open.add(model)
        await left.wait()
        self.closed_s[model] = self._now()
        self.open.discard(model)


async def cancel(count: int) -> Sequence[Figure]:
    """So many jobs at a provider that speaks for long, each cancelled at a moment of its own."""
    async with ProviderServer() as server, stage(workers=2, env=server.environment, seed=count) as on:
        calls = Calls(server)
        watching = asyncio.create_task(calls.watch())
        jobs: dict[str, str] = {}
        cancelled_s: dict[str, float] = {}
        in_mid_call: set[str] = set()

        async def some(first: int) -> None:
            for number in range(first, count, AT_ONCE):
                model = f"m{number}"
                job = await on.tailrace.submit(provider="openai", model=model, prompt="tokens:120 rate:25 first:200")
                jobs[model] = job.id
                await _moment(on, partial(calls.open.__contains__, model))
                if model in calls.open:
                    in_mid_call.add(model)
                cancelled_s[model] = asyncio.get_running_loop().time()
                await on.tailrace.cancel(job.id)

        async with asyncio.TaskGroup() as group:
            for first in range(min(AT_ONCE, count)):
                group.create_task(some(first))
        await asyncio.sleep(SETTLE_S)
        watching.cancel()
        late_ms = [(calls.closed_s[model] - cancelled_s[model]) * 1000 for model in in_mid_call & calls.closed_s.keys()]
        return [
            at_least("cancels while the provider was speaking", len(in_mid_call), 0.5 * count),
            at_least("cancels before that", count - len(in_mid_call), 0.02 * count),
            exactly("calls still open", len(calls.open), 0),
            at_most("cancel sent → the provider's call closed, p50", percentile(late_ms, 0.5), 100, "ms"),
            at_most("cancel sent → the provider's call closed, p99", percentile(late_ms, 0.99), 100, "ms"),
            *await _logs(on, list(jobs.values())),
        ]


async def _moment(on: Stage, called: Callable[[], bool]) -> None:
    kind = on.chance.choice(("at once", "any time", "after the call", "after the call"))
    if kind == "after the call":
        await until(called)
    await asyncio.sleep(on.chance.uniform(0, AT_ONCE_S if kind == "at once" else LATEST_S))


async def _logs(on: Stage, jobs: list[str]) -> list[Figure]:
    logs = {job: await on.entries(job) for job in jobs}
    return [
        exactly("jobs cancelled", sum(isinstance(log[-1].event, Cancelled) for log in logs.values()), len(jobs)),
        none(
            "tokens after the end, and other faults in logs", [f for log in logs.values() for f in faults_of_log(log)]
        ),
        none("processes that ended", on.died()),
    ]


DRILLS = (Drill("cancel", (16,), "a cancel closes the provider's call at once, and nothing follows it", 1000, cancel),)
