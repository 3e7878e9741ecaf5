"""The log of a job as its readers see it: entries after a cursor, and proof that none is missing.

A page is read *from the cursor on, the cursor included*: if the log no longer holds the cursor (trimmed, lost in a
failover, of another job), the first entry shows it. Redis itself never says so: XRANGE jumps over holes in silence.
A finished log may hold many events in one entry of the store (shared/storage/merged.py); a page shows each of them.
"""

import logging
import sys
from dataclasses import dataclass

from shared.errors import RecordError, SealedError
from shared.events import START, TERMINAL, Entry, EventId, decode, length, size
from shared.jobs import JobKey
from shared.storage import merged
from shared.storage.connect import Redis, readable, sound, storage_errors
from shared.storage.keys import job_keys
from shared.storage.merged import RawEntries
from shared.storage.reads import Line, Pooled
from shared.storage.sealed import PLAIN, Values, tell

log = logging.getLogger(__name__)

PAGE = 128
"""Entries a round trip: few enough that nobody in the loop waits behind a page (at 512: 80 ms)."""
MOST_MERGED = 8
"""So many times the entries asked for may be in a page of merged ones, which cost less each than their round trip."""
MOST_TOGETHER_CHARS = 524_288
"""Of texts that stay together in a page: a few milliseconds of the loop's."""


@dataclass(frozen=True, slots=True)
class Page:
    """Entries after a cursor. `held`: the log holds the cursor and the entries follow it without a hole."""

    entries: list[Entry]
    held: bool
    full: bool
    """Whether there may be more."""
    empty_log: bool = False
    at_end: bool = False
    """The cursor is the terminal event: nothing follows it."""


def read_page(cursor: EventId, raw: RawEntries, count: int, most: int | None = None, *, together: bool = False) -> Page:
    """Judge what XRANGE gave for `cursor` (itself included, unless it is the start), asked for `count` entries.

    `most`: about how many events to take of them; None: MOST_MERGED × `count`. `together`: see `read_after`.
    """
    entries, all_of_them = _from(cursor, raw, MOST_MERGED * count if most is None else most, together=together)
    full = len(raw) >= count or not all_of_them
    if cursor == START:
        whole = _without_hole(cursor, entries)
        return Page(whole, bool(whole) or not entries, full or len(whole) < len(entries), not entries)
    if not entries or entries[0].id != cursor:
        return Page([], False, full, not entries)
    whole = _without_hole(cursor, entries[1:])
    held, more = bool(whole) or len(entries) == 1, full or len(whole) < len(entries) - 1
    return Page(whole, held, more, at_end=isinstance(entries[0].event, TERMINAL))


def _from(cursor: EventId, raw: RawEntries, most: int, *, together: bool = False) -> tuple[list[Entry], bool]:
    """The entries from `cursor` on, about `most` of them; whether that is all that `raw` holds.

    XRANGE gives the whole of a merged entry in which the cursor lies: what is before the cursor is left out.
    """
    whole = merged.together if together else merged.expand
    entries: list[Entry] = []
    chars = 0
    for entry_id, fields in raw:
        if len(entries) >= most or chars >= MOST_TOGETHER_CHARS:
            return entries, False
        field, value = next(iter(fields.items())) if isinstance(fields, dict) else fields[:2]
        epoch, _, seq = entry_id.partition("-")  # the store's own: two whole numbers of 64 bits
        last = EventId(int(epoch), int(seq))
        if field[:1] not in merged.MERGED:
            entries.append(Entry(last, decode(field, value)))
            continue
        if entries or cursor == START:
            entries += whole(last, field, value)
            chars += length(entries[-1])
        else:
            entries += [entry for entry in merged.expand(last, field, value) if entry.id >= cursor]
    return entries, True


def all_entries(raw: RawEntries) -> list[Entry]:
    """Each entry of what XRANGE gave, as it was appended."""
    return _from(START, raw, sys.maxsize)[0]


def _without_hole(cursor: EventId, entries: list[Entry]) -> list[Entry]:
    """The entries up to the first that does not follow; who comes back from there finds the cursor not held."""
    seq = cursor.seq
    for place, entry in enumerate(entries):
        seq += size(entry)
        if entry.id.seq != seq:
            return entries[:place]
    return entries


class EventLog:
    """Reads logs. All methods raise StorageError where the store cannot be reached."""

    def __init__(self, redis: Redis, line: Line | None = None, values: Values = PLAIN) -> None:
        """`line`: over which pages and last ids are read, where not over the client's pool. `values`: how text is
        stored."""
        self._values = values
        self._redis = redis
        self._line = line or Pooled(redis)

    async def read_after(self, job: JobKey, cursor: EventId, count: int = PAGE, *, together: bool = False) -> Page:
        """One page of entries after `cursor`. `together`: texts that the store has in one entry stay in one (Texts)."""
        return (await self.read_many([(job, cursor)], count, together=together))[0]

    async def read_many(
        self, wanted: list[tuple[JobKey, EventId]], count: int = PAGE, *, together: bool = False
    ) -> list[Page]:
        """One page for each of many logs, in one round trip. What cannot be opened, or is damaged, is the matter of its
        own job: none of it is held; RecordError or SealedError where it was asked for alone."""
        with storage_errors():
            answers = await self._line.exchange(
                [
                    ("XRANGE", job_keys(job).log, "-" if cursor == START else str(cursor), "+", "COUNT", count + 1)
                    for job, cursor in wanted
                ]
            )
            pages = [readable(answer) for answer in answers]
        # All of them are judged in one turn of the loop, and merged entries hold many events each.
        most = max(count + 1, MOST_MERGED * (count + 1) // max(1, len(wanted)))
        judged: list[Page] = []
        for (job, cursor), raw in zip(wanted, pages, strict=True):
            page = Page([], False, False)
            try:
                if raw is not None:
                    entries = self._values.opened(job_keys(job), raw)
                    page = read_page(cursor, entries, count + 1, most, together=together)
            except SealedError as error:
                tell(job, error)
                if len(wanted) == 1:
                    raise
            except RecordError as error:
                if len(wanted) == 1:
                    raise
                log.error("job %s: %s", job, error.message)  # noqa: TRY400 - a trace would say nothing of the record
            judged.append(page)
        return judged

    async def read_all(self, job: JobKey) -> list[Entry]:
        """All that the log holds, page by page, holes or not. Empty where there is none."""
        entries: list[Entry] = []
        after = "-"
        while raw := await self.read_raw(job, after, PAGE):
            seen = entries[-1].id if entries else START
            # Rewritten since the page before, its next entry may hold what was seen already.
            entries += [entry for entry in all_entries(raw) if entry.id > seen]
            if len(raw) < PAGE:
                break
            after = f"({raw[-1][0]}"
        return entries

    async def read_raw(self, job: JobKey, start: str, count: int) -> RawEntries:
        """Up to `count` entries as the store has them, opened, from the id `start` on ("(" before it: behind it)."""
        with storage_errors():
            (raw,) = await self._line.exchange([("XRANGE", job_keys(job).log, start, "+", "COUNT", count)])
            found: RawEntries = sound(raw)
        return self._values.opened(job_keys(job), found)

    async def last_ids(self, jobs: list[JobKey]) -> list[EventId | None]:
        """The id of each log's last entry; None where there is no log."""
        with storage_errors():
            commands = [("XREVRANGE", job_keys(job).log, "+", "-", "COUNT", 1) for job in jobs]
            answers = [readable(answer) for answer in await self._line.exchange(commands)]
        return [EventId.parse(raw[0][0]) if raw else None for raw in answers]

    async def running(self, job: JobKey) -> tuple[int, bool]:
        """The running epoch and whether its lease lives: is somebody there who may repair a lost tail?"""
        with storage_errors():
            pipe = self._redis.pipeline(transaction=False)
            keys = job_keys(job)
            pipe.hget(keys.meta, "epoch")
            pipe.exists(keys.lease)
            epoch, leased = await pipe.execute()
        return int(epoch or 0), bool(leased)
