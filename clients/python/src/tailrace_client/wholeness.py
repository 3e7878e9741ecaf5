"""The proof that a reader lost nothing: which event may come next, and the count of what was not as it should be."""

from dataclasses import dataclass, replace
from enum import Enum, auto

from tailrace_client.events import Event, EventId


@dataclass(slots=True)
class Counters:
    """What a reader has been through. A joined event counts as the `n` events that it joins."""

    received: int = 0
    """Events delivered."""
    lost: int = 0
    """Events behind a hole that no reading has brought yet: 0 again once they came, or a snapshot covered them."""
    holes: int = 0
    """How often an event did not follow the one before it."""
    doubled: int = 0
    """Events dropped because their id had been seen."""
    snapshots: int = 0
    """How often the answer so far came as one `reset`."""
    resumes: int = 0
    """How often a broken connection was followed by a new one."""


class Verdict(Enum):
    """What to do with an event."""

    NEXT = auto()
    SEEN = auto()
    HOLE = auto()


class Wholeness:
    """A reader's cursor, and the rule for moving it: seq of an event = seq of the one before + n, epochs never fall.

    `cursor` None: the first event with an id is the base, whatever it is (a reader that asked for `$`).
    """

    def __init__(self, cursor: EventId | None) -> None:
        self.cursor = cursor
        self.counters = Counters()

    def judge(self, event: Event) -> Verdict:
        """Decide on the event, and move the cursor and the counters accordingly."""
        if event.id is None:
            return Verdict.NEXT
        if event.snapshot:
            self.counters.snapshots += 1
            return self._move(event.id, 0)
        if self.cursor is None or self._follows(event, event.id):
            return self._move(event.id, event.n)
        if event.id.seq <= self.cursor.seq and event.id.epoch <= self.cursor.epoch:
            self.counters.doubled += event.n
            return Verdict.SEEN
        self.counters.holes += 1
        self.counters.lost = max(0, event.id.seq - event.n - self.cursor.seq)
        return Verdict.HOLE

    def counters_with(self, resumes: int) -> Counters:
        """The counters as they stand, with the number of resumes, which only the line knows."""
        return replace(self.counters, resumes=resumes)

    def _follows(self, event: Event, event_id: EventId) -> bool:
        cursor = self.cursor
        return cursor is not None and event_id.seq == cursor.seq + event.n and event_id.epoch >= cursor.epoch

    def _move(self, event_id: EventId, n: int) -> Verdict:
        self.cursor = event_id
        self.counters.received += n
        self.counters.lost = 0
        return Verdict.NEXT
