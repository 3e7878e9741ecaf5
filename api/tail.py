"""The node's shared tail: each log that is being read here is read once, however many readers it has.

A notice marks a log dirty; one loop reads all dirty logs in one round trip and hands the entries to a bounded ring per
log. Order (reliability notes §2.3): subscribe, await the confirmation, clear the mark, read, deliver, wait. A lost
notice costs at most one tick. Readers never queue here: each has its cursor, and one that fell behind the ring reads
pages of its own until it meets the ring again.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable

from api.sink import Sink, pour
from shared import metrics
from shared.errors import StorageError
from shared.events import START, TERMINAL, Entry, EventId
from shared.jobs import JobKey
from shared.storage.keys import notice_channel
from shared.storage.log import EventLog, Page
from shared.storage.notices import Notices

log = logging.getLogger(__name__)

FRAMES_KEPT = 64
READ_AT_ONCE = 256
PAGES_AT_ONCE = 2
"""Replayed pages in the making. More in one turn of the loop would hold up whoever shares it, page after page."""

SharedPage = tuple[list[Entry] | None, dict[str, bytes]]
"""The entries that follow a cursor, None where the log does not hold it; and their bytes by dialect, once made."""


class Tail:
    """The recent end of one log on this node. `version` rises whenever there is something new to look at."""

    def __init__(self, job: JobKey, ring_events: int) -> None:
        self.job = job
        self.readers = 0
        self.unheard = False
        """A tick looks at it, and no notice has come."""
        self.version = 0
        self.base: EventId | None = None
        """The id that the ring's first entry follows; None until the log was looked at."""
        self.opened: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        """True once the subscription is confirmed: what is read from then on misses nothing. False: given up."""
        self._ring: deque[Entry] = deque()
        self._ring_events = ring_events
        self._waiters: list[asyncio.Future[None]] = []
        self._sinks: dict[Sink, None] = {}
        self._frames: dict[tuple[str, EventId, EventId], bytes] = {}

    @property
    def cursor(self) -> EventId | None:
        """How far this node has read."""
        return self._ring[-1].id if self._ring else self.base

    @property
    def ended(self) -> bool:
        """Whether the terminal event was read: nothing follows it."""
        return bool(self._ring) and isinstance(self._ring[-1].event, TERMINAL)

    def after(self, cursor: EventId, most: int = READ_AT_ONCE) -> list[Entry] | None:
        """Entries that follow `cursor` at once; None where the ring does not hold the cursor."""
        if self.base is None:
            return None
        skip = cursor.seq - self.base.seq
        if skip < 0 or skip > len(self._ring):
            return None
        held = self.base if skip == 0 else self._ring[skip - 1].id
        if held != cursor:
            return None
        return [self._ring[place] for place in range(skip, min(skip + most, len(self._ring)))]

    def extend(self, entries: list[Entry]) -> None:
        """Take in what was read after `cursor`, and wake the readers."""
        self._ring.extend(entries)
        while len(self._ring) > self._ring_events:
            self.base = self._ring.popleft().id
        if self._sinks:
            pour(entries, list(self._sinks))
        self.wake()

    def rebase(self, base: EventId | None) -> None:
        """Begin (again) after `base`; None where the log does not hold what the ring says (failover, trim, erased)."""
        self._ring.clear()
        self._frames.clear()
        self.base = base
        for sink in self._sinks:
            sink.leave()
        self.wake()

    def wake(self) -> None:
        """Let every waiting reader look again."""
        self.version += 1
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def changed(self, version: int, timeout_s: float) -> bool:
        """Wait until `version` is old; False after `timeout_s` of silence."""
        if self.version != version:
            return True
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                await waiter
        except TimeoutError:
            return False
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
        return True

    async def fill(self, sink: Sink, version: int) -> None:
        """Have everything that comes written into `sink`, which has all that there is at `version`, until it leaves.
        Without a task's turn for each event, or for each heartbeat."""
        if self.version != version:
            return
        self._sinks[sink] = None
        try:
            await sink.left()
        finally:
            del self._sinks[sink]

    def beat(self, since_s: float, now_s: float) -> None:
        """Have all sinks that were silent since `since_s` say that they live."""
        for sink in list(self._sinks):
            sink.beat(since_s, now_s)

    def frame(self, dialect: str, entries: list[Entry], encode: Callable[[list[Entry]], bytes]) -> bytes:
        """The bytes of a run of entries, encoded once for all readers that are at the same place."""
        key = (dialect, entries[0].id, entries[-1].id)
        frame = self._frames.get(key)
        if frame is None:
            if len(self._frames) >= FRAMES_KEPT:
                del self._frames[next(iter(self._frames))]
            frame = self._frames[key] = encode(entries)
        return frame


class Tails:
    """All tails of a node. Owned by the composition root, which keeps `run()` in its task group."""

    def __init__(self, event_log: EventLog, notices: Notices, *, tick_s: float, ring_events: int) -> None:
        self._log = event_log
        self._notices = notices
        self._tick_s = tick_s
        self._ring_events = ring_events
        self._tails: dict[JobKey, Tail] = {}
        self._dirty: set[Tail] = set()
        self._wanted = asyncio.Event()
        self._tick_due = False
        self.pages: dict[tuple[JobKey, EventId, bool], asyncio.Future[SharedPage | None]] = {}
        """Pages that are being read, by the cursor that they follow (api/reader.py)."""
        self.replaying = asyncio.Semaphore(PAGES_AT_ONCE)
        """Held by a reader while it reads a page of its own."""

    async def attach(self, job: JobKey, *, new: bool = False) -> Tail:
        """The tail of `job`, its subscription confirmed, with one reader more, who has to `detach` from it.

        `new`: the log was made a moment ago, so that all of it is recent, and its end need not be looked for.
        StorageError where its notices cannot be subscribed to.
        """
        while True:
            tail = self._tails.get(job)
            first = tail is None
            if tail is None:
                tail = self._tails[job] = Tail(job, self._ring_events)
                tail.base = START if new else None
            tail.readers += 1
            try:
                if first:
                    await self._open(tail)
                    return tail
                if await asyncio.shield(tail.opened):
                    return tail
            except BaseException:
                await self.detach(tail)
                raise
            await self.detach(tail)  # whoever was opening it has left; the next in line opens another

    async def detach(self, tail: Tail) -> None:
        """The reader goes, and takes the tail along if it was the last."""
        job = tail.job
        tail.readers -= 1
        if tail.readers == 0:
            # Off the table before the first await: a reader that comes now gets a tail of its own.
            if self._tails.get(job) is tail:
                del self._tails[job]
            self._dirty.discard(tail)
            if job not in self._tails:
                await self._notices.unsubscribe(notice_channel(job))

    async def _open(self, tail: Tail) -> None:
        try:
            await self._notices.subscribe(notice_channel(tail.job), lambda _: self._mark(tail))
        except BaseException as error:
            if self._tails.get(tail.job) is tail:
                del self._tails[tail.job]
            if isinstance(error, StorageError):
                tail.opened.set_exception(error)  # whoever waits for this tail fails with it
                tail.opened.exception()
            else:
                tail.opened.set_result(False)
            raise
        tail.opened.set_result(True)
        self._mark(tail)

    def _mark(self, tail: Tail) -> None:
        tail.unheard = False
        self._dirty.add(tail)
        self._wanted.set()

    async def run(self) -> None:
        """Read what is dirty until cancelled; on every tick look at everything, for a notice may have been lost."""
        ticking = self._next_tick()
        try:
            while True:
                await self._wanted.wait()
                self._wanted.clear()
                if self._tick_due:
                    self._mark_unheard()
                    ticking = self._next_tick()
                tails, self._dirty = list(self._dirty), set()
                for start in range(0, len(tails), READ_AT_ONCE):
                    await self._read(tails[start : start + READ_AT_ONCE])
        finally:
            ticking.cancel()

    def _next_tick(self) -> asyncio.TimerHandle:
        """By the clock, not by silence: a node that hears of many logs must not forget the one it does not hear of. One
        timer a tick, for one around each wait would cost a busy node more than the wait."""
        self._tick_due = False
        return asyncio.get_running_loop().call_later(self._tick_s * random.uniform(0.75, 1.0), self._tick)

    def _tick(self) -> None:
        self._tick_due = True
        self._wanted.set()

    def _mark_unheard(self) -> None:
        for tail in self._tails.values():
            if not tail.ended and tail not in self._dirty:
                self._dirty.add(tail)
                tail.unheard = True

    async def beat(self, silence_s: float) -> None:
        """Until cancelled, let no sink be silent for longer than `silence_s`. One look at all costs less than a timer
        for each, and makes a heartbeat come early by at most an eighth of its time."""
        now = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(silence_s / 8)
            now_s = now()
            for tail in list(self._tails.values()):
                tail.beat(now_s - silence_s * 7 / 8, now_s)

    async def _read(self, tails: list[Tail]) -> None:
        try:
            await self._find_base([tail for tail in tails if tail.base is None])
            ready = [(tail, tail.cursor) for tail in tails if tail.cursor is not None]
            pages = await self._log.read_many([(tail.job, cursor) for tail, cursor in ready], READ_AT_ONCE)
        except StorageError as error:
            log.warning("tail: %s", error.code)
            self._dirty.update(tails)
            await asyncio.sleep(random.uniform(0.05, 0.3))
            self._wanted.set()
            return
        for (tail, _), page in zip(ready, pages, strict=True):
            self._take(tail, page)

    def _take(self, tail: Tail, page: Page) -> None:
        unheard, tail.unheard = tail.unheard, False
        if not page.held or page.empty_log:
            tail.rebase(None)  # readers look for themselves; the next tick finds the log's new end
        elif page.entries:
            metrics.LATE_NOTICES.inc(unheard)
            tail.extend(page.entries)
            if page.full:
                self._mark(tail)

    async def _find_base(self, fresh: list[Tail]) -> None:
        """A new tail begins at the log's end; whoever attached to it reads what came before by itself."""
        for tail, last in zip(fresh, await self._log.last_ids([tail.job for tail in fresh]), strict=True):
            tail.rebase(last)
