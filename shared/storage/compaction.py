"""Rewriting a finished log compactly, a part at a time, so that neither store nor worker waits behind a long one.

A finished log never changes. Its compact form grows beside it and takes its place in one script, which first looks
whether the log still is what was read. Death in between leaves the log as it was, and a form that expires.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal

from shared.errors import SealedError
from shared.jobs import JobKey
from shared.storage import scripts
from shared.storage.batch import Batcher
from shared.storage.keys import compact_form, job_keys
from shared.storage.log import EventLog
from shared.storage.merged import RawEntries, Row, is_compact, merge
from shared.storage.sealed import tell

PART = 512
"""Entries that are read and merged at once: about a millisecond of the worker's."""

Verdict = Literal["OK", "LEFT", "CHANGED", "OPEN", "GONE"]

_AT_ONCE_CHARS = 65_536
"""What is packed in the loop; more of it would stop all jobs for milliseconds, and goes to a thread."""


class LogCompaction:
    """Rewrites logs. StorageError where the store cannot be reached; the log is then as it was, or rewritten."""

    def __init__(self, event_log: EventLog, batcher: Batcher) -> None:
        self._log = event_log
        self._batcher = batcher

    async def rewrite(self, job: JobKey, rest: Callable[[], Awaitable[None]]) -> Verdict:
        """Rewrite the log of a job that has ended; `rest` is awaited between two parts.

        OK, or why it stays as it is: LEFT (it is compact), CHANGED (it is not what was read; may be tried again), OPEN
        (a failover has lost the end) or GONE (deleted or expired).
        """
        try:
            return await self._rewrite(job, rest)
        except SealedError as error:
            # It would keep all others from being rewritten, again and again.
            tell(job, error)
            return "LEFT"

    async def _rewrite(self, job: JobKey, rest: Callable[[], Awaitable[None]]) -> Verdict:
        part = await self._log.read_raw(job, "-", PART)
        if not part:
            return "GONE"
        if is_compact(part):
            return "LEFT"
        first, length, form_ends = part[0][0], 0, ""
        while True:
            length, last = length + len(part), part[-1][0]
            more = await self._log.read_raw(job, f"({last}", PART) if len(part) == PART else []
            rows = await self._merged(job, part)
            verdict = await self._write(job, [form_ends, "" if more else str(length), first, last], rows)
            if verdict != "OK" or not more:
                return verdict
            form_ends, part = last, more
            await rest()

    async def _merged(self, job: JobKey, part: RawEntries) -> list[Row]:
        def merged() -> list[Row]:
            return self._batcher.values.rows(job_keys(job), merge(part))

        chars = sum(len(next(iter(fields.values())) if isinstance(fields, dict) else fields[1]) for _, fields in part)
        return merged() if chars <= _AT_ONCE_CHARS else await asyncio.to_thread(merged)

    async def _write(self, job: JobKey, args: list[str], rows: list[Row]) -> Verdict:
        for row in rows:
            args += row
        keys = (*job_keys(job), compact_form(job))
        verdict: Verdict = (await self._batcher.call(scripts.COMPACT, keys, args))[0]  # type: ignore[assignment]
        return verdict
