"""Jobs that have taken two workers down: a worker lets one of them begin at a time, so that the third crash is its own.

Who dies with a worker is counted as if it had killed it: nobody can tell which of its jobs did. A job that kills is
there at every crash; one that only sat beside it is not, once they are kept apart (docs/decisions/0016).
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shared.errors import StorageError
from shared.jobs import MAX_CRASHES, JobKey, Status
from shared.storage.jobs import JobStore, Standing

PROBATION_S = 2.0
"""Who has run for so long is not suspected any more, and another may begin beside it."""


class LastChance:
    """One worker's places for jobs whose next crash would be their last.

    The next may begin when the last one has outlived its probation, or ended before. Who has outlived it is pardoned a
    crash before another begins beside it: if that one kills the worker, it takes nobody along.
    """

    def __init__(self, store: JobStore, worker: str) -> None:
        self._store = store
        self._worker = worker
        self._now_s = asyncio.get_running_loop().time
        self._began_s: dict[JobKey, float] = {}

    @asynccontextmanager
    async def place(self, job: JobKey, epoch: int) -> AsyncIterator[bool]:
        """Whether `job`, offered under `epoch`, may run here now; the place is its own for the length of the block."""
        needed = epoch > 0 and await self._needs_it(job)
        if not needed:
            yield True
            return
        if job in self._began_s or not self._free():
            yield False
            return
        others = list(self._began_s)
        self._began_s[job] = self._now_s()
        try:
            yield await self._pardoned(others)
        finally:
            del self._began_s[job]

    def _free(self) -> bool:
        now_s = self._now_s()
        return all(now_s - began_s >= PROBATION_S for began_s in self._began_s.values())

    async def _pardoned(self, others: list[JobKey]) -> bool:
        try:
            await asyncio.gather(*(self._store.pardon(other, self._worker) for other in others))
        except StorageError:
            return False  # nor can it be claimed
        return True

    async def _needs_it(self, job: JobKey) -> bool:
        try:
            _, (standing,) = await self._store.standings([job])
        except StorageError:
            return False  # nor can it be claimed
        return standing is not None and is_last_chance(standing)


def is_last_chance(standing: Standing) -> bool:
    """Whether the job, once claimed, has but one crash left: a claim of a running job counts one itself."""
    return standing.crashes + (standing.status is Status.RUNNING) >= MAX_CRASHES - 1
