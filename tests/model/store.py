"""The model's store: one job's keys, the acts of the server-side scripts, pub/sub, and a replica that lags behind.

Every method that an actor may ask for is one atomic step. The mutants of the protocol (`Protocol`) are what the
invariants must find out.
"""

import random
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

from shared.events import CONTENT, START, Cancelled, Entry, Event, EventId, Failed, Queued, Reset, encode
from shared.events import Start as Started
from shared.jobs import MAX_ATTEMPTS, MAX_CRASHES, TERMINAL, TRANSITIONS, Act, OnInterrupt, Status
from shared.storage.log import Page, read_page
from tests.model.observed import Observed


@dataclass(frozen=True)
class Protocol:
    """How Tailrace does it; each flag is a way that is known to be wrong."""

    read_before_subscribed: bool = False
    clear_after_read: bool = False
    cancel_in_running_epoch: bool = False
    counted_epoch: bool = False
    plain_append: bool = False
    payload_in_notice: bool = False


@dataclass(slots=True)
class Job:
    """The keys of a job. The log is a tuple, so that a copy of the state costs nothing."""

    on_interrupt: OnInterrupt
    created: int
    status: Status = Status.QUEUED
    epoch: int = 0
    attempt: int = 0
    crashes: int = 0
    shown: bool = False
    why: str | None = None
    log: tuple[Entry, ...] = ()
    lease: tuple[str, int] | None = None
    ops: dict[int, Any] = field(default_factory=dict)

    def copy(self) -> "Job":
        """This state, to come back to."""
        return replace(self, ops=dict(self.ops))

    @property
    def last(self) -> EventId:
        """The id of the log's last entry."""
        return self.log[-1].id if self.log else START


@dataclass(eq=False)
class Inbox:
    """One subscriber's connection: what the server has sent and the subscriber has not yet taken."""

    subscribed: bool = False
    messages: deque[list[Entry] | None] = field(default_factory=deque)
    """A notice, with the entries that it tells of (only a mutant looks at them); None confirms a subscription."""


def _raw(entry: Entry) -> tuple[str, list[str]]:
    return str(entry.id), list(encode(entry.event))


class Store:
    """The primary, and the state that its replica has reached."""

    def __init__(self, observed: Observed, protocol: Protocol, on_interrupt: OnInterrupt, chance: int) -> None:
        self.observed = observed
        self.protocol = protocol
        self.now = 0
        self.deadline_passed = False
        self.reserved: str | None = None
        self.job: Job | None = None
        self.inboxes: list[Inbox] = []
        self._replica: tuple[str | None, Job | None] = (None, None)
        self._on_interrupt = on_interrupt
        self._chance = random.Random(chance)

    # Replication and time.

    def replicate(self) -> None:
        """The replica has all that the primary has."""
        self._replica = self.reserved, self.job and self.job.copy()

    def fail_over(self) -> None:
        """The replica becomes the primary; every connection breaks."""
        reserved, job = self._replica
        lost = self.reserved is not None and reserved is None
        job_lost = self.job is not None and job is None
        self.reserved, self.job = reserved, job and job.copy()
        for inbox in self.inboxes:
            inbox.subscribed = False
            inbox.messages.clear()
        self.observed.failed_over(len(self.job.log) if self.job else 0, job_lost=job_lost, reservation_lost=lost)

    def lapse(self) -> None:
        """What time does to a lease that nobody renews."""
        if self.job is not None:
            self.job.lease = None

    # What readers ask for.

    def subscribe(self, inbox: Inbox) -> None:
        """SUBSCRIBE."""
        inbox.subscribed = True
        inbox.messages.append(None)

    def unsubscribe(self, inbox: Inbox) -> None:
        """UNSUBSCRIBE."""
        inbox.subscribed = False

    def page(self, cursor: EventId, count: int) -> Page:
        """XRANGE from the cursor on, judged by the real reader's own function."""
        log = self.job.log if self.job else ()
        skip = 0
        while skip < len(log) and log[skip].id < cursor:
            skip += 1
        return read_page(cursor, [_raw(entry) for entry in log[skip : skip + count + 1]], count + 1)

    def entries_after(self, cursor: EventId, count: int) -> list[Entry]:
        """XRANGE of what is behind an id, holes or not."""
        log = self.job.log if self.job else ()
        return [entry for entry in log if entry.id > cursor][:count]

    def last_id(self) -> EventId | None:
        """XREVRANGE COUNT 1."""
        return self.job.last if self.job and self.job.log else None

    def epoch(self) -> int:
        """HGET epoch."""
        return self.job.epoch if self.job else 0

    def leased(self) -> bool:
        """EXISTS lease."""
        return self.job is not None and self.job.lease is not None

    def standing(self) -> tuple[Status, int, int, int, bool] | None:
        """What the reaper looks at: status, epoch, attempt, crashes, leased."""
        job = self.job
        if job is None:
            return None
        return job.status, job.epoch, job.attempt, job.crashes, job.lease is not None

    # What changes the job: one script each.

    def reserve(self, job_id: str) -> str:
        """SET NX of the idempotency record; what stands there."""
        self.reserved = self.reserved or job_id
        return self.reserved

    def create(self) -> str:
        """create_v1."""
        if self.job is None:
            self.job = Job(self._on_interrupt, self.now)
            self._add(EventId(0, 1), Queued("job", "scripted", "demo", self.now))
        return "OK"

    def claim(
        self,
        token: int,
        worker: str,
        *,
        mine: int | None = None,
        reason: str = "",
        keep: int | None = None,
        counted_at: EventId | None = None,
        offered: int | None = None,
    ) -> tuple[Any, ...]:
        """claim_v1."""
        job = self.job
        if job is None:
            return ("GONE",)
        if token in job.ops:
            return job.ops[token]  # type: ignore[no-any-return]  # as remembered
        refused = self._refuse(job, worker, mine, offered)
        if refused is not None:
            return refused
        crashed = mine is None and job.status is Status.RUNNING
        why = reason if mine is not None else "worker_lost" if crashed else job.why or "worker_lost"
        verdict = self._may_run(job, crashed)
        if verdict is not None:
            return (verdict, job.epoch)
        kept = 0
        if job.shown and job.on_interrupt is OnInterrupt.CONTINUE:
            if keep is None or counted_at != job.last:
                return ("NEED_TEXT", job.last)
            kept = keep
        job.attempt += 1
        job.crashes += crashed
        job.status, job.why = TRANSITIONS[job.status][Act.CLAIM], None
        job.epoch = taken = self._fresh_epoch(job)
        at = self.now - job.created
        reset = [Reset(job.attempt, kept, why, at_ms=at)] if job.attempt > 1 else []
        self._add(EventId(taken, job.last.seq + 1), *reset, Started(job.attempt, "scripted", "demo", 0, at))
        job.lease = worker, taken
        return self._remember(job, token, ("OK", taken, job.last.seq, job.attempt))

    def _refuse(self, job: Job, worker: str, mine: int | None, offered: int | None) -> tuple[Any, ...] | None:
        if Act.CLAIM not in TRANSITIONS[job.status]:
            return ("ENDED",)
        if job.lease is not None and (mine is None or job.lease != (worker, mine)):
            return ("BUSY",)
        if mine is not None and job.epoch > mine:
            return ("BUSY",)
        return ("STALE",) if offered is not None and offered != job.epoch else None

    def _may_run(self, job: Job, crashed: bool) -> str | None:
        if self.deadline_passed:
            return "DEADLINE"
        if job.crashes + crashed >= MAX_CRASHES:
            return "POISONED"
        if job.attempt >= MAX_ATTEMPTS:
            return "EXHAUSTED"
        return "INTERRUPTED" if job.shown and job.on_interrupt is OnInterrupt.FAIL else None

    def append(self, epoch: int, first: int, events: list[Event], act: Act | None = None) -> tuple[str, int]:
        """append_v2; with `act`, finish_v1: the batch's last event is the terminal one."""
        job = self.job
        if job is None or not job.log:
            return "GONE", 0
        verdict = self._compare(job.last, epoch, first, len(events))
        if verdict != "APPEND":
            return "OK" if verdict == "REPEAT" else verdict, job.last.seq
        if job.status in TERMINAL if act is None else act not in TRANSITIONS[job.status]:
            return "ENDED", job.last.seq
        job.shown |= any(isinstance(event, CONTENT) for event in events)
        if act is not None:
            job.status, job.lease = TRANSITIONS[job.status][act], None
        self._add(EventId(epoch, first), *events)
        return "OK", first + len(events) - 1

    def _compare(self, last: EventId, epoch: int, first: int, count: int) -> str:
        if self.protocol.plain_append:
            return "APPEND" if EventId(epoch, first) > last else "REPEAT" if last.epoch == epoch else "FENCED"
        if last.epoch != epoch:
            return "FENCED" if last.epoch > epoch else "STALE"
        if last.seq == first - 1:
            return "APPEND"
        return "REPEAT" if last.seq >= first + count - 1 else "GAP"

    def renew(self, worker: str, epoch: int) -> str:
        """renew_v1."""
        job = self.job
        if job is not None and job.lease is not None:
            return "OK" if job.lease == (worker, epoch) else "LOST"
        if job is None or job.status in TERMINAL:
            return "GONE" if job is None else "ENDED"
        if job.epoch != epoch or job.status is not Status.RUNNING:
            return "STALE" if job.epoch < epoch else "LOST"
        job.lease = worker, epoch
        return "OK"

    def release(self, token: int, worker: str, epoch: int) -> str:
        """release_v1."""
        job = self.job
        if job is None:
            return "GONE"
        if token in job.ops:
            return "OK"
        legal = Act.RELEASE in TRANSITIONS[job.status] and job.epoch == epoch and job.lease in (None, (worker, epoch))
        if not legal:
            return "LOST"
        job.status, job.lease, job.why = Status.QUEUED, None, "drained"
        self._remember(job, token, ("OK",))
        return "OK"

    def end(self, token: int, act: Act, reason: str, *, epoch: int | None = None, unleased: bool = False) -> str:
        """end_v1."""
        job = self.job
        if job is None:
            return "GONE"
        if token in job.ops:
            return "OK"
        if act not in TRANSITIONS[job.status]:
            return "ENDED"
        if (epoch is not None and epoch != job.epoch) or (unleased and job.lease is not None):
            return "MOVED"
        at = self.now - job.created
        if not self.protocol.cancel_in_running_epoch:
            job.epoch = self._fresh_epoch(job)
        event: Event = Cancelled(reason, job.attempt, {}, at_ms=at)
        if act is Act.FAILED:
            event = Failed(reason, "", False, job.attempt, {}, at_ms=at)
        job.status, job.lease = TRANSITIONS[job.status][act], None
        self._add(EventId(job.epoch, job.last.seq + 1), event)
        self._remember(job, token, ("OK",))
        return "OK"

    # What the scripts share.

    def _fresh_epoch(self, job: Job) -> int:
        if self.protocol.counted_epoch:
            return max(job.epoch, job.last.epoch) + 1
        return max(job.epoch, job.last.epoch, self.now - job.created) + self._chance.randint(1, 999_999)

    def _add(self, first: EventId, *events: Event) -> None:
        assert self.job is not None
        entries = [Entry(EventId(first.epoch, first.seq + place), event) for place, event in enumerate(events)]
        self.job.log += tuple(entries)
        for entry in entries:
            self.observed.appended(entry)
        for inbox in self.inboxes:
            if inbox.subscribed:
                inbox.messages.append(entries)

    def _remember(self, job: Job, token: int, result: tuple[Any, ...]) -> tuple[Any, ...]:
        job.ops[token] = result
        return result
