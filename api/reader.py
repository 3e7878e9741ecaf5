"""One reader of one log: replay from its cursor, then the shared tail, and the proof that nothing is missing.

What `follow` yields is exactly the events after the cursor, once each, in order (DESIGN §2, invariant 1), in runs that
are adjacent in the log. Where the log does not hold the cursor it yields a snapshot: a `reset` that is not in the log.
"""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from enum import Enum

from api.sink import Sink
from api.tail import SharedPage, Tail, Tails
from shared import metrics
from shared.errors import StorageError, TailraceError
from shared.events import START, TERMINAL, Entry, EventId, Failed, Reset, length
from shared.jobs import JobKey
from shared.storage.jobs import JobStore
from shared.storage.log import EventLog
from shared.transcript import fold

REPAIR_LOOK_S = 0.25
PAGES_KEPT = 64
PAGE_KEPT_S = 1.0
"""So many small pages of finished logs, for so long: who was cut off with others comes back within a second of them."""
_SMALL_ENTRIES, _SMALL_CHARS = 128, 32_768


@dataclass(slots=True)
class Run:
    """Adjacent entries, ready to be written.

    `tail`: where their bytes are shared, if they stand in its ring. `frames`: their bytes by dialect, shared with those
    for whom the same page was read.
    """

    entries: list[Entry]
    tail: Tail | None = None
    frames: dict[str, bytes] | None = None

    def let_go(self) -> None:
        """Forget the entries, once they are encoded: a stalled reader pins its bytes, not both."""
        self.entries, self.frames = [], None


@dataclass(frozen=True, slots=True)
class Lost:
    """The log is gone under the reader; `event` has no id."""

    event: Failed


@dataclass(frozen=True, slots=True)
class Start:
    """Where a reader begins. `now`: a snapshot, then only what comes. `survivors`: likewise, from an empty cursor on,
    where the log holds text that a reset took back, for dialects that cannot retract it. `new`: of a log that was made
    a moment ago. `whole`: of one that has ended."""

    cursor: EventId = START
    now: bool = False
    survivors: bool = False
    new: bool = False
    whole: bool = False

    @property
    def word(self) -> str:
        """For the metrics: `now`, `beginning`, or `cursor` of a reader that comes back."""
        return "now" if self.now else "beginning" if self.cursor == START else "cursor"


class _Nothing(Enum):
    NOW = "the store is away"
    MORE = "the cursor is the end"


class _Silence:
    """For how long a reader has heard nothing. Times by the event loop's clock."""

    __slots__ = ("_now_s", "_patience_s", "until_s")

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._now_s = asyncio.get_running_loop().time
        self.until_s = self._now_s() + patience_s

    @property
    def since_s(self) -> float:
        """When something was said last."""
        return self.until_s - self._patience_s

    def broken(self, at_s: float | None = None) -> None:
        """Something was said."""
        self.until_s = max(self.until_s, (self._now_s() if at_s is None else at_s) + self._patience_s)

    def is_due(self) -> bool:
        """Whether it has lasted long enough to be broken by a heartbeat, which then breaks it."""
        due = self._now_s() >= self.until_s
        if due:
            self.broken()
        return due

    @property
    def left_s(self) -> float:
        """How much longer it may last."""
        return max(0.0, self.until_s - self._now_s())


async def _wait(tail: Tail, version: int, cursor: EventId, silence: _Silence, sink: Sink | None) -> EventId:
    """Until there is something to look at or to say. The cursor then: `sink` may have taken events meanwhile."""
    if sink is None or tail.cursor != cursor:
        await tail.changed(version, silence.left_s)
        return cursor
    sink.cursor, sink.spoke_s = cursor, silence.since_s
    await tail.fill(sink, version)
    silence.broken(sink.spoke_s)
    return sink.cursor


def _is_small(entries: list[Entry] | None) -> bool:
    """Whether these may be kept for who comes next: some tens of KB."""
    if not entries:
        return False
    return len(entries) <= _SMALL_ENTRIES and sum(map(length, entries)) <= _SMALL_CHARS


class Reader:
    """Follows one job."""

    __slots__ = ("_job", "_log", "_repair_wait_s", "_store", "_tails", "_together")

    def __init__(
        self,
        job: JobKey,
        store: JobStore,
        event_log: EventLog,
        tails: Tails,
        *,
        repair_wait_s: float,
        together: bool = False,
    ) -> None:
        """`together`: texts that the store has in one entry may stay in one (Texts)."""
        self._together = together
        self._job = job
        self._store = store
        self._log = event_log
        self._tails = tails
        self._repair_wait_s = repair_wait_s

    async def replay(self, cursor: EventId) -> AsyncGenerator[Run, None]:
        """What follows `cursor` in a log that has ended, without being attached to it, for nothing comes.

        It ends before the terminal event where the store is away, or shows something else than a log that goes on from
        the cursor: what is to be done then, `follow` knows.
        """
        while True:
            try:
                entries, frames = await self._shared_page(cursor, finished=True)
            except StorageError:
                return
            if not entries:
                return
            last = entries[-1]
            yield Run(entries, None, frames)
            if isinstance(last.event, TERMINAL):
                return
            cursor = last.id
            await asyncio.sleep(0)

    async def follow(
        self, start: Start, heartbeat_s: float, sink: Sink | None = None
    ) -> AsyncGenerator[Run | Lost | None, None]:
        """Runs of entries until the terminal event; None after `heartbeat_s` of silence.

        `sink`: takes what comes once the reader has all that there is; what it took is not yielded.
        The first run is empty: the reader is attached. StorageError comes before it; later, a reader outlasts a store
        that goes away, unless it needs a snapshot just then.
        """
        cursor = start.cursor
        tail = await self._tails.attach(self._job, new=start.new)
        try:
            yield Run([])
            snapshot = await self._first(start)
            if snapshot is not None:
                yield Run([snapshot])
                cursor = snapshot.id
                del snapshot  # all of the text
            silence = _Silence(heartbeat_s)
            while True:
                version = tail.version
                step = await self._step(cursor, start, tail)
                if isinstance(step, _Nothing):
                    if step is _Nothing.MORE:
                        return
                elif isinstance(step, Lost):
                    yield step
                    return
                elif step.entries:
                    last = step.entries[-1]
                    yield step
                    silence.broken()
                    cursor = last.id
                    if isinstance(last.event, TERMINAL):
                        return
                    # A replay must not hold the event loop: uvicorn's send does not suspend by itself.
                    await asyncio.sleep(0)
                else:
                    cursor = await _wait(tail, version, cursor, silence, sink)
                    if sink is not None and sink.ended:
                        return
                if silence.is_due():
                    yield None
        finally:
            await self._tails.detach(tail)

    async def _step(self, cursor: EventId, start: Start, tail: Tail) -> "Run | Lost | _Nothing":
        """What follows `cursor`; an empty run where that is yet to come."""
        try:
            step = await self._next(cursor, tail)
            if cursor == start.cursor and isinstance(step, Run) and await self._is_end(step, cursor):
                return _Nothing.MORE
        except StorageError:
            # The store is away: the reader's connection outlasts it, and is told that it lives.
            await asyncio.sleep(REPAIR_LOOK_S)
            return _Nothing.NOW
        return step

    async def _first(self, start: Start) -> Entry | None:
        """What a reader gets before anything else, where it begins with a snapshot."""
        if start.now or (start.survivors and start.cursor == START):
            return await self._snapshot(only_if_reset=not start.now)
        return None

    async def _next(self, cursor: EventId, tail: Tail) -> Run | Lost:
        """What follows `cursor`: from the shared ring, else from the log, else what there is instead."""
        run = tail.after(cursor)
        if run is not None:
            return Run(run, tail)
        entries, frames = await self._shared_page(cursor)
        return Run(entries, None, frames) if entries is not None else await self._resync(cursor, tail)

    async def _shared_page(self, cursor: EventId, *, finished: bool = False) -> SharedPage:
        """A page read once for all who wait for it: they come back together when a node or a network was gone.

        One of a log that has `finished` is the same a moment later, and is kept so long if it is small.
        """
        reads, place = self._tails.pages, (self._job, cursor, self._together)
        while (reading := reads.get(place)) is not None:
            page = await asyncio.shield(reading)
            if page is not None:
                return page  # else whoever read it has left, and the next in line reads
        reading = reads[place] = asyncio.get_running_loop().create_future()
        page = None
        try:
            page = await self._page(cursor), {}
        finally:
            if finished and page is not None and _is_small(page[0]) and len(reads) <= PAGES_KEPT:
                asyncio.get_running_loop().call_later(PAGE_KEPT_S, reads.pop, place)
            else:
                del reads[place]
            reading.set_result(page)
        return page

    async def _is_end(self, step: Run, cursor: EventId) -> bool:
        """Whether a reader came with the terminal event for its cursor. It would have been told so before it got here,
        but an end that a failover had lost may be appended again while its reader waits for it."""
        if step.entries or cursor == START:
            return False
        return (await self._log.read_after(self._job, cursor, count=1)).at_end

    async def _page(self, cursor: EventId) -> list[Entry] | None:
        """Entries after `cursor` from the log itself; None where it does not hold the cursor."""
        async with self._tails.replaying:
            page = await self._log.read_after(self._job, cursor, together=self._together)
        return page.entries if page.held and not (page.empty_log and cursor == START) else None

    async def _resync(self, cursor: EventId, tail: Tail) -> Run | Lost:
        """What to tell a reader whose cursor the log does not hold.

        While the cursor's own epoch runs and its lease lives, its worker will append the lost tail again.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + self._repair_wait_s
        while True:
            version = tail.version
            epoch, leased = await self._log.running(self._job)
            (last,) = await self._log.last_ids([self._job])
            # Read after the look at who might repair it: whatever he has appended by then is in here.
            page = await self._page(cursor)
            if page is not None:
                return Run(page)
            # A log that goes on behind the cursor without it was trimmed: nobody appends that again.
            longer = last is not None and last.seq >= cursor.seq
            if longer or not leased or epoch != cursor.epoch or loop.time() >= until:
                break
            await tail.changed(version, REPAIR_LOOK_S)
        # Who has seen nothing is told nothing new by a snapshot: a log that came back just now has its first event.
        snapshot = await self._snapshot() if cursor != START else None
        if snapshot is not None:
            metrics.SNAPSHOTS.inc()
            return Run([snapshot])
        # Nothing before the terminal event: the log was lost and the job ended afterwards, or is not there at all.
        rest = await self._log.read_after(self._job, START)
        return Run(rest.entries) if rest.entries else Lost(await self._log_lost())

    async def _snapshot(self, *, only_if_reset: bool = False) -> Entry | None:
        """All before the terminal event as one `reset`; None where there is no log (or, if asked, no reset in it)."""
        entries = await self._log.read_all(self._job)
        if entries and isinstance(entries[-1].event, TERMINAL):
            del entries[-1]
        if not entries or (only_if_reset and not any(isinstance(entry.event, Reset) for entry in entries)):
            return None
        done = fold(entry.event for entry in entries)
        return Entry(
            entries[-1].id,
            Reset(
                attempt=done.attempt,
                keep=0,
                reason="snapshot",
                text=done.text,
                reasoning=done.reasoning or None,
                tool_calls=done.tool_calls or None,
                snapshot=True,
            ),
        )

    async def _log_lost(self) -> Failed:
        error = TailraceError("log_lost")
        (record,) = await self._store.show_many([self._job])
        attempt = record.attempt if record is not None else 0
        return Failed(error.code, error.message, error.kind.retryable, attempt, {})
