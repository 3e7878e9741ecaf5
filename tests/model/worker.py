"""The model of a worker (worker/claim.py, generate.py, writer.py, lease.py), the reaper, a cancel and a POST.

Left out: the queue and the wake list (a claim may come at any time, with an old or a new offer), slots, the provider
(what it says are numbered words), usage and timings.
"""

import itertools
from typing import Any

from shared.events import Done, Entry, Event, Token
from shared.jobs import MAX_ATTEMPTS, MAX_CRASHES, TERMINAL, Act, Status
from shared.transcript import fold
from tests.model.actors import Away, Do, Script, Until
from tests.model.store import Store

BATCH = 2
_ENDS = {
    "DEADLINE": "deadline_exceeded",
    "POISONED": "poisoned",
    "EXHAUSTED": "attempts_exhausted",
    "INTERRUPTED": "worker_lost",
}
_tokens = itertools.count(1)


def insist(command: Any) -> Script:
    """A command, repeated as it is until its reply comes."""
    while True:
        try:
            return (yield Do(command))
        except Away:
            continue


def end(store: Store, act: Act, reason: str, **conditions: Any) -> Script:
    """Somebody who does not own the epoch ends the job."""
    token = next(_tokens)
    return (yield from insist(lambda: store.end(token, act, reason, **conditions)))


def reap(store: Store) -> Script:
    """One look of the reaper at the job (shared/recovery.py, judge)."""
    standing = yield from insist(store.standing)
    if standing is None:
        return
    status, epoch, attempt, crashes, leased = standing
    if status in TERMINAL:
        return
    if store.deadline_passed:
        yield from end(store, Act.FAILED, "deadline_exceeded", epoch=epoch)
    elif status is Status.RUNNING and not leased and (crashes + 1 >= MAX_CRASHES or attempt >= MAX_ATTEMPTS):
        yield from end(store, Act.FAILED, "poisoned", epoch=epoch, unleased=True)


def post(store: Store, job_id: str) -> Script:
    """A POST with the Idempotency-Key that all of them have."""
    reserved = yield from insist(lambda: store.reserve(job_id))
    if reserved == "job1":
        yield from insist(store.create)
    store.observed.accepted(reserved)


class Worker:
    """One worker process that takes the job once. What it says next is decided from outside."""

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self.name = name
        self.epoch = 0
        self.closing = self.again = self.drains = self.fenced = False
        self._begin((0, 0), "")

    def _begin(self, claimed: tuple[int, int], text: str) -> None:
        """A new attempt: nothing is generated yet."""
        self.events: list[Event] = []
        self._text = text
        self.again = False
        self._hold(claimed)

    def _hold(self, claimed: tuple[int, int]) -> None:
        self.epoch, seq = claimed
        self._base = seq + 1
        self._acked = 0

    @property
    def speaks(self) -> bool:
        """Whether its provider may go on."""
        return self.epoch > 0 and not (self.closing or self.again or self.drains or self.fenced)

    @property
    def _flushed(self) -> bool:
        return self._acked == len(self.events)

    def run(self, offered: int | None) -> Script:
        """From the offer to the end of this worker's part."""
        taken = yield from self._take(offered=offered)
        if taken is None:
            return
        self._begin(*taken)
        while True:
            # A stop counts at once: what is under way has either happened or not.
            yield Until(lambda: not self._flushed or self.closing or self.again or self.drains or self.fenced)
            if self.fenced:
                return
            if self._flushed and self.drains:
                token = next(_tokens)
                yield from insist(lambda token=token: self._store.release(token, self.name, self.epoch))
                return
            if self._flushed and self.again:
                taken = yield from self._take(mine=self.epoch, reason="provider_error")
                if taken is None:
                    return
                self._begin(*taken)
                continue
            try:
                if (yield from self._write()):
                    return
            except Away:
                continue

    def _write(self) -> Script:
        """One append; True where it was the last."""
        batch = self.events[self._acked : self._acked + BATCH]
        first, epoch = self._base + self._acked, self.epoch
        act = None
        if self.closing and self._acked + len(batch) == len(self.events):
            act = Act.DONE
            batch = [*batch, self._done()]
        verdict, last = yield Do(lambda: self._store.append(epoch, first, batch, act))
        if verdict == "OK":
            self._acked += len(batch)
            return act is not None
        if verdict == "GAP":
            self._acked = max(0, last + 1 - self._base)
            return False
        if verdict == "STALE":
            taken = yield from self._take(mine=self.epoch, reason="storage_failover")
            if taken is not None:
                self._reclaimed(*taken)
                return False
        return True

    def _reclaimed(self, claimed: tuple[int, int], text: str) -> None:
        if text == self._text:
            self._hold(claimed)
        else:
            # The failover lost some of the text as well that this answer goes on from.
            self.closing = False
            self._begin(claimed, text)

    def _done(self) -> Done:
        said = "".join(event.text for event in self.events if isinstance(event, Token))
        self._store.observed.meant.add(self._text + said)
        return Done("stop", {}, len(self.events), 0, {})

    def _take(self, **how: Any) -> Script:
        token = next(_tokens)
        answer = yield from insist(lambda: self._store.claim(token, self.name, **how))
        text = ""
        for _ in range(3):
            if answer[0] != "NEED_TEXT":
                break
            entries: tuple[Entry, ...] = yield from insist(lambda: self._store.job.log if self._store.job else ())
            text = fold(entry.event for entry in entries).text
            counted = {"keep": len(text), "counted_at": answer[1], **how}
            answer = yield from insist(lambda counted=counted: self._store.claim(token, self.name, **counted))
        if answer[0] in _ENDS:
            yield from end(self._store, Act.FAILED, _ENDS[answer[0]], epoch=answer[1], unleased="mine" not in how)
        if answer[0] != "OK":
            return None
        standing = yield from insist(self._store.standing)
        if standing is None or standing[0] in TERMINAL or standing[1] != answer[1]:
            return None  # the answer to an old try: the job has been somebody else's since
        return answer[1:3], text

    def renew(self) -> Script:
        """Keep the lease once, or learn that it is somebody else's."""
        epoch = self.epoch
        verdict = yield from insist(lambda: self._store.renew(self.name, epoch))
        if verdict in ("LOST", "ENDED", "GONE") and self.epoch == epoch:
            self.fenced = True
