"""Who reads here: says so in the store, for jobs that are to be cancelled when nobody does (`cancel_if_unread_s`)."""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress

from shared.errors import TailraceError
from shared.jobs import JobKey, JobRecord
from shared.storage.jobs import JobStore

log = logging.getLogger(__name__)

SAY_AGAIN_S = 1.0
"""The shortest `cancel_if_unread_s` is a few times this, so that one lost word costs no job."""


def asks(record: JobRecord) -> bool:
    """Whether the job is to be cancelled when nobody reads it."""
    return record.unread_ms is not None and not record.ended


class Attendance:
    """Owned by the node, which keeps `run()` in its task group."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._readers: Counter[JobKey] = Counter()
        self._wanted = asyncio.Event()

    def reading(self, job: JobKey | None) -> AbstractContextManager[None]:
        """Somebody reads the job for the length of the block; None: a job that does not ask who reads it."""
        return nullcontext() if job is None else self._reading(job)

    @contextmanager
    def _reading(self, job: JobKey) -> Iterator[None]:
        self._readers[job] += 1
        self._wanted.set()
        try:
            yield
        finally:
            self._readers[job] -= 1
            if not self._readers[job]:
                del self._readers[job]

    async def glance(self, record: JobRecord) -> None:
        """Somebody has just looked at the job."""
        if asks(record):
            await self._say(record.key)

    async def run(self) -> None:
        """Say once a second, until cancelled, which jobs are being read."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            while self._readers:
                await asyncio.gather(*(self._say(job) for job in list(self._readers)))
                await asyncio.sleep(SAY_AGAIN_S)

    async def _say(self, job: JobKey) -> None:
        # A store that is away cannot cancel the job either, and the reaper waits for a lease after it is back.
        with suppress(TailraceError):
            await self._store.attend(job)
