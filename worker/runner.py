"""The slots of one worker: what runs here, how it is started, stopped and drained."""

import asyncio
import logging

from shared import metrics
from shared.errors import RecordError, StorageError
from shared.jobs import JobKey
from shared.queue import parse_offer
from shared.spending import Spending
from shared.storage.control import Control
from shared.storage.jobs import Refused
from worker.afterwards import Afterwards
from worker.claim import Taken
from worker.generate import Generation, Stop, Tools
from worker.last_chance import LastChance
from worker.seats import SeatKeeper

log = logging.getLogger(__name__)

_CLAIM_TRIES = 4
_CLAIM_PAUSE_S = 0.25
"""A claim that the store took but whose answer was lost is the same claim when it is tried again (worker/claim.py)."""
_NOT_NOW_MS = 500
"""A job that has to wait for its place (worker/last_chance.py) is offered again so much later, here or elsewhere."""


class Runner:
    """Owns every generation of the worker. `group` is the worker's task group."""

    def __init__(
        self,
        tools: Tools,
        control: Control,
        seats: SeatKeeper,
        group: asyncio.TaskGroup,
        spending: Spending | None = None,
    ) -> None:
        self._tools = tools
        self._seats = seats
        self._group = group
        self._taken = 0
        self._running: dict[str, Generation] = {}
        self._changed = asyncio.Event()
        self._last_chance = LastChance(tools.store, tools.worker)
        # Whoever gets an offer that stays finds its job taken, and the reaper an ended one in the index.
        self._to_withdraw = Afterwards[str](group, tools.queue.withdraw)
        self._to_close = Afterwards[JobKey](group, self._close)
        self._to_spend = Afterwards[JobKey](group, self._tell)
        self._control = control
        self._spending = spending
        self._spent: dict[JobKey, int] = {}
        self._telling = asyncio.Lock()
        """Held until it is known whether what was told was heard: no job leaves the index before."""
        self.begun = 0
        """Jobs that were begun here."""
        self.draining = False

    @property
    def free(self) -> int:
        """Slots that a job may take now; none while draining."""
        return 0 if self.draining else self._tools.settings.slots - self._taken

    @property
    def running(self) -> list[Generation]:
        """What generates here."""
        return list(self._running.values())

    async def wait_free(self) -> bool:
        """Return once a slot is free. True if there was none at first: then something may wait already."""
        waited = False
        while self.free <= 0:
            waited = True
            self._changed.clear()
            await self._changed.wait()
        return waited

    def start(self, offer: str, *, seated: bool = False) -> None:
        """Take one of the free slots for the job of an offer that this worker has taken, and claim it.

        `seated`: the offer came with a seat (worker/seats.py).
        """
        self._taken += 1
        if seated:
            self._seats.sit(offer)
        self._group.create_task(self._work(offer))

    def stop(self, job: str) -> None:
        """Stop `tenant/job` if it runs here: somebody else has ended it."""
        generation = self._running.get(job)
        if generation is not None:
            generation.stop(Stop.FENCED)

    async def drain(self, patience_s: float) -> None:
        """Take nothing new; give what runs `patience_s` to end, then hand the rest over. Returns when all are gone."""
        self.draining = True
        loop = asyncio.get_running_loop()
        until = loop.time() + patience_s
        while self._taken and loop.time() < until:
            self._changed.clear()
            await _wait(self._changed, until - loop.time())
        if self._running:
            log.info("handing over %d running jobs", len(self._running))
        while self._taken:
            for generation in self.running:
                generation.stop(Stop.DRAIN)
            self._changed.clear()
            await _wait(self._changed, 0.5)

    async def _work(self, offer: str) -> None:
        job, epoch = parse_offer(offer)
        try:
            async with self._last_chance.place(job, epoch) as has_place:
                if has_place:
                    await self._claim_and_generate(offer, job, epoch)
                else:
                    await self._tools.queue.turns.put_off(offer, _NOT_NOW_MS)
        except* StorageError:
            log.warning("job %s: left to the reaper, the store is away", job)
        except* Exception:
            log.exception("job %s: broke here; the reaper will offer it again", job)
        finally:
            self._taken -= 1
            self._changed.set()
        self._seats.leave(offer)  # not where this is cancelled: the seat lapses

    async def _claim_and_generate(self, offer: str, job: JobKey, epoch: int) -> None:
        taken = await self._claim(job, epoch)
        self._to_withdraw.add(offer)  # claimed, or of no use to anybody
        if isinstance(taken, Taken):
            await self._generate(Generation(self._tools, job, taken))
        elif taken is not None and taken.verdict in ("ENDED", "GONE"):
            self._to_close.add(job)

    async def _claim(self, job: JobKey, epoch: int) -> Taken | Refused | None:
        """The answer to our claim; None where the record is damaged. StorageError where there is none: then whoever
        gets the offer next claims it."""
        for _ in range(_CLAIM_TRIES - 1):
            try:
                return await self._claim_once(job, epoch)
            except StorageError:
                await asyncio.sleep(_CLAIM_PAUSE_S)
        return await self._claim_once(job, epoch)

    async def _claim_once(self, job: JobKey, epoch: int) -> Taken | Refused | None:
        try:
            return await self._tools.claimer.take(job, offered=epoch)
        except RecordError as error:
            log.error("job %s: %s", job, error.message)  # noqa: TRY400 - a trace would say nothing of the record
            return None

    async def _generate(self, generation: Generation) -> None:
        name = str(generation.job)
        self.begun += 1
        self._running[name] = generation
        metrics.RUNNING.inc()
        try:
            await generation.run()
        finally:
            metrics.RUNNING.dec()
            if self._running.get(name) is generation:
                del self._running[name]
        if self._spending is not None and self._spending.counts(generation.job):
            self._spent[generation.job] = generation.tokens
            self._to_spend.add(generation.job)
        if generation.written or await self._is_over(generation.job):
            self._to_close.add(generation.job)

    async def _tell(self, *_: JobKey) -> None:
        async with self._telling:
            spent, self._spent = self._spent, {}
            if spent and self._spending is not None:
                try:
                    await self._spending.tell(spent)
                except StorageError:
                    self._spent = {**spent, **self._spent}  # a job's last number is its highest
                    raise

    async def _close(self, *jobs: JobKey) -> None:
        # What they used first: if that fails, the reaper finds them on the index of open jobs, and tells.
        await self._tell()
        await self._control.close(*jobs)

    async def _is_over(self, job: JobKey) -> bool:
        (record,) = await self._tools.store.show_many([job])
        return record is None or record.ended


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(max(0.0, timeout_s)):
            await event.wait()
    except TimeoutError:
        pass
