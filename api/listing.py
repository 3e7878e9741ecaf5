"""A tenant's list of jobs, page by page, in bounded memory: records hold their prompts, and few are read at once."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

from shared.errors import TailraceError
from shared.jobs import JobKey, JobRecord, Status
from shared.storage.control import Control
from shared.storage.jobs import JobStore

PAGES = 8
"""How many pages of the index a list with a status filter looks at before it hands the rest to the next call."""
BATCH = 8
"""How many records are read at once: prompts may have as many bytes as a body."""
MOST_WAITING = 64


class Page(NamedTuple):
    """Jobs as the API shows them, and where the next page begins; None where there is none."""

    jobs: list[dict[str, Any]]
    next: str | None


class _Turn:
    """One list of a tenant at a time: whoever asks for many at once waits for himself alone."""

    __slots__ = ("__weakref__", "lock", "waiting")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.waiting = 0

    async def __aenter__(self) -> None:
        if self.waiting >= MOST_WAITING:
            raise TailraceError("rate_limited", "Too many lists at once; ask for them in turn.", retry_after_s=1)
        self.waiting += 1
        try:
            await self.lock.acquire()
        finally:
            self.waiting -= 1

    async def __aexit__(self, *_: object) -> None:
        self.lock.release()


class Lists:
    """Owned by the node."""

    def __init__(self, control: Control, store: JobStore) -> None:
        self._control = control
        self._store = store
        self._turns: WeakValueDictionary[str, _Turn] = WeakValueDictionary()

    async def page(self, tenant: str, status: Status | None, after: str | None, limit: int) -> Page:
        """Up to `limit` jobs, newest first, behind `after`. StorageError; `rate_limited` for too many at once."""
        turn = self._turns.setdefault(tenant, _Turn())
        async with turn:
            return await self._page(tenant, status, after, limit)

    async def _page(self, tenant: str, status: Status | None, after: str | None, limit: int) -> Page:
        found: list[dict[str, Any]] = []
        position, more = after, True
        for _ in range(PAGES):
            ids = await self._control.jobs_before(tenant, position, limit)
            async with aclosing(self._records([JobKey(tenant, job_id) for job_id in ids], status)) as records:
                async for job_id, record in records:
                    if len(found) == limit:
                        break
                    position = job_id
                    if record is not None and status in (None, record.status):
                        found.append(record.view())
            more = len(ids) == limit or len(found) == limit
            if len(found) == limit or not more:
                break
        return Page(found, position if more else None)

    async def _records(self, jobs: list[JobKey], status: Status | None) -> AsyncGenerator[tuple[str, JobRecord | None]]:
        """Each job's id, and its record where it may have the status."""
        for at in range(0, len(jobs), BATCH):
            batch = jobs[at : at + BATCH]
            wanted = batch
            if status is not None:
                _, standings = await self._store.standings(batch)
                pairs = zip(batch, standings, strict=True)
                wanted = [job for job, standing in pairs if standing is not None and standing.status == status]
            records = dict(zip(wanted, await self._store.show_many(wanted), strict=True))
            for job in batch:
                yield job.id, records.pop(job, None)
