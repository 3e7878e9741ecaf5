"""A run: the fleet, the load and the faults together, round after round; then everything ends and is looked at."""

import asyncio
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field

from chaos.faults import Faults
from chaos.findings import Findings
from chaos.fleet import Fleet, until
from chaos.load import END_WITHIN_S, Load
from chaos.measure import Reruns
from chaos.plan import make_plan
from chaos.provider import NumberedProvider

_ROUND_S = 25.0
"""No round takes longer, on average; beyond it the run is stuck."""


@dataclass
class Outcome:
    """What a run did, for the table."""

    seed: int
    rounds: int
    only: frozenset[str]
    clocks: bool
    verbose: bool
    findings: Findings
    reruns: Reruns
    times: Counter[str] = field(default_factory=Counter)
    """How often each fault struck."""
    hits: Counter[str] = field(default_factory=Counter)
    """How many running jobs, connections or offers it hit, all in all."""
    bitten: Counter[str] = field(default_factory=Counter)
    """How often it hit at least one."""
    fenced: int = 0
    handed_over: int = 0
    load: Load | None = None
    took_s: float = 0.0


async def run(fleet: Fleet, provider: NumberedProvider, outcome: Outcome) -> None:
    """Carry the plan out. The fleet is not started yet; its owner stops it."""
    began = time.monotonic()
    load = outcome.load = Load(fleet, provider, outcome.findings, outcome.reruns, outcome.seed)
    try:
        async with asyncio.timeout(outcome.rounds * _ROUND_S + 2 * END_WITHIN_S + 60):
            await fleet.start()
            async with asyncio.TaskGroup() as group:
                await _rounds(fleet, load, outcome, group)
                for clock in fleet.clocks.values() if outcome.clocks else ():
                    clock.show(0.0)
                print(f"the faults are over; {len(load.live)} jobs still run", flush=True)
            await _aftermath(fleet, load, outcome)
    finally:
        await load.aclose()
        outcome.took_s = time.monotonic() - began


async def _rounds(fleet: Fleet, load: Load, outcome: Outcome, group: asyncio.TaskGroup) -> None:
    faults = Faults(fleet, load, outcome.reruns)
    for plan in make_plan(outcome.seed, outcome.rounds, outcome.only):
        for job in plan.jobs:
            group.create_task(load.run(job), name=job.name)
        if outcome.clocks or not plan.fault.startswith("clock_"):
            began = time.monotonic()
            try:
                hits = await faults.strike(plan)
            except (AssertionError, subprocess.TimeoutExpired) as error:
                # A process that did not start, or end, within the guard of tests/support/cluster.py.
                outcome.findings.add(f"round-{plan.number}", [f"{plan.fault}: {str(error)[:300]}"], [])
                return
            if outcome.verbose:
                took_s = time.monotonic() - began
                print(f"{plan.number}: {plan.fault} hit {hits}, {took_s:.1f} s, {len(load.live)} open", flush=True)
            outcome.times[plan.fault] += 1
            outcome.hits[plan.fault] += hits
            outcome.bitten[plan.fault] += hits > 0
        await asyncio.sleep(plan.rest_s)
        fleet.watch()
        if plan.number % 10 == 9:
            judged, bad = sum(load.ends.values()), len(outcome.findings.lines)
            print(
                f"round {plan.number + 1}/{outcome.rounds}: {judged} jobs judged, {len(load.live)} open, "
                f"{len(load.readers)} readers, {bad} violations",
                flush=True,
            )


async def _aftermath(fleet: Fleet, load: Load, outcome: Outcome) -> None:
    """What must hold when all is quiet again."""
    add = outcome.findings.add
    if not await until(lambda: not fleet.still_open(), 15):
        add("open", [f"jobs are still on the index of open ones: {fleet.still_open()}"], [])
    for job, judged in load.judged.items():
        if (now := fleet.events(job)) != judged:  # also if it was rewritten compactly meanwhile
            add(job, [f"its log had {len(judged)} events when it was judged, and now has {len(now)} or others"], [])
    await _list(load, outcome)
    keys = fleet.keys_left_for_ever()
    if keys:
        add("keys", [f"these will never end: {keys[:20]}"], [])
    fleet.watch()
    if fleet.exits:
        add("exits", fleet.exits, [])
    for process in fleet.processes:
        if "Traceback" in process.log:
            add(process.name, [f"its log has {process.log.count('Traceback')} tracebacks"], [])
    for words in ("the log lost its tail", "the log lost our claim"):
        # Its append-only file is written before an answer is given, unless the disk is so slow that the file is still
        # being synced: then a store that is killed forgets, and what was forgotten is appended again. No other does.
        if fleet.said(words) and not outcome.bitten["store_kill"] and not outcome.bitten["all_killed"]:
            add("workers", [f"{fleet.said(words)} times a worker found that {words}"], [])
    outcome.fenced = fleet.said(": FENCED in epoch", workers_only=True)
    outcome.handed_over = fleet.said(": handed over", workers_only=True)


async def _list(load: Load, outcome: Outcome) -> None:
    """Also what a POST made whose answer was lost has ended."""
    after = ""
    while True:
        response = await load.ask_until("GET", f"/jobs?limit=100{after}", 200)
        page = response.json() if response is not None else {"data": [], "next": None}
        for job in page["data"]:
            if job["status"] not in ("done", "failed", "cancelled"):
                outcome.findings.add(job["id"], [f"it is {job['status']} for ever: {job['metadata']}"], [])
        if page["next"] is None:
            return
        after = f"&after={page['next']}"
