"""What is seen from outside of one job's log and its readers, and the invariants that must hold of it.

The same checks judge the model and the real server. They know nothing of workers, leases or notices: only what the log
held, when a failover took something back, and what each reader was given.

What is promised, and what is not, where a failover makes a replica the primary that lacks the last acknowledged writes
(it holds an earlier state of all the job's keys together: each script is replicated as a whole):

*Always, also then.* The log that survives is a prefix of the one before. Ids rise, `seq` has no hole, and one id has
one payload for all readers for ever (1). Nothing follows a terminal event, and the log never holds two. A reader is
told of every event after its cursor, once each, in order; where the log does not hold the cursor any more, it gets a
snapshot first, and from there on shows the log's text again, byte for byte. It is never left waiting while its log
goes on. Every job that the new primary knows comes to an end.

*A lost tail* of a worker that lives and still has the job is appended again, same ids, same bytes: a reader that waits
for it sees nothing. It waits only while the lease lives, and 10 s at most, and the worker notices the loss with its
next append; so a slow provider's readers may get a snapshot of the shorter text first. If the worker is gone or was
followed by another one, the lost events stay lost: who had them gets a snapshot.

*A lost claim* is taken again by its worker where nobody else has the job; it costs an attempt. Until it notices, two
workers may ask the provider at the same time. If text that the attempt goes on from was lost as well, the provider is
asked again. With `on_interrupt: fail` the job ends as `failed{worker_lost}` if readers had seen content. Crashes and
attempts that were counted in the lost part are not counted.

*A lost terminal event* cannot be kept unless its worker still waits for the reply and appends it again. Else the job
is open again, is generated again, and ends again, maybe otherwise (an acknowledged cancel may end as `done`). So a job
has one terminal event *more* for each failover that lost one. Each has an id of its own, only the last is in the log,
and a reader that ended at a lost one and asks again with its cursor gets a snapshot and what follows. Until it asks it
shows an answer that the job no longer has.

*A lost create* cannot be kept either: the job is unknown, and its readers are told `failed{log_lost}` or 404. A
repeated POST with the same Idempotency-Key makes it anew under the same id; then `queued` (`0-1`) shows another
`created_at`, the one exception to (1). If the idempotency record was lost with it, the repetition is another job.

A store that keeps its replicas in step (WAIT, min-replicas-to-write) makes these losses rare. It cannot exclude them.
One id, one payload rests on chance where a failover lost a claim: the new epoch is drawn from a million.

What these checks leave out: invariant 7 in the model (its keys have no time to live; the real server is asked), expiry
and deletion, trimming, reasoning and tool calls, joined frames, several logs on a node, several nodes, memory that is
full, a primary that is cut off and goes on serving stale reads, and time: bounds in seconds are the chaos program's.
"""

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar

from shared.events import START, TERMINAL, Done, Entry, Event, EventId, Reset, Token

_FIRST = EventId(0, 1)


class Invariant(Enum):
    """DESIGN §2's invariants, by their numbers there."""

    WHOLE = 1
    IDS = 2
    ONE_END = 3
    TEXT = 4
    ONE_JOB = 5
    NEVER_IDLE = 6
    ENDING_KEYS = 7


class Violation(AssertionError):  # noqa: N818  # the word for it
    """An invariant does not hold."""

    def __init__(self, invariant: Invariant, what: str) -> None:
        super().__init__(f"invariant {invariant.value} ({invariant.name}): {what}")
        self.invariant = invariant


def require(holds: bool, invariant: Invariant, what: str) -> None:
    """Raise Violation where `holds` is false."""
    if not holds:
        raise Violation(invariant, what)


def shown(text: str, event: Event) -> str:
    """The text that a reader shows after `event`."""
    if isinstance(event, Token):
        return text + event.text
    if isinstance(event, Reset):
        return text[: event.keep] + (event.text or "")
    return text


@dataclass(eq=False)
class Session:
    """One connection of a reader: where it is, and what it shows."""

    cursor: EventId
    text: str
    unheld: bool = False
    """The log has lost the cursor since: a snapshot is due, or may be."""
    logless: bool = False
    """There was no log at some time since the session began."""
    now: bool = False
    """It asked for a snapshot first."""
    over: bool = False
    entries: list[Entry] = field(default_factory=list)


class Observed:
    """The history of one job as its readers can know it."""

    seen: ClassVar[Counter[str]] = Counter()
    """What has happened so far in all histories: a machine that meets no trouble proves nothing."""

    def __init__(self) -> None:
        self.log: list[Entry] = []
        self.sessions: list[Session] = []
        self._payloads: dict[EventId, Event] = {}
        self._earlier_lives: list[Event] = []
        """What `0-1` was before a failover lost the create."""
        self._texts: dict[EventId, str] = {START: ""}
        self._ends: set[EventId] = set()
        self._ends_lost = 0
        self._reservations_lost = 0
        self._accepted: set[str] = set()
        self.meant: set[str] = set()
        """Whole answers: what a provider was asked to go on from, and what it said to its end mark."""

    # The log.

    def appended(self, entry: Entry) -> None:
        """An entry was added to the log's end."""
        last = self.log[-1] if self.log else Entry(START, Done("", {}, 0, 0, {}))
        require(entry.id > last.id or not self.log, Invariant.IDS, f"{entry.id} after {last.id}")
        require(entry.id.seq == last.id.seq + 1, Invariant.IDS, f"a hole: {entry.id} after {last.id}")
        if entry.id in self._payloads:
            self.seen["appended again"] += 1
        self.seen[entry.event.type] += 1
        if isinstance(entry.event, Reset):
            self.seen[entry.event.reason] += 1
        known = self._payloads.setdefault(entry.id, entry.event)
        require(known == entry.event, Invariant.IDS, f"{entry.id} is {known} and {entry.event}")
        after_end = bool(self.log) and isinstance(last.event, TERMINAL)
        require(not after_end, Invariant.ONE_END, f"{entry.id} after the terminal event {last.id}")
        self._texts[entry.id] = text = shown(self._texts[last.id] if self.log else "", entry.event)
        self.log.append(entry)
        if isinstance(entry.event, TERMINAL):
            self._ends.add(entry.id)
            require(len(self._ends) <= 1 + self._ends_lost, Invariant.ONE_END, f"a second end: {entry.id}")
        if isinstance(entry.event, Done):
            require(text in self.meant, Invariant.TEXT, f"the log says {text!r}, the answers are {self.meant}")

    def log_is(self, entries: list[Entry]) -> None:
        """The log was read as a whole: what it held is still there, and what is new is sound."""
        require(entries[: len(self.log)] == self.log, Invariant.IDS, "the log has changed behind its end")
        for entry in entries[len(self.log) :]:
            self.appended(entry)

    def failed_over(self, kept: int, *, job_lost: bool, reservation_lost: bool) -> None:
        """A failover has left the log's first `kept` entries."""
        lost = self.log[kept:]
        for entry in lost:
            self.seen[f"lost {entry.event.type}"] += 1
        self._ends_lost += bool(lost) and isinstance(lost[-1].event, TERMINAL)
        self._reservations_lost += reservation_lost
        del self.log[kept:]
        if job_lost:
            self._earlier_lives.append(self._payloads.pop(_FIRST))
        for session in self.sessions:
            self._look(session)

    def _look(self, session: Session) -> None:
        held = session.cursor == START or (
            session.cursor.seq <= len(self.log) and self.log[session.cursor.seq - 1].id == session.cursor
        )
        session.unheld |= not held
        session.logless |= not self.log

    # The readers.

    def connected(self, cursor: EventId, *, now: bool = False) -> Session:
        """A reader comes with a cursor and what it showed there."""
        session = Session(cursor, self._texts.get(cursor, ""), now=now)
        self._look(session)
        self.sessions.append(session)
        return session

    def again(self, session: Session) -> Session:
        """A reader comes again with its cursor, and shows what it showed."""
        fresh = Session(session.cursor, session.text)
        self._look(fresh)
        self.sessions.append(fresh)
        return fresh

    @property
    def known_ids(self) -> list[EventId]:
        """Every id that ever was in the log, the start before them."""
        return list(self._texts)

    @property
    def cursors(self) -> list[EventId]:
        """Every cursor that the log holds, but for its end."""
        return [START, *(entry.id for entry in self.log[:-1])] if self.log else []

    def left(self, session: Session) -> None:
        """The reader has gone."""
        self.sessions.remove(session)

    def delivered(self, session: Session, entry: Entry) -> None:
        """The reader got an event."""
        require(not session.over, Invariant.ONE_END, f"{entry.id} after the end")
        if isinstance(entry.event, Reset) and entry.event.snapshot:
            self._snapshot(session, entry)
        else:
            self._follows(session, entry)
        session.cursor, session.text = entry.id, shown(session.text, entry.event)
        session.entries.append(entry)
        session.over = isinstance(entry.event, TERMINAL)
        wanted = self._texts[entry.id]
        require(session.text == wanted, Invariant.TEXT, f"at {entry.id} {session.text!r} is shown, not {wanted!r}")
        session.unheld = session.now = False
        self._look(session)
        self.seen["delivered"] += 1

    def _snapshot(self, session: Session, entry: Entry) -> None:
        excused = session.unheld or session.now
        self.seen["snapshot after a loss"] += not session.now
        require(excused, Invariant.WHOLE, f"a snapshot although the log holds {session.cursor}")
        require(entry.id in self._texts, Invariant.IDS, f"a snapshot at {entry.id}, which never was in the log")

    def _follows(self, session: Session, entry: Entry) -> None:
        # A log that was lost as a whole and then ended holds one event, and no snapshot comes before that.
        fresh = session.unheld and entry.id.seq == 1
        if fresh:
            session.text = ""
        else:
            require(entry.id > session.cursor, Invariant.IDS, f"{entry.id} is given after {session.cursor}")
            dense = entry.id.seq == session.cursor.seq + 1
            require(dense, Invariant.IDS, f"a hole: {entry.id} is given after {session.cursor}")
        known = self._payloads.get(entry.id)
        right = known == entry.event or (entry.id == _FIRST and entry.event in self._earlier_lives)
        require(right, Invariant.IDS, f"{entry.id} is given as {entry.event}, the log says {known}")

    def told_lost(self, session: Session) -> None:
        """The reader was told that its log is gone."""
        require(session.logless, Invariant.WHOLE, "log_lost although there was a log all the time")
        session.over = True
        self.seen["told lost"] += 1

    def nothing_follows(self, session: Session) -> None:
        """The reader was told that its cursor is the job's end."""
        require(session.now or session.cursor in self._ends, Invariant.WHOLE, f"{session.cursor} is taken for the end")
        session.over = True
        self.seen["nothing follows"] += 1

    def idle(self, session: Session) -> None:
        """Nothing will ever wake this reader but a tick."""
        last = self.log[-1].id if self.log else START
        require(session.cursor == last, Invariant.NEVER_IDLE, f"idle at {session.cursor}, the log is at {last}")

    # The job.

    def accepted(self, job_id: str) -> None:
        """A POST with the one Idempotency-Key was answered."""
        self._accepted.add(job_id)
        require(len(self._accepted) <= 1 + self._reservations_lost, Invariant.ONE_JOB, f"jobs {self._accepted}")

    def settled(self, *, endless: list[str]) -> None:
        """All faults are over, and the deadline has passed: what must have come to its end has."""
        require(not endless, Invariant.ENDING_KEYS, f"keys without an end: {endless}")
        ended = not self.log or isinstance(self.log[-1].event, TERMINAL)
        require(ended, Invariant.ONE_END, "the job has not ended")
        for session in self.sessions:
            require(session.over, Invariant.NEVER_IDLE, f"a reader waits at {session.cursor} for ever")

    def replayed(self, cursor: EventId, entries: list[Entry]) -> None:
        """A reader that came with `cursor` after the job's end got `entries`."""
        wanted = self.log[cursor.seq :]
        require(entries == wanted, Invariant.WHOLE, f"after {cursor}: {entries}, the log says {wanted}")
