"""The reaper: finds jobs that nobody works on, and ends or offers them again. It runs in every process; one leads.

It lives in `shared` because every process runs it, an API node as well as a worker: a fleet without a living worker
still ends its jobs at their deadlines. What is to be done with one job is decided by `judge`, without a store.
"""

import asyncio
import logging
import random
from enum import Enum

from shared import metrics
from shared.errors import RecordError, StorageError
from shared.jobs import MAX_ATTEMPTS, MAX_CRASHES, TERMINAL, JobKey, Status
from shared.queue import Queue, offer_id
from shared.spending import Spending
from shared.storage.control import Control
from shared.storage.jobs import JobStore, Standing

log = logging.getLogger(__name__)

TICK_S = 0.5
PAGE = 500
LEAD_MS = 2_000
"""How long a leader leads without a word: a killed one is followed within this and a tick."""
WATCHED_MS = 4_000
"""For how long a sweep vouches for the stores. Less than a lease: owners have had the chance to renew."""
LOOK_AGAIN_S = 1.0
"""A job without a lease is looked at again after so long; one with a lease when that could have lapsed."""
LOOKS = 25
"""Jobs that are looked at in one piece, of 30 µs each: whatever else this process does has its turn in between."""
LOOKS_PER_S = 1_000
"""Jobs that wait and have their offer are looked at so often in all: of ten thousand each every ten seconds."""
SLOW_S = 1.0
"""A look that took longer says nothing of leases and readers."""
DAMAGED_AGAIN_S = 60.0
"""A job whose record is damaged is looked at again, and spoken of in the log, after so long."""
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
    UNREAD = "unread"


def judge(
    standing: Standing | None, *, indexed_ms: int, known_ms: float, now_ms: int, leases_can_be_trusted: bool
) -> Todo:
    """`indexed_ms`: when the job was put on the index of open jobs, by its node's clock, ms since 1970; `now_ms`: by
    the store's. The two may disagree, or step. `known_ms`: for how long this reaper has known the job.
    """
    if standing is None:
        return Todo.CLOSE if known_ms > HALF_MADE_MS else Todo.NOTHING
    if standing.status in TERMINAL:
        return Todo.CLOSE
    if now_ms >= standing.deadline_ms:
        return Todo.DEADLINE
    # Trust, here as well: while the stores were away, no node could say that somebody reads.
    if standing.unread_at_ms is not None and now_ms >= standing.unread_at_ms and leases_can_be_trusted:
        return Todo.UNREAD
    if standing.status is Status.QUEUED:
        return Todo.OFFER if max(now_ms - indexed_ms, known_ms) > OFFER_AFTER_MS else Todo.NOTHING
    if standing.lease_ms or not leases_can_be_trusted:
        return Todo.NOTHING
    if standing.crashes + 1 >= MAX_CRASHES:
        return Todo.POISONED
    return Todo.EXHAUSTED if standing.attempt >= MAX_ATTEMPTS else Todo.OFFER


class Reaper:
    """Owned by a composition root, which keeps `run()` in its task group."""

    def __init__(
        self,
        store: JobStore,
        control: Control,
        queue: Queue,
        *,
        owner: str,
        lease_s: float,
        spending: Spending | None = None,
    ) -> None:
        self._store = store
        self._control = control
        self._queue = queue
        self._owner = owner
        self._spending = spending
        self._lease_s = lease_s
        self._now_s = asyncio.get_running_loop().time
        self._trust_from_s = 0.0
        self._due_s: dict[JobKey, float] = {}
        """When a job need be looked at next; what is not in it, at once."""
        self._known_s: dict[JobKey, float] = {}
        """Since when this reaper knows a job."""
        self._open = 0
        """How many jobs the last sweep saw."""

    def _distrust(self) -> None:
        """The stores may have been away, and leases have lapsed in their sleep: owners must get time to renew."""
        self._trust_from_s = self._now_s() + self._lease_s

    async def run(self) -> None:
        """Sweep about twice a second until cancelled."""
        last_s = self._now_s()
        while True:
            await asyncio.sleep(TICK_S * random.uniform(0.8, 1.2))
            slept = self._now_s() - last_s > WATCHED_MS / 1000
            try:
                leads = await self._control.lead(self._owner, LEAD_MS)
                metrics.REAPER_LEADS.set(leads)
                if leads:
                    # Not watched: all processes have just started, or the stores were away. Slept: this process was
                    # (SIGSTOP, a laptop's lid), and the whole machine may have been.
                    if not await self._control.watched(WATCHED_MS) or slept:
                        self._distrust()
                    await self.sweep(trusted=self._now_s() >= self._trust_from_s)
                else:
                    metrics.OPEN_JOBS.set(0)
            except StorageError:
                self._distrust()
                metrics.REAPER_LEADS.set(0)
            except Exception:
                # Whatever one job's record did to us: the others still need a reaper.
                log.exception("a sweep broke")
            last_s = self._now_s()

    async def sweep(self, *, trusted: bool) -> None:
        """Look at every open job that is due."""
        seen: set[JobKey] = set()
        offset = 0
        while rows := await self._control.open_jobs(offset, PAGE):
            seen.update(job for job, _ in rows)
            now_s = self._now_s()
            due = [row for row in rows if self._due_s.get(row[0], 0.0) <= now_s]
            gone = 0
            for begin in range(0, len(due), LOOKS):
                gone += await self._look_at(due[begin : begin + LOOKS], trusted)
            offset += len(rows) - gone
        metrics.OPEN_JOBS.set(len(seen))
        self._open = len(seen)
        for table in (self._due_s, self._known_s):
            for job in table.keys() - seen:
                del table[job]

    async def _look_at(self, rows: list[tuple[JobKey, int]], trusted: bool) -> int:
        """Do for each job what is to be done; how many left the index."""
        if not rows:
            return 0
        asked_s = self._now_s()
        now_ms, standings = await self._store.standings([job for job, _ in rows])
        # An answer that hung with the store knows nothing of what it has kept others from saying meanwhile.
        trusted = trusted and self._now_s() - asked_s < SLOW_S
        offers: list[tuple[JobKey, Standing]] = []
        gone = 0
        for (job, indexed_ms), standing in zip(rows, standings, strict=True):
            self._due_s[job] = self._now_s() + _look_again_s(standing, now_ms)
            known_ms = (self._now_s() - self._known_s.setdefault(job, self._now_s())) * 1000
            todo = judge(
                standing, indexed_ms=indexed_ms, known_ms=known_ms, now_ms=now_ms, leases_can_be_trusted=trusted
            )
            if todo is Todo.OFFER and standing is not None:
                offers.append((job, standing))
            elif todo is Todo.NOTHING and standing is not None and standing.status is Status.QUEUED:
                self._due_s[job] = 0.0  # too young: a job whose offer was lost waits for this and no longer
            elif todo is not Todo.NOTHING:
                gone += await self._end(job, todo, standing)
        await self._offer(offers, now_ms)
        return gone

    async def _end(self, job: JobKey, todo: Todo, standing: Standing | None) -> int:
        if todo is not Todo.CLOSE and standing is not None:
            log.warning("job %s: %s", job, todo.value)
            try:
                ended = await self._end_by_script(job, todo, standing.epoch)
            except RecordError as error:
                # It stays on the index until its keys expire; the others still need a reaper.
                self._due_s[job] = self._now_s() + DAMAGED_AGAIN_S
                log.error("job %s: %s", job, error.message)  # noqa: TRY400 - a trace would say nothing of the record
                return 0
            if not ended:
                return 0
            if standing.status is Status.QUEUED:  # or it would cost its tenant a turn, and a seat for a moment
                await self._queue.withdraw(offer_id(job, standing.epoch))
        if self._spending is not None:
            await self._spending.tell_of_ended([job], self._store)
        await self._control.close(job)
        metrics.REAPER_ACTS.labels(todo.value).inc()
        return 1

    async def _end_by_script(self, job: JobKey, todo: Todo, epoch: int) -> bool:
        if todo is Todo.UNREAD:
            return await self._store.cancel(job, todo.value, epoch=epoch)
        return await self._store.fail(job, todo.value, epoch=epoch, unleased=todo is not Todo.DEADLINE)

    async def _offer(self, wanted: list[tuple[JobKey, Standing]], now_ms: int) -> None:
        """Offer again what has no offer outstanding."""
        there = await self._queue.outstanding([offer_id(job, standing.epoch) for job, standing in wanted])
        missing: list[tuple[JobKey, Standing]] = []
        for (job, standing), outstanding in zip(wanted, there, strict=True):
            if not outstanding:
                missing.append((job, standing))
            elif standing.status is Status.QUEUED:
                rest_s = max(LOOK_AGAIN_S, self._open / LOOKS_PER_S * random.uniform(0.8, 1.2))
                self._due_s[job] = self._now_s() + min(rest_s, _ends_in_ms(standing, now_ms) / 1000)
        for job, standing in await self._unchanged(missing):
            log.warning("job %s: offered again (%s, epoch %d)", job, standing.status, standing.epoch)
            try:
                await self._queue.offer(job, epoch=standing.epoch, priority=standing.priority)
                metrics.REAPER_ACTS.labels(f"offer_{standing.status}").inc()
            except StorageError as error:
                if error.code != "storage_full":
                    raise
                return  # nobody could claim it now; jobs at their deadlines must still be ended

    async def _unchanged(self, jobs: list[tuple[JobKey, Standing]]) -> list[tuple[JobKey, Standing]]:
        """Those of `jobs` that still stand under the same epoch: an offer goes when its job is claimed, which may have
        been since we looked."""
        if not jobs:
            return []
        _, standings = await self._store.standings([job for job, _ in jobs])
        return [
            (job, before)
            for (job, before), now in zip(jobs, standings, strict=True)
            if now is not None and (now.status, now.epoch) == (before.status, before.epoch)
        ]


def _look_again_s(standing: Standing | None, now_ms: int) -> float:
    if standing is None or not standing.lease_ms:
        return LOOK_AGAIN_S if standing is None or standing.status is Status.QUEUED else 0.0
    return min(standing.lease_ms, _ends_in_ms(standing, now_ms)) / 1000


def _ends_in_ms(standing: Standing, now_ms: int) -> int:
    """When the job is to be ended, if nothing happens before."""
    return max(0, min(standing.deadline_ms, standing.unread_at_ms or standing.deadline_ms) - now_ms)
