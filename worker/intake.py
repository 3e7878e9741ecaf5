"""How jobs reach this worker: by arq's queue, which is safe and slow, and by the wake list, which is neither.

arq runs inside our event loop with nothing to do but claim; its function returns as soon as the generation has started,
so generations outlive arq's loop, which any Redis error ends and which is therefore made anew each time.
"""

import asyncio
import logging
import random
from typing import Any

from arq.connections import ArqRedis
from arq.worker import RetryJob, Worker, func

from shared.errors import StorageError
from shared.queue import FUNCTION, Queue, deserialize, serialize
from shared.settings import Settings
from shared.storage.connect import Redis
from worker.runner import NotNowError, Runner

log = logging.getLogger(__name__)

_CLAIM_TIMEOUT_S = 5
_BLOCK_S = 2.0
_NO_LIMIT = 1_000_000
_TURNS = 4
"""Turns of the loop that a started claim needs to get on its way; the next wake-up is asked for after it."""


class ArqWorker(Worker):
    """arq with a limit that follows our slots. Touches only what tests/storage/test_arq_contract.py holds."""

    def __init__(self, runner: Runner, **options: Any) -> None:
        self._runner = runner  # first of all: arq's constructor sets max_jobs
        self.holding = 0
        """Functions under way that have a slot already: they count in arq's job_counter and in our slots."""
        super().__init__(**options)

    @property
    def max_jobs(self) -> int:
        """How many functions arq may have under way."""
        return self._runner.free + self.holding

    @max_jobs.setter
    def max_jobs(self, _: int) -> None:
        """arq sets it once, from its constructor; the slots know better."""


class Intake:
    """Feeds the runner. Owned by the composition root, which keeps both loops in its task group."""

    def __init__(self, settings: Settings, runner: Runner, queue: Queue, pool: ArqRedis, blocking: Redis) -> None:
        self._settings = settings
        self._runner = runner
        self._queue = queue
        self._pool = pool
        self._blocking = blocking

    async def run_wakes(self) -> None:
        """Start what the wake list names, for as long as there are slots. A wake without a slot is offered again."""
        behind = True  # at the start as after a full house: what waits longer or weighs more stands in the queue
        while True:
            behind = await self._runner.wait_free() or behind
            try:
                if behind:
                    await self._read_queue()
                    behind = False
                    continue
                offer = await self._queue.next_wake(self._blocking, _BLOCK_S)
                if offer is not None and self._runner.try_start(offer) is None:
                    await self._queue.wake_again(offer)
                for _ in range(_TURNS):
                    await asyncio.sleep(0)
            except StorageError:
                await asyncio.sleep(random.uniform(0.05, 0.3))

    async def _read_queue(self) -> None:
        """Start what stands first in the queue, which knows priorities, until the slots or the offers are used up.

        An offer of a job that has ended, or runs elsewhere, frees its slot again at once: go on behind it.
        """
        tried: set[str] = set()
        while self._runner.free > 0:
            offers = [offer for offer in await self._queue.head(self._runner.free + len(tried)) if offer not in tried]
            claims = [self._runner.try_start(offer) for offer in offers]
            if not offers:
                return
            tried.update(offers)
            await asyncio.gather(*(claim for claim in claims if claim is not None), return_exceptions=True)
            await asyncio.sleep(0)  # what was refused gives its slot back

    async def run_arq(self) -> None:
        """Run arq, and run it again: a Redis error ends its loop, not our generations."""
        while True:
            worker = self._make_arq()
            try:
                await worker.async_run()
            except Exception as error:
                log.warning("arq stopped: %s; starting it again", type(error).__name__)
            finally:
                for task in worker.tasks.values():
                    task.cancel()
                await asyncio.gather(*worker.tasks.values(), return_exceptions=True)
            await asyncio.sleep(random.uniform(0.1, 0.5))

    def _make_arq(self) -> ArqWorker:
        worker = ArqWorker(
            self._runner,
            functions=[func(self._deliver, name=FUNCTION, timeout=_CLAIM_TIMEOUT_S, max_tries=_NO_LIMIT)],
            redis_pool=self._pool,
            queue_name=self._settings.queue_name,
            handle_signals=False,
            keep_result=0,
            job_timeout=_CLAIM_TIMEOUT_S,
            max_tries=_NO_LIMIT,
            max_jobs=_NO_LIMIT,
            # Explicit: arq derives it from max_jobs, and reads ids only up to here at each poll.
            queue_read_limit=200,
            job_serializer=serialize,
            job_deserializer=deserialize,
            log_results=False,
        )
        worker.in_progress_timeout_s = _CLAIM_TIMEOUT_S + 1
        self._arq = worker
        return worker

    async def _deliver(self, ctx: dict[str, Any], job: str) -> None:
        """arq's one function: claim and return. Where no slot is free, the store is away or the job has to wait for
        its place, the offer keeps its own in the queue (RetryJob; arq's Retry would move it behind all others)."""
        started = self._runner.try_start(ctx["job_id"], withdraw=False)
        if started is None:
            raise RetryJob
        self._arq.holding += 1
        try:
            await started
        except (StorageError, NotNowError):
            raise RetryJob from None
        finally:
            self._arq.holding -= 1
