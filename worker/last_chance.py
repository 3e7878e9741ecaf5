"""Jobs that have taken two workers down: a worker runs one of them at a time, so that the third crash is its own.

Who dies with a worker is counted as if it had killed it: nobody can tell which of its jobs did. A job that kills is
there at every crash; one that only sat beside it is not, once they are kept apart (docs/decisions/0016).
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shared.errors import StorageError
from shared.jobs import MAX_CRASHES, JobKey, Status
from shared.storage.jobs import JobStore, Standing


class LastChance:
    """One worker's place for a job whose next crash would be its last."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._taken = False

    @asynccontextmanager
    async def place(self, job: JobKey, epoch: int) -> AsyncIterator[bool]:
        """Whether `job`, offered under `epoch`, may run here now; the place is its own for the length of the block."""
        needed = epoch > 0 and await self._needs_it(job)
        if needed and self._taken:
            yield False
            return
        self._taken = self._taken or needed
        try:
            yield True
        finally:
            if needed:
                self._taken = False

    async def _needs_it(self, job: JobKey) -> bool:
        try:
            _, (standing,) = await self._store.standings([job])
        except StorageError:
            return False  # nor can it be claimed
        return standing is not None and is_last_chance(standing)


def is_last_chance(standing: Standing) -> bool:
    """Whether the job, once claimed, has but one crash left: a claim of a running job counts one itself."""
    return standing.crashes + (standing.status is Status.RUNNING) >= MAX_CRASHES - 1
