"""Providers that limit, refuse and break before the first token: how often they are asked again, and how soon."""

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from chaos.drills._judge import end_of, faults_of_log, none
from chaos.drills._stage import Stage, stage
from chaos.drills.frame import Drill, Figure, at_least, at_most, exactly, percentile
from shared.events import Done, Entry, Failed, Reset
from shared.settings import Settings
from tests.support.provider_behaviour import Behaviour
from tests.support.provider_server import ProviderServer

VENDORS = ("openai", "anthropic")
PASSING = ("429", "500", "502", "503", "529", "refuse")
LASTING = ("400", "401", "404", "422")
AT_ONCE = 20
RETRY_AFTER_S = 2
OUTAGE = 300
"""Jobs in the outage; one worker, so its budget is that of the provider."""
UNGATED = {"TAILRACE_RETRY_BUDGET_PERCENT": "100", "TAILRACE_RETRY_BUDGET_FLOOR": "100000"}
"""Where each single retry is looked at, the budget must not stand in its way; the outage has the default."""


async def matrix(count: int) -> Sequence[Figure]:
    """Each fault at each vendor `count` times, once and lasting; then an outage under the default budget."""
    figures = []
    async with ProviderServer() as server:
        async with stage(env={**server.environment, **UNGATED}, seed=count) as on:
            figures += await _once_and_for_ever(on, server, count)
            figures += await _retry_after(on, server)
        server.requests.clear()
        async with stage(env=server.environment) as on:
            figures += await _outage(on, server)
    return figures


async def _once_and_for_ever(on: Stage, server: ProviderServer, count: int) -> list[Figure]:
    asked = [
        (f"m{number}", vendor, fault, times)
        for number, (_, vendor, (fault, times)) in enumerate(
            itertools.product(
                range(count), VENDORS, [*itertools.product(PASSING, (1, 2, 0)), *((f, 0) for f in LASTING)]
            )
        )
    ]
    logs = await run(on, [job(vendor, model, f"fault:{fault}:0:{times}") for model, vendor, fault, times in asked])
    calls: dict[str, list[float]] = defaultdict(list)
    for request in server.requests:
        calls[request.body["model"]].append(request.at_s)
    passing = [model for model, _, fault, times in asked if fault in PASSING and times]
    for_ever = [model for model, _, fault, times in asked if fault in PASSING and not times]
    lasting = [model for model, _, fault, _ in asked if fault in LASTING]
    wrong = [
        f"{model}: {len(calls[model])} calls"
        for model, _, _, times in asked
        if times and len(calls[model]) != times + 1
    ]
    gaps = [at[1] - at[0] for model in (*passing, *for_ever) if len(at := calls[model]) > 1]
    seen = [m for m in passing if any(isinstance(entry.event, Reset) for entry in logs[m])]
    return [
        at_least("jobs whose provider broke once or twice", len(passing), 2 * len(VENDORS) * len(PASSING) * count),
        exactly("of them whole", sum(isinstance(end_of(logs[model]), Done) for model in passing), len(passing)),
        none("calls more or fewer than the faults asked for", wrong),
        exactly("retries that a reader saw", len(seen), 0),
        exactly("calls of a job whose provider never recovers, most", max(len(calls[m]) for m in for_ever), 3),
        exactly("their ends", sum(isinstance(end_of(logs[m]), Failed) for m in for_ever), len(for_ever)),
        exactly("calls of a job that the provider refuses, most", max(len(calls[m]) for m in lasting), 1),
        at_least("jitter of the first wait, p95 - p5", percentile(gaps, 0.95) - percentile(gaps, 0.05), 0.2, "s"),
        none("faults in logs", [fault for log in logs.values() for fault in faults_of_log(log)]),
    ]


async def _retry_after(on: Stage, server: ProviderServer) -> list[Figure]:
    """How soon the next call comes after a 429 or 529 that names a time."""
    waits = []
    for vendor, status in itertools.product(VENDORS, ("429", "529")):
        server.script(Behaviour(status, headers=(("retry-after", str(RETRY_AFTER_S)),)), Behaviour())
        before = len(server.requests)
        await run(on, [job(vendor, f"after-{vendor}-{status}", "x")])
        first, second = (request.at_s for request in server.requests[before:])
        waits.append(second - first)
    latest = RETRY_AFTER_S + Settings().retry_base_s + 0.5
    return [
        at_least("Retry-After: 2 s → the next call, soonest", min(waits), RETRY_AFTER_S, "s"),
        at_most("Retry-After: 2 s → the next call, latest", max(waits), latest, "s"),
    ]


async def _outage(on: Stage, server: ProviderServer) -> list[Figure]:
    """A provider that answers every call with 500; a model of its own for each job, so no circuit hides it."""
    logs = await run(on, [job(VENDORS[0], f"out{number}", "fault:500") for number in range(OUTAGE)])
    retries = len(server.requests) - OUTAGE
    failed = sum(isinstance(end_of(log), Failed) for log in logs.values())
    return [
        exactly("outage: jobs that failed", failed, OUTAGE),
        at_least("outage: calls", len(server.requests), OUTAGE),
        at_least("outage: retries", retries, 1),
        at_most("outage: retries to first calls", 100 * retries / OUTAGE, 10, "%"),
    ]


def job(vendor: str, model: str, prompt: str, **more: Any) -> dict[str, Any]:
    """A job at the wire provider; its model is its name."""
    return {"provider": vendor, "model": model, "prompt": prompt, **more}


async def run(on: Stage, jobs: list[dict[str, Any]]) -> dict[str, list[Entry]]:
    """Run jobs, some at once; the log of each by its model."""
    logs: dict[str, list[Entry]] = {}
    waiting = iter(jobs)

    async def some() -> None:
        for fields in waiting:
            made = await on.tailrace.submit(**fields)
            await on.ended([made.id])
            logs[fields["model"]] = await on.entries(made.id)

    await asyncio.gather(*(some() for _ in range(AT_ONCE)))
    return logs


DRILLS = (
    Drill("provider-faults", (21,), "a provider's fault is retried unseen, politely and within a budget", 3, matrix),
)
