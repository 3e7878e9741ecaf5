"""The reaper: finds jobs that nobody works on, and ends or offers them again. It runs in every process; one leads.

It lives in `shared` because every process runs it, an API node as well as a worker: a fleet without a living worker
still ends its jobs at their deadlines. What is to be done with one job is decided by `judge`, without a store.
"""

import asyncio
import logging
import random
from dataclasses import dataclass
from enum import Enum

from shared.errors import StorageError
from shared.jobs import MAX_ATTEMPTS, MAX_CRASHES, TERMINAL, JobKey, Status
from shared.queue import Queue, offer_id
from shared.storage.control import Control
from shared.storage.jobs import JobStore, Standing

log = logging.getLogger(__name__)

TICK_S = 1.0
PAGE = 500
OFFER_AFTER_MS = 1_000
"""A queued job without an offer is offered again once it is so old: its POST may still be about to offer it."""
HALF_MADE_MS = 60_000
"""An indexed job without a log is given up after so long: its POST was never answered."""


class Todo(Enum):
    """What the reaper is to do with a job."""

    NOTHING = "nothing"
    CLOSE = "close"
    OFFER = "offer"
    DEADLINE = "deadline_exceeded"
    POISONED = "poisoned"
    EXHAUSTED = "attempts_exhausted"


def judge(standing: Standing | None, *, indexed_ms: int, now_ms: int, leases_can_be_trusted: bool) -> Todo:
    """`indexed_ms`: when the job was put on the index of open jobs; all times by the store's clock, ms since 1970."""
    if standing is None:
        return Todo.CLOSE if now_ms - indexed_ms > HALF_MADE_MS else Todo.NOTHING
    if standing.status in TERMINAL:
        return Todo.CLOSE
    if now_ms >= standing.deadline_ms:
        return Todo.DEADLINE
    if standing.status is Status.QUEUED:
        return Todo.OFFER if now_ms - indexed_ms > OFFER_AFTER_MS else Todo.NOTHING
    if standing.leased or not leases_can_be_trusted:
        return Todo.NOTHING
    if standing.crashes + 1 >= MAX_CRASHES:
        return Todo.POISONED
    return Todo.EXHAUSTED if standing.attempt >= MAX_ATTEMPTS else Todo.OFFER


@dataclass(frozen=True, slots=True)
class _Open:
    job: JobKey
    indexed_ms: int


class Reaper:
    """Owned by a composition root, which keeps `run()` in its task group."""

    def __init__(self, store: JobStore, control: Control, queue: Queue, *, owner: str, lease_s: float) -> None:
        self._store = store
        self._control = control
        self._queue = queue
        self._owner = owner
        self._lease_s = lease_s
        # Just started, we do not know whether the store was away a moment ago and all leases have lapsed in its sleep.
        self._trust_from_s = self._last_s = asyncio.get_running_loop().time()
        self._distrust()

    def _distrust(self) -> None:
        self._trust_from_s = asyncio.get_running_loop().time() + self._lease_s

    async def run(self) -> None:
        """Sweep about once a second until cancelled."""
        loop = asyncio.get_running_loop()
        self._distrust()
        while True:
            await asyncio.sleep(TICK_S * random.uniform(0.8, 1.2))
            now_s = loop.time()
            if now_s - self._last_s > 3 * TICK_S:
                self._distrust()  # this process slept (SIGSTOP, a laptop's lid); so may the whole machine have
            self._last_s = now_s
            try:
                if await self._control.lead(self._owner, round(3 * TICK_S * 1000)):
                    await self.sweep(trusted=now_s >= self._trust_from_s)
            except StorageError:
                self._distrust()  # owners must get the chance to renew first
            self._last_s = loop.time()

    async def sweep(self, *, trusted: bool) -> None:
        """Look once at every open job."""
        offset = 0
        while True:
            rows = [_Open(job, at) for job, at in await self._control.open_jobs(offset, PAGE)]
            if not rows:
                return
            now_ms, standings = await self._store.standings([row.job for row in rows])
            offers: list[tuple[JobKey, Standing]] = []
            gone = 0
            for row, standing in zip(rows, standings, strict=True):
                todo = judge(standing, indexed_ms=row.indexed_ms, now_ms=now_ms, leases_can_be_trusted=trusted)
                if todo is Todo.OFFER and standing is not None:
                    offers.append((row.job, standing))
                elif todo is not Todo.NOTHING:
                    gone += await self._end(row.job, todo, standing)
            await self._offer(offers)
            offset += len(rows) - gone

    async def _end(self, job: JobKey, todo: Todo, standing: Standing | None) -> int:
        if todo is not Todo.CLOSE and standing is not None:
            log.warning("job %s: %s", job, todo.value)
            ended = await self._store.fail(job, todo.value, epoch=standing.epoch, unleased=todo is not Todo.DEADLINE)
            if not ended:
                return 0
        await self._control.close(job)
        return 1

    async def _offer(self, wanted: list[tuple[JobKey, Standing]]) -> None:
        """Offer again what has no offer outstanding."""
        names = [offer_id(job, standing.epoch) for job, standing in wanted]
        there = await self._queue.outstanding(names)
        for (job, standing), outstanding in zip(wanted, there, strict=True):
            if not outstanding:
                log.warning("job %s: offered again (%s, epoch %d)", job, standing.status, standing.epoch)
                await self._queue.offer(job, epoch=standing.epoch, priority=standing.priority)
