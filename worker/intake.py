"""How jobs reach this worker: it takes what the tenants' turns give it for its free slots, woken by a bell.

Bells are the wake list, and arq, which runs inside our event loop with nothing to do but ring: any Redis error ends its
loop, which is therefore made anew each time. Where no bell comes, the worker looks for itself.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Any

from arq.connections import ArqRedis
from arq.worker import RetryJob, Worker, func

from shared.errors import StorageError, TailraceError
from shared.queue import FUNCTION, Queue, deserialize, serialize
from shared.settings import Settings
from shared.storage.connect import Redis
from shared.storage.sending import OwnLine
from shared.storage.turns import NO_LIMIT, Seats
from worker.runner import Runner

log = logging.getLogger(__name__)

_RING_TIMEOUT_S = 5
LOOK_S = 0.5
"""Without a bell a free slot looks for work so often: also at what was taken by a worker that died, and at seats that
have lapsed."""
_NO_LIMIT = 1_000_000
_YIELDS = 4
"""Turns of the loop that a started claim needs to get on its way; the next offer is asked for after it."""


class ArqWorker(Worker):
    """arq with a limit that follows our slots. Touches only what tests/storage/test_arq_contract.py holds."""

    def __init__(self, wanted: Callable[[], int], **options: Any) -> None:
        self._wanted = wanted  # first of all: arq's constructor sets max_jobs
        super().__init__(**options)

    @property
    def max_jobs(self) -> int:
        """How many functions arq may have under way."""
        return self._wanted()

    @max_jobs.setter
    def max_jobs(self, _: int) -> None:
        """arq sets it once, from its constructor; the slots know better."""


class Intake:
    """Feeds the runner. Owned by the composition root, which keeps both loops in its task group."""

    def __init__(
        self,
        settings: Settings,
        runner: Runner,
        queue: Queue,
        pool: ArqRedis,
        blocking: Redis,
        seats: Seats = NO_LIMIT,
    ) -> None:
        self._settings = settings
        self._runner = runner
        self._queue = queue
        self._pool = pool
        self._blocking = blocking
        self._seats = seats
        self._seat_ms = round(settings.lease_s * 1000)
        self._held = False
        """At the last look, all that waited waited for a seat: arq could only ring for it again and again."""

    async def run_turns(self) -> None:
        """Start what comes next, for as long as there are slots."""
        line = OwnLine(self._blocking)
        try:
            at_once = True  # at the start as after a full house: something may wait that nobody will ring for
            while True:
                at_once = await self._runner.wait_free() or at_once
                try:
                    at_once = await self._fill(line, 0.0 if at_once else LOOK_S)
                except TailraceError as error:
                    if not isinstance(error, StorageError):  # something odd stands in the store: what runs goes on
                        log.error("nothing can be taken: %s", error.message)  # noqa: TRY400 - a trace says nothing of it
                        await asyncio.sleep(LOOK_S)
                    await asyncio.sleep(random.uniform(0.05, 0.3))
                    at_once = True
        finally:
            await line.aclose()

    async def _fill(self, line: OwnLine, bell_s: float) -> bool:
        """Take and start what there is for the free slots, after a bell; whether there may be more."""
        free = self._runner.free
        taking = await self._queue.turns.take(line, free, seat_ms=self._seat_ms, seats=self._seats, bell_s=bell_s)
        self._held = taking.held
        for offer in taking.offers:
            self._runner.start(offer, seated=offer in taking.seated)
        for _ in range(_YIELDS):
            await asyncio.sleep(0)
        return len(taking.offers) == free

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
            self._bells_wanted,
            functions=[func(self._deliver, name=FUNCTION, timeout=_RING_TIMEOUT_S, max_tries=_NO_LIMIT)],
            redis_pool=self._pool,
            queue_name=self._settings.queue_name,
            handle_signals=False,
            keep_result=0,
            job_timeout=_RING_TIMEOUT_S,
            max_tries=_NO_LIMIT,
            max_jobs=_NO_LIMIT,
            # Explicit: arq derives it from max_jobs, and reads ids only up to here at each poll.
            queue_read_limit=200,
            job_serializer=serialize,
            job_deserializer=deserialize,
            log_results=False,
        )
        worker.in_progress_timeout_s = _RING_TIMEOUT_S + 1
        return worker

    def _bells_wanted(self) -> int:
        return 0 if self._held else self._runner.free

    async def _deliver(self, ctx: dict[str, Any], job: str) -> None:
        """arq's one function: ring, and leave the offer where it is (RetryJob; arq's Retry would move it behind all
        others) until it is withdrawn: an older worker beside this one knows of no other place to find it."""
        try:
            stands = await self._queue.turns.ring(ctx["job_id"])
        except StorageError:
            stands = True
        if stands:
            raise RetryJob
