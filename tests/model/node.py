"""The model of an API node: notices, the shared tail and the readers, as api/tail.py and api/reader.py have them.

Left out: more than one log on a node (one dirty mark stands for the batch), joined frames, heartbeats, slow clients.
"""

from collections import deque
from collections.abc import Callable
from functools import partial

from shared.events import START, TERMINAL, Entry, EventId, Reset
from shared.jobs import TERMINAL as ENDED
from shared.storage.log import Page
from shared.transcript import fold
from tests.model.actors import Actor, Away, Do, Script, Until
from tests.model.observed import Session
from tests.model.store import Inbox, Store

PAGE = 3
RING = 4
LOOKS = 2
"""How often a reader looks whether a lost tail is repaired, instead of for so many seconds."""


class Tail:
    """The recent end of the log on this node."""

    def __init__(self) -> None:
        self.readers = 0
        self.version = 0
        self.base: EventId | None = None
        self.opened = False
        self.ring: list[Entry] = []

    @property
    def cursor(self) -> EventId | None:
        """How far this node has read."""
        return self.ring[-1].id if self.ring else self.base

    @property
    def ended(self) -> bool:
        """Whether the terminal event was read."""
        return bool(self.ring) and isinstance(self.ring[-1].event, TERMINAL)

    def after(self, cursor: EventId) -> list[Entry] | None:
        """Entries that follow `cursor` at once; None where the ring does not hold it."""
        if self.base is None:
            return None
        skip = cursor.seq - self.base.seq
        if skip < 0 or skip > len(self.ring):
            return None
        held = self.base if skip == 0 else self.ring[skip - 1].id
        return self.ring[skip:] if held == cursor else None

    def extend(self, entries: list[Entry]) -> None:
        """Take in what was read after `cursor`, and wake the readers."""
        self.ring = self.ring + entries
        while len(self.ring) > RING:
            self.base = self.ring.pop(0).id
        self.version += 1

    def rebase(self, base: EventId | None) -> None:
        """Begin (again) after `base`."""
        self.ring = []
        self.base = base
        self.version += 1


class Node:
    """One node. Its loops run as actors; attaching and leaving are acts of its readers."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._inbox = Inbox()
        store.inboxes.append(self._inbox)
        self._tail: Tail | None = None
        self._waits_for_confirmation: Tail | None = None
        self._outbox: deque[bool] = deque()
        """SUBSCRIBE (True) and UNSUBSCRIBE commands, in the order in which the connection carries them."""
        self._cut = False
        self._dirty: set[Tail] = set()
        self._wanted = False
        self.deaf = False
        """A notice was lost since the last tick."""
        self._hearing = Actor(self._hear())
        self._sending = Actor(self._send())
        self._reading = Actor(self._read())
        self.loops = [self._hearing, self._sending, self._reading]

    # What happens to it.

    def cut(self) -> None:
        """The subscription's connection breaks; what it carried is lost, and the node subscribes again on another."""
        self._store.inboxes.remove(self._inbox)
        self._inbox = Inbox()
        self._store.inboxes.append(self._inbox)
        self._outbox.clear()
        self._cut = True

    def lose_notices(self) -> None:
        """Notices under way are lost, and the connection lives."""
        if any(message is not None for message in self._inbox.messages):
            self.deaf = True
        self._inbox.messages = deque(message for message in self._inbox.messages if message is None)

    def tick(self) -> None:
        """The slow tick: look at everything that has not ended."""
        self.deaf = False
        if self._tail is not None and not self._tail.ended:
            self._mark(self._tail)

    @property
    def quiet(self) -> bool:
        """Whether nothing but a tick would move its readers."""
        return not (self.deaf or self._cut or self._hearing.ready or self._sending.ready or self._reading.ready)

    # shared/storage/notices.py

    def _hear(self) -> Script:
        while True:
            yield Until(lambda: bool(self._inbox.messages))
            message = self._inbox.messages.popleft()
            mutant = self._store.protocol
            if message is None:
                if self._waits_for_confirmation is not None:
                    self._waits_for_confirmation.opened, self._waits_for_confirmation = True, None
                if mutant.read_before_subscribed:
                    continue
            if self._tail is None:
                continue
            if mutant.payload_in_notice and message is not None:
                cursor = self._tail.cursor
                if cursor is not None:
                    self._tail.extend([entry for entry in message if entry.id > cursor])
                    continue
            self._mark(self._tail)

    def _send(self) -> Script:
        while True:
            yield Until(lambda: self._cut or bool(self._outbox))
            if self._cut:
                self._cut = False
                self._outbox.clear()
                if self._tail is not None:
                    self._outbox.append(True)
                continue
            command = self._store.subscribe if self._outbox[0] else self._store.unsubscribe
            try:
                yield Do(partial(command, self._inbox))
            except Away:
                self.cut()
                continue
            if self._outbox and not self._cut:
                self._outbox.popleft()

    # api/tail.py

    def _mark(self, tail: Tail) -> None:
        self._dirty.add(tail)
        self._wanted = True

    def _attach(self) -> Script:
        tail = self._tail
        if tail is None:
            tail = self._tail = self._waits_for_confirmation = Tail()
            self._outbox.append(True)
            if self._store.protocol.read_before_subscribed:
                tail.opened = True
                self._mark(tail)
        tail.readers += 1
        try:
            yield Until(lambda: tail.opened)
        except GeneratorExit:
            self._detach(tail)
            raise
        if not self._store.protocol.read_before_subscribed:
            self._mark(tail)
        return tail

    def _detach(self, tail: Tail) -> None:
        tail.readers -= 1
        if tail.readers == 0:
            self._tail = None
            self._dirty.discard(tail)
            self._outbox.append(False)

    def _read(self) -> Script:
        late = self._store.protocol.clear_after_read
        while True:
            yield Until(lambda: self._wanted)
            tails = list(self._dirty)
            if not late:
                self._wanted, self._dirty = False, set()
            for tail in tails:
                try:
                    yield from self._read_tail(tail)
                except Away:
                    self._mark(tail)
            if late:
                self._wanted, self._dirty = False, set()

    def _read_tail(self, tail: Tail) -> Script:
        if tail.base is None:
            tail.rebase((yield Do(self._store.last_id)))
        cursor = tail.cursor
        if cursor is None:
            return
        page: Page = yield Do(lambda: self._store.page(cursor, PAGE))
        if self._store.protocol.payload_in_notice and tail.cursor != cursor:
            return
        if not page.held:
            tail.rebase(None)
        elif page.entries:
            tail.extend(page.entries)
            if page.full:
                self._mark(tail)

    # api/reader.py

    def follow(self, session: Session) -> Script:
        """What one reader does from its connection to the terminal event."""
        observed = self._store.observed
        if (yield from self._insist(lambda: self._nothing_follows(session))):
            observed.nothing_follows(session)
            return
        tail: Tail = yield from self._attach()
        came_with = session.cursor
        try:
            if session.now:
                snapshot = yield from self._insist(self._snapshot)
                if snapshot is not None:
                    observed.delivered(session, snapshot)
            while not session.over:
                version = tail.version
                try:
                    entries: list[Entry] | None = yield from self._next(session.cursor, tail)
                    if entries == [] and session.cursor == came_with and (yield from self._is_end(came_with)):
                        observed.nothing_follows(session)
                        return
                except Away:
                    continue
                if entries is None:
                    observed.told_lost(session)
                    return
                for entry in entries:
                    observed.delivered(session, entry)
                if not entries:
                    yield Until(lambda version=version: tail.version != version)  # type: ignore[misc]  # a default
        finally:
            self._detach(tail)

    def _nothing_follows(self, session: Session) -> Script:
        """What the route asks before it answers 204 (api/routes/common.py)."""
        standing = yield Do(self._store.standing)
        if standing is None or standing[0] not in ENDED:
            return False
        return session.now or (yield Do(self._store.last_id)) == session.cursor

    def _insist(self, what: Callable[[], Script]) -> Script:
        while True:
            try:
                return (yield from what())
            except Away:
                continue

    def _next(self, cursor: EventId, tail: Tail) -> Script:
        run = tail.after(cursor)
        if run is None:
            run = yield from self._page(cursor)
        return run if run is not None else (yield from self._resync(cursor, tail))

    def _is_end(self, cursor: EventId) -> Script:
        page: Page = yield Do(lambda: self._store.page(cursor, 1))
        return page.at_end

    def _page(self, cursor: EventId) -> Script:
        page: Page = yield Do(lambda: self._store.page(cursor, PAGE))
        return page.entries if page.held and not (page.empty_log and cursor == START) else None

    def _resync(self, cursor: EventId, tail: Tail) -> Script:
        for _ in range(LOOKS):
            epoch = yield Do(self._store.epoch)
            leased = yield Do(self._store.leased)
            last: EventId | None = yield Do(self._store.last_id)
            entries = yield from self._page(cursor)
            if entries is not None:
                return entries
            longer = last is not None and last.seq >= cursor.seq
            if longer or not leased or epoch != cursor.epoch:
                break
        snapshot = yield from self._snapshot()
        if snapshot is not None:
            return [snapshot]
        rest: Page = yield Do(lambda: self._store.page(START, PAGE))
        return rest.entries or None

    def _snapshot(self) -> Script:
        entries: list[Entry] = []
        after = START
        while True:
            page: list[Entry] = yield Do(lambda after=after: self._store.entries_after(after, PAGE))  # type: ignore[misc]
            entries += page
            if len(page) < PAGE:
                break
            after = page[-1].id
        if entries and isinstance(entries[-1].event, TERMINAL):
            del entries[-1]
        if not entries:
            return None
        done = fold(entry.event for entry in entries)
        return Entry(entries[-1].id, Reset(done.attempt, 0, "snapshot", done.text, snapshot=True))
