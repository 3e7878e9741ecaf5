"""A store without memory: no lease is lost, running jobs still come to an end, and with room again all goes on."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import httpx2

from chaos.drills._judge import end_of, none
from chaos.drills._load import Load
from chaos.drills._stage import Stage, stage
from chaos.drills.frame import Drill, Figure, at_least, at_most, exactly
from shared.events import Done, Entry, Failed, Start
from shared.settings import Settings

WIDTH = 20
SHORT_S = 9.0
"""Longer than a lease, shorter than a writer's patience."""
POST: dict[str, Any] = {"provider": "scripted", "model": "drill", "prompt": "x", "params": {"tokens": 1}}


def talk(number: int) -> dict[str, Any]:
    """A job of fifteen seconds."""
    return {"params": {"tokens": 300, "tokens_per_s": 20, "seed": number}}


def talk_on(number: int) -> dict[str, Any]:
    """A job that talks for longer than a writer waits for memory."""
    return {"params": {"tokens": 1600, "tokens_per_s": 20, "seed": number}}


async def full(count: int) -> Sequence[Figure]:
    """`count` short shortages, which nobody's answer may suffer from, and one that outlasts the writers' patience."""
    async with stage(workers=2, seed=count) as on, httpx2.AsyncClient(base_url=on.cluster.url, timeout=30) as http:
        refused: list[int] = []
        back_s: list[float] = []
        short: list[Load] = []
        for _ in range(count):
            async with Load(on, WIDTH, talk) as load:
                await load.speaking()
                load.no_more()
                refused += await _shortage(on, http, SHORT_S)
                back_s.append(await _back(on, http))
            short.append(load)
        patience_s = Settings().storage_patience_s
        async with Load(on, WIDTH, talk_on) as long:
            await long.speaking()
            long.no_more()
            began = long.open
            refused += await _shortage(on, http, patience_s + 6)
            ended_full = WIDTH - await on.ended(began, 0.0)
            back_s.append(await _back(on, http))
            await on.ended(began)
        calm = [await on.entries(watched.job_id) for load in short for watched in load.watched]
        cut = [await on.entries(job) for job in began]
        return [
            at_least("POSTs while it was full", len(refused), 5 * (count + 1)),
            exactly("their answers", set(refused), {503}),
            at_least("writes that the store refused", await _refusals(on), WIDTH * (count + 1)),
            exactly("leases lost", sum(_starts(log) > 1 for log in (*calm, *cut)), 0),
            exactly(
                "jobs in a shortage of 9 s that did not end whole",
                sum(not isinstance(end_of(log), Done) for log in calm),
                0,
            ),
            exactly("jobs in a long shortage that ended while it lasted", ended_full, WIDTH),
            exactly("their ends", {_code(log) for log in cut}, {"storage_full"}),
            at_most("memory is back → a new job accepted and done, max", max(back_s), 5, "s"),
            none("faults in logs and at readers", [fault for load in (*short, long) for fault in await load.faults()]),
            none("processes that ended", on.died()),
        ]


async def _shortage(on: Stage, http: httpx2.AsyncClient, seconds: float) -> list[int]:
    """Take the store's memory away for so long, posting meanwhile; what the POSTs were answered."""
    before = (await on.store.config_get("maxmemory"))["maxmemory"]
    await on.store.config_set("maxmemory", "1mb")
    over = time.monotonic() + seconds
    statuses = []
    while time.monotonic() < over:
        statuses.append((await http.post("/jobs", json=POST)).status_code)
        await asyncio.sleep(0.5)
    await on.store.config_set("maxmemory", before)
    return statuses


async def _back(on: Stage, http: httpx2.AsyncClient) -> float:
    """Seconds until a job is accepted and done."""
    began = time.monotonic()
    answers: list[httpx2.Response] = []

    async def post() -> None:
        while not answers or answers[-1].status_code != 202:
            answers.append(await http.post("/jobs", json=POST))
            await asyncio.sleep(0.01)

    async with asyncio.timeout(60):
        await post()
    await on.ended([answers[-1].json()["id"]])
    return time.monotonic() - began


async def _refusals(on: Stage) -> int:
    """How many commands the store has refused for want of memory."""
    stats: dict[str, Any] = await on.store.info("errorstats")
    found = stats.get("errorstat_OOM", {})
    return int(found.get("count", 0)) if isinstance(found, dict) else 0


def _starts(log: list[Entry]) -> int:
    return sum(isinstance(entry.event, Start) for entry in log)


def _code(log: list[Entry]) -> str:
    end = end_of(log)
    return end.code if isinstance(end, Failed) else str(end and end.type)


DRILLS = (Drill("store-full", (35,), "a store without memory costs no lease, and every job still ends", 2, full),)
