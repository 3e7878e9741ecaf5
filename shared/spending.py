"""What jobs use of their tenants' tokens a day: told to the control store when they stop, by whoever sees it.

Nothing is reserved when a job is taken in. Most jobs use a small part of what they may, so reserving that would refuse
work that there are tokens for; and what is open when the last token goes is bounded: by the tenant's open jobs, times
the `max_tokens` that each may have.
"""

import logging
from collections.abc import Iterable, Mapping

from shared.errors import RecordError
from shared.jobs import JobKey
from shared.limits import LimitTable
from shared.storage.jobs import JobStore
from shared.storage.limits import LimitStore

log = logging.getLogger(__name__)


def tokens_in(usage: Mapping[str, int]) -> int:
    """Tokens that a provider has counted, in and out. What it says beside that (cached, reasoning) is part of those."""
    return usage.get("input_tokens", 0) + usage.get("output_tokens", 0)


class Spending:
    """Counts nothing for tenants without a limit."""

    def __init__(self, table: LimitTable, store: LimitStore) -> None:
        self._table = table
        self._store = store

    def counts(self, job: JobKey) -> bool:
        """Whether what the job uses is counted."""
        return self._table.counts_tokens(job.tenant)

    async def tell(self, used: Mapping[JobKey, int]) -> None:
        """What jobs have used so far; harmless to repeat. StorageError where the store is away: nothing was counted,
        or nobody knows."""
        counted = {job: tokens for job, tokens in used.items() if tokens > 0 and self.counts(job)}
        if not counted:
            return
        try:
            await self._store.spend(counted)
        except RecordError as error:
            log.error("tokens of the day: %s", error.message)  # noqa: TRY400 - a trace would say nothing of the record

    async def tell_of_ended(self, jobs: Iterable[JobKey], store: JobStore) -> None:
        """The same by the records of jobs that somebody else has ended, perhaps with his last breath."""
        counted = [job for job in jobs if self.counts(job)]
        if counted:
            records = await store.show_many(counted)
            await self.tell({record.key: tokens_in(record.usage) for record in records if record is not None})
