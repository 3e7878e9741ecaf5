"""Jobs that have taken two workers down: a worker lets few of them begin at once, so that the third crash is its own.

Who dies with a worker is counted as if it had killed it: nobody can tell which of its jobs did. A job that kills is
there at every crash; one that only sat beside it is not, once they are kept apart (docs/decisions/0016).
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shared.errors import StorageError
from shared.jobs import MAX_CRASHES, JobKey, Status
from shared.storage.jobs import JobStore, Standing

PROBATION_S = 3.0
"""Who has run for so long is not suspected any more, and another may begin beside it."""
ENDED_COUNTS_S = 2 * PROBATION_S
"""For how long one that has ended with its worker alive speaks for those that come after it."""


class LastChance:
    """One worker's places for jobs whose next crash would be their last.

    One may begin at a time; for each that outlives its probation, or ends before, one more: the longer nothing happens,
    the faster a queue of such jobs gets going again.
    """

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._now_s = asyncio.get_running_loop().time
        self._began_s: dict[JobKey, float] = {}
        self._ended_s: deque[float] = deque(maxlen=64)

    @asynccontextmanager
    async def place(self, job: JobKey, epoch: int) -> AsyncIterator[bool]:
        """Whether `job`, offered under `epoch`, may run here now; the place is its own for the length of the block."""
        needed = epoch > 0 and await self._needs_it(job)
        if needed and (job in self._began_s or not self._free()):
            yield False
            return
        if needed:
            self._began_s[job] = self._now_s()
        try:
            yield True
        finally:
            if needed:
                del self._began_s[job]
                self._ended_s.append(self._now_s())

    def _free(self) -> bool:
        now_s = self._now_s()
        suspects = sum(now_s - began_s < PROBATION_S for began_s in self._began_s.values())
        ended = sum(now_s - ended_s < ENDED_COUNTS_S for ended_s in self._ended_s)
        return suspects < max(1, len(self._began_s) - suspects + ended)

    async def _needs_it(self, job: JobKey) -> bool:
        try:
            _, (standing,) = await self._store.standings([job])
        except StorageError:
            return False  # nor can it be claimed
        return standing is not None and is_last_chance(standing)


def is_last_chance(standing: Standing) -> bool:
    """Whether the job, once claimed, has but one crash left: a claim of a running job counts one itself."""
    return standing.crashes + (standing.status is Status.RUNNING) >= MAX_CRASHES - 1
