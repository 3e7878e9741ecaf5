"""Making a job: index of open jobs → log → offer (DESIGN §4), so that a crash between any two leaves nothing half-made
for good. A retry or the reaper completes any prefix; from the log on, the answer is 202 whatever happens to the offer.

Where one server is both stores it is one transaction, of which a crash leaves all or nothing; where that is refused, or
there are two stores, or replicas to be waited for, it goes step by step.
"""

import logging
import time
from collections.abc import Sequence
from contextlib import suppress

from shared import metrics
from shared.errors import StorageError, TailraceError
from shared.jobs import JobKey, JobRecord
from shared.limits import Limits
from shared.queue import Queue
from shared.settings import Settings
from shared.storage.batch import Batcher
from shared.storage.connect import sound, storage_errors
from shared.storage.control import OPEN_COUNT, Control
from shared.storage.creation import Creation
from shared.storage.jobs import JobStore
from shared.storage.keys import OPEN_SLACK_MS, TOMBSTONE_MS
from shared.storage.limits import NO_SHARE, LimitStore, Place, Share
from shared.storage.transactions import Command, RefusedError, Transactions

log = logging.getLogger(__name__)

_LOOK_LASTS_S = 1.0
_REFUSALS = {"queue_full": "queue", "too_many_jobs": "jobs", "budget_spent": "tokens"}
"""By what name the metrics count them."""
_NODES = 16
"""So many nodes may rely on what they have seen, and together still not pass the limit unseen."""


class Room:
    """Whether there is room for another job, by the last look at how many are open.

    A look that found half of the places free is good for this node's share of them. Twice the share may be under way
    before the next look comes, and what all nodes take in unseen fits into the other half. It is not good for long, and
    not after an error: that a store went away is to be noticed by a look, which makes nothing, and not by a job that is
    refused and yet made when the store is back.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._share = 0
        self._until_s = 0.0

    def seen(self, count: int, now_s: float) -> bool:
        """Whether `count` open jobs leave room. Times by a clock that only rises."""
        self._share = self._limit // (4 * _NODES) if 2 * count <= self._limit else 0
        self._until_s = now_s + _LOOK_LASTS_S
        return count < self._limit

    def take(self, now_s: float) -> bool:
        """Take a place without another look, if the last one is good for it."""
        if self._share <= 0 or now_s >= self._until_s:
            return False
        self._share -= 1
        return True

    def doubt(self) -> None:
        """Rely on nothing until the next look."""
        self._share = 0


class Maker:
    """Makes the jobs of a node. `transactions`: for the one server that is both stores; None where there are two."""

    def __init__(
        self,
        settings: Settings,
        store: JobStore,
        control: Control,
        queue: Queue,
        batcher: Batcher,
        transactions: Transactions | None,
        limits: LimitStore,
    ) -> None:
        self._settings = settings
        self._store = store
        self._control = control
        self._queue = queue
        self._batcher = batcher
        self._transactions = transactions
        self._limits = limits
        self._room = Room(settings.max_queued_jobs)

    async def find_room(self, job: JobKey, limits: Limits, share: Share = NO_SHARE) -> Place | None:
        """Room for the job, or `queue_full`, `too_many_jobs`, `budget_spent`. Before anything is written: a refusal
        must neither count as a job nor take away another's place.

        Where its tenant's jobs are limited, or what they take of the store (`share`), the job gets a place, which is
        counted with all others in one act; where not, a look at their number will do.
        """
        try:
            if limits.open_jobs or limits.tokens_per_day or share.takes_ms:
                return await self._limits.admit(job, _now_ms(), limits, self._settings.max_queued_jobs, share)
            await self._look_for_room()
        except TailraceError as error:
            if error.code in _REFUSALS:
                metrics.REFUSALS.labels(_REFUSALS[error.code]).inc()
            raise
        return None

    async def _look_for_room(self) -> None:
        if self._room.take(time.monotonic()):
            return
        if not self._seen(await self._control.open_count()):
            raise TailraceError("queue_full", retry_after_s=5)

    def _seen(self, count: int) -> bool:
        """Whether there is room beside `count` open jobs and those that wait for the store to make them."""
        waiting = 0 if self._transactions is None else self._transactions.under_way
        return self._room.seen(count + waiting, time.monotonic())

    async def make(
        self, creation: Creation, place: Place | None = None, also: Sequence[Command] = ()
    ) -> JobRecord | None:
        """The job, indexed and offered; None where it was there already. `gone`, or StorageError before its log.

        `also`: what is to be done before its log is made, or with it.
        """
        created_ms = _now_ms()
        keeping = [*also, *([] if place is None else place.keeping(creation.deadline_s))]
        # A server that has forgotten a script is told it by the batcher; until then nobody knows what this one takes.
        if self._transactions is not None and (flags := self._batcher.flags) is not None:
            with suppress(RefusedError):
                return await self._at_once(self._transactions, creation, created_ms, flags, keeping)
        await self._control.index(creation.job, created_ms, self._listed_ms, keeping)
        made = await self._store.create(creation)
        try:
            await self._queue.offer(creation.job, epoch=0, priority=creation.request.priority)
        except StorageError as error:
            _not_offered(creation, error)
        return made

    async def _at_once(
        self, transactions: Transactions, creation: Creation, created_ms: int, flags: bool, keeping: list[Command]
    ) -> JobRecord | None:
        index = [*self._control.indexing(creation.job, created_ms, self._listed_ms), *keeping]
        offer = self._queue.offering(creation.job, epoch=0, priority=creation.request.priority)
        try:
            replies = await transactions.carry_out([*index, self._store.creating(creation, flags), *offer, OPEN_COUNT])
        except StorageError:
            self._room.doubt()
            raise
        indexed, answer, offered = replies[: len(index)], replies[len(index)], replies[len(index) + 1 : -1]
        with storage_errors():
            for reply in (*indexed, answer):
                sound(reply)
            self._seen(int(sound(replies[-1])))
        for reply in offered:
            if isinstance(reply, Exception):
                _not_offered(creation, reply)
        return creation.record(answer)

    @property
    def _listed_ms(self) -> int:
        # The tenant's list is trimmed by one measure for all its jobs, or a short-lived one would take others off it.
        settings = self._settings
        return round(settings.job_deadline_s * 1000) + OPEN_SLACK_MS + settings.max_job_ttl_s * 1000 + TOMBSTONE_MS


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _not_offered(creation: Creation, error: Exception) -> None:
    log.warning("job %s: not offered (%s); the reaper will do it", creation.job, type(error).__name__)
