"""A store that is killed and started again, and one that freezes: what readers, POSTs and processes notice of it."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Sequence
from typing import Any

import httpx2

from chaos.drills._judge import end_of, none
from chaos.drills._load import Load
from chaos.drills._stage import Stage, now_ms, stage
from chaos.drills.frame import Drill, Figure, at_least, at_most, exactly, percentile
from shared.events import Done, Start, Token
from shared.settings import Settings

WIDTH = 20
FREEZES_S = (5.0, 8.0)
"""As the promise says, and for longer than a lease lives."""
SHORT: dict[str, Any] = {"provider": "scripted", "model": "drill", "prompt": "x", "params": {"tokens": 1}}


def talk(number: int) -> dict[str, Any]:
    """A job of six to ten seconds: they must not all end at once, or a kill would meet none."""
    return {"params": {"tokens": 120 + number * 7 % 80, "tokens_per_s": 20, "seed": number}}


async def kill(count: int) -> Sequence[Figure]:
    """Kill the store under load and start it again; time until a new job runs, and compare what readers had."""
    async with stage(workers=2, seed=count) as on, httpx2.AsyncClient(base_url=on.cluster.url, timeout=30) as http:
        back_s, posted, hit = [], [], 0
        async with Load(on, WIDTH, talk) as load:
            await load.speaking()
            for _ in range(count):
                await asyncio.sleep(on.chance.uniform(0.3, 1.5))
                hit += bool(load.open)
                began = time.monotonic()
                on.cluster.valkey.kill()
                await asyncio.to_thread(on.cluster.valkey.start)
                posted.append(await _served(on, http))
                back_s.append(time.monotonic() - began)
        logs = {watched.job_id: await on.entries(watched.job_id) for watched in load.watched}
        twice = [job for job, log in logs.items() if sum(isinstance(entry.event, Start) for entry in log) > 1]
        seen = sum(event.n for watched in load.watched for event in watched.seen)
        return [
            at_least("kills under running jobs", hit, count),
            at_least("events that readers had been given", seen, 20 * count),
            none("of them lost, doubled or changed, and other faults", await load.faults()),
            exactly("accepted jobs without a terminal event", await on.ended([*logs, *posted]), 0),
            exactly("jobs that did not end whole", sum(not isinstance(end_of(log), Done) for log in logs.values()), 0),
            at_most("kill → a new job accepted and speaking, p50", percentile(back_s, 0.5), 3, "s"),
            at_most("kill → a new job accepted and speaking, max", max(back_s), 3, "s"),
            exactly("generations that the outage made start twice", len(twice), 0),
            none("processes that ended", on.died()),
        ]


async def freeze(count: int) -> Sequence[Figure]:
    """Freeze the store, by turns with and without traffic, for 5 s and for longer than a lease."""
    patience_s = Settings().redis_timeout_s
    async with stage(workers=2, seed=count) as on, httpx2.AsyncClient(base_url=on.cluster.url, timeout=60) as http:
        waits: list[float] = []
        afterwards: list[float] = []
        posted: list[str] = []
        jobs: list[Load] = []
        for number in range(count):
            width = WIDTH if number % 2 == 0 else 0
            async with Load(on, width, talk) as load:
                if width:
                    await load.speaking()
                frozen_s = FREEZES_S[number // 2 % 2]
                on.cluster.valkey.signal(signal.SIGSTOP)
                until = time.monotonic() + frozen_s
                if number % 2 == 0:
                    waits += await _call_while_frozen(on, http, load.open, until)
                await asyncio.sleep(max(0.0, until - time.monotonic()))
                on.cluster.valkey.signal(signal.SIGCONT)
                began = time.monotonic()
                posted.append(await _served(on, http))
                afterwards.append(time.monotonic() - began)
            jobs.append(load)
        left = await on.ended([*posted, *(watched.job_id for load in jobs for watched in load.watched)])
        logs = [await on.entries(watched.job_id) for load in jobs for watched in load.watched]
        again = sum(sum(isinstance(entry.event, Start) for entry in log) > 1 for log in logs)
        return [
            at_least("calls made to a frozen store", len(waits), 3 * ((count + 1) // 2)),
            at_least("the longest of them: the freeze bit", max(waits), 1, "s"),
            at_most(
                f"the longest call, beyond the store's time-out of {patience_s:g} s", max(waits) - patience_s, 0.5, "s"
            ),
            at_least("jobs that ran through a freeze", len(logs), WIDTH * ((count + 1) // 2)),
            exactly("jobs that were run twice", again, 0),
            exactly("jobs without a terminal event", left, 0),
            none("faults in logs and at readers", [fault for load in jobs for fault in await load.faults()]),
            at_most("thaw → a new job accepted and speaking, max", max(afterwards), 3, "s"),
            none("processes that ended", on.died()),
        ]


async def _call_while_frozen(on: Stage, http: httpx2.AsyncClient, jobs: list[str], until: float) -> list[float]:
    """One call of each kind, and again, until the thaw; how many seconds each took."""
    took: list[float] = []

    async def call(method: str, path: str, body: Any = None) -> None:
        while time.monotonic() < until:
            began = time.monotonic()
            with contextlib.suppress(httpx2.RemoteProtocolError):  # an event stream is closed without an answer
                await http.request(method, path, json=body)
            took.append(time.monotonic() - began)
            await asyncio.sleep(0.05)

    async with asyncio.TaskGroup() as group:
        group.create_task(call("POST", "/jobs", SHORT))
        group.create_task(call("GET", "/readyz"))
        group.create_task(call("GET", "/jobs"))
        group.create_task(call("GET", f"/jobs/{jobs[0]}"))
        group.create_task(call("POST", f"/jobs/{jobs[1]}/cancel"))
    return took


async def _served(on: Stage, http: httpx2.AsyncClient) -> str:
    """Post until a job is accepted, and return when it speaks; its id."""
    began = now_ms()
    job = ""
    while now_ms() - began < 30_000:
        if not job:
            answer = await http.post("/jobs", json=SHORT)
            job = answer.json()["id"] if answer.status_code == 202 else ""
        elif any(isinstance(entry.event, Token) for entry in await on.entries(job)):
            return job
        await asyncio.sleep(0.01)
    raise TimeoutError(f"no service after 30 s; ended: {on.died()}")


DRILLS = (
    Drill("store-kill", (8,), "kill -9 of the store and its restart cost no acknowledged event", 50, kill),
    Drill("store-freeze", (9,), "a frozen store hangs nobody and makes no job run twice", 8, freeze),
)
