"""The server-side scripts against a model: any order of claims, crashes, drains, cancels and ends keeps a log sound.

What holds after every step: ids rise and `seq` is dense; what was in the log stays as it was; no event of an older
epoch follows a newer one's; there is one terminal event at most, and it is the last; the text is the model's.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

import fakeredis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from shared.events import TERMINAL, Done, Entry, Token
from shared.jobs import MAX_ATTEMPTS, MAX_CRASHES, Act, JobKey, JobRequest, OnInterrupt, Status
from shared.storage.batch import Batcher
from shared.storage.compaction import LogCompaction
from shared.storage.creation import Creation
from shared.storage.jobs import Claimed, JobStore, Refused
from shared.storage.keys import job_keys
from shared.storage.log import EventLog
from shared.transcript import fold
from tests.storage import acts
from tests.support.loops import end

LEASE_MS = 600_000
"""A lease ends when a rule says so, and not because the machine is slow."""
WORKERS = st.sampled_from(["w1", "w2", "w3"])
ANY = st.integers(0, 2)
SELDOM = st.integers(0, 4).map(lambda number: number == 4)
"""Whether to end the job after all: most of what is to be seen happens before."""
TEXTS = st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=3)


@dataclass
class Belief:
    """What a worker thinks it holds. It may be wrong: others act behind its back."""

    epoch: int
    next_seq: int
    last: tuple[int, list[str]] | None = None


class Scripts(RuleBasedStateMachine):
    """One job, three workers, and whoever may end it."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.Runner()
        self.redis = fakeredis.FakeAsyncRedis(decode_responses=True)
        self.beliefs: dict[str, Belief] = {}
        self.seen: list[Entry] = []
        self.status, self.text, self.shown = Status.QUEUED, "", False
        self.epoch = self.attempt = self.crashes = 0
        self.lease: str | None = None
        self.run(self._open())

    def run(self, what: Coroutine[Any, Any, Any]) -> Any:
        """Do one thing to its end."""
        return self.loop.run(what)

    async def _open(self) -> None:
        self.batcher = Batcher(self.redis)
        self.serving = asyncio.create_task(self.batcher.run())
        self.store, self.log = JobStore(self.redis, self.batcher), EventLog(self.redis)

    async def _close(self) -> None:
        await end(self.serving)
        await self.redis.aclose()

    async def _lapse(self) -> None:
        await self.redis.delete(job_keys(self.job).lease)

    def teardown(self) -> None:
        """Close what was opened."""
        self.run(self._close())
        self.loop.close()

    @initialize(on_interrupt=st.sampled_from(OnInterrupt))
    def post(self, on_interrupt: OnInterrupt) -> None:
        """A job comes."""
        self.job: JobKey = acts.new_job()
        self.request: JobRequest = acts.request(on_interrupt)
        assert self.run(self.store.create(Creation(self.job, self.request, deadline_s=3600, ttl_s=60)))

    @property
    def open(self) -> bool:
        """Whether the job has not ended."""
        return self.status in (Status.QUEUED, Status.RUNNING)

    def _owns(self, worker: str) -> bool:
        return self.beliefs[worker].epoch == self.epoch

    def _believer(self, which: int) -> str:
        """One of the workers that think they hold the job; rightly or not."""
        return sorted(self.beliefs)[which % len(self.beliefs)]

    def _verdict(self, *, crashed: bool) -> str:
        """What a claim of a job without a lease is to get."""
        if self.crashes + crashed >= MAX_CRASHES:
            return "POISONED"
        if self.attempt >= MAX_ATTEMPTS:
            return "EXHAUSTED"
        if self.shown and self.request.on_interrupt is OnInterrupt.FAIL:
            return "INTERRUPTED"
        return "OK"

    def _claim(self, worker: str, **more: Any) -> Claimed | Refused:
        answer = self.run(self.store.claim(self.job, worker, LEASE_MS, **more))
        if isinstance(answer, Refused) and answer.verdict == "NEED_TEXT":
            assert self.request.on_interrupt is OnInterrupt.CONTINUE
            kept: dict[str, Any] = {"keep": len(self.text), "counted_at": answer.last}
            answer = self.run(self.store.claim(self.job, worker, LEASE_MS, **more, **kept))
        assert isinstance(answer, Claimed | Refused)
        return answer

    def _taken(self, worker: str, claimed: Claimed) -> None:
        assert claimed.epoch > self.epoch
        if not (self.shown and self.request.on_interrupt is OnInterrupt.CONTINUE):
            self.text = ""
        self.attempt += 1
        self.epoch, self.status, self.lease = claimed.epoch, Status.RUNNING, worker
        self.beliefs[worker] = Belief(claimed.epoch, claimed.seq + 1)

    @rule(worker=WORKERS)
    def claim(self, worker: str) -> None:
        """A worker takes the job, if it may."""
        crashed = self.status is Status.RUNNING
        expected = "ENDED" if not self.open else "BUSY" if self.lease else self._verdict(crashed=crashed)
        answer = self._claim(worker)
        assert (answer.verdict if isinstance(answer, Refused) else "OK") == expected
        if isinstance(answer, Claimed):
            self.crashes += crashed
            self._taken(worker, answer)

    @rule(worker=WORKERS, late=st.booleans())
    def follow_an_offer(self, worker: str, late: bool) -> None:
        """A worker follows an offer; where the job was claimed since, it is for nothing."""
        if late and self.open and self.lease is None and self.epoch:
            assert self._claim(worker, offered=0) == Refused("STALE")
        elif not late and self.open and self.lease is None:
            crashed = self.status is Status.RUNNING
            expected = self._verdict(crashed=crashed)
            answer = self._claim(worker, offered=self.epoch)
            assert (answer.verdict if isinstance(answer, Refused) else "OK") == expected
            if isinstance(answer, Claimed):
                self.crashes += crashed
                self._taken(worker, answer)

    @precondition(lambda self: self.lease is not None)
    @rule(worker=WORKERS)
    def crash_and_be_followed(self, worker: str) -> None:
        """The owner falls silent, and another takes the job."""
        self.lapse()
        self.claim(worker)

    @precondition(lambda self: self.beliefs)
    @rule(which=ANY)
    def begin_again(self, which: int) -> None:
        """The provider broke, and a worker starts a new attempt of its own, whether or not the job is still its own."""
        worker = self._believer(which)
        answer = self._claim(worker, epoch=self.beliefs[worker].epoch, reason="provider_error", usage={})
        if not self.open:
            expected = "ENDED"
        elif not self._owns(worker) or self.lease not in (None, worker):
            expected = "BUSY"
        else:
            expected = self._verdict(crashed=False)
        assert (answer.verdict if isinstance(answer, Refused) else "OK") == expected
        if isinstance(answer, Claimed):
            self._taken(worker, answer)

    def _append(self, worker: str, texts: list[str]) -> None:
        belief = self.beliefs[worker]
        events = [Token(text) for text in texts]
        answer = self.run(self.store.append(self.job, belief.epoch, belief.next_seq, [*events], ttft_ms=1))
        if self._owns(worker):
            assert answer.verdict == "OK"
            belief.last = belief.next_seq, texts
            belief.next_seq += len(texts)
            self.text, self.shown = self.text + "".join(texts), True
        else:
            assert answer.verdict == "FENCED"

    @precondition(lambda self: self.lease is not None)
    @rule(texts=TEXTS)
    def generate(self, texts: list[str]) -> None:
        """The owner goes on."""
        assert self.lease is not None
        self._append(self.lease, texts)

    @precondition(lambda self: self.beliefs)
    @rule(which=ANY, texts=TEXTS)
    def append(self, which: int, texts: list[str]) -> None:
        """A worker appends what it has, whether or not the job is still its own."""
        self._append(self._believer(which), texts)

    @precondition(lambda self: self.beliefs)
    @rule(which=ANY)
    def append_once_more(self, which: int) -> None:
        """The reply was lost, and a worker repeats its last append."""
        worker = self._believer(which)
        belief = self.beliefs[worker]
        if belief.last is not None:
            first_seq, texts = belief.last
            answer = self.run(self.store.append(self.job, belief.epoch, first_seq, [Token(text) for text in texts]))
            assert answer.verdict == ("OK" if self._owns(worker) else "FENCED")

    @precondition(lambda self: self.beliefs)
    @rule(which=ANY)
    def renew(self, which: int) -> None:
        """A worker wants to keep its lease."""
        worker = self._believer(which)
        verdict = self.run(self.store.renew(self.job, worker, self.beliefs[worker].epoch, LEASE_MS))
        if not self.open:
            assert verdict == "ENDED"
        elif self._owns(worker) and self.status is Status.RUNNING:
            assert verdict == "OK"
            self.lease = worker
        else:
            assert verdict == "LOST"

    @precondition(lambda self: self.lease is not None)
    @rule()
    def lapse(self) -> None:
        """The owner is silent for longer than a lease."""
        self.run(self._lapse())
        self.lease = None

    @precondition(lambda self: self.beliefs)
    @rule(which=ANY)
    def release(self, which: int) -> None:
        """A worker that drains gives the job back."""
        worker = self._believer(which)
        legal = self._owns(worker) and self.status is Status.RUNNING
        assert self.run(self.store.release(self.job, worker, self.beliefs[worker].epoch, {})) is legal
        if legal:
            self.status, self.lease = Status.QUEUED, None

    @precondition(lambda self: self.beliefs)
    @rule(which=ANY, now=SELDOM)
    def finish(self, which: int, now: bool) -> None:
        """A worker has the whole answer."""
        worker = self._believer(which)
        if self._owns(worker) and self.status is Status.RUNNING and not now:
            return
        belief = self.beliefs[worker]
        done = Done("stop", {}, 1, self.attempt, {})
        arguments = (self.job, belief.epoch, belief.next_seq, [Token("."), done])
        answer = self.run(self.store.finish(*arguments, act=Act.DONE, usage={}))
        if self._owns(worker) and self.status is Status.RUNNING:
            assert answer.verdict == "OK"
            self.text, self.status, self.lease = self.text + ".", Status.DONE, None
            assert self.run(self.store.finish(*arguments, act=Act.DONE, usage={})) == answer
            del self.beliefs[worker]  # it is done with the job
        else:
            assert answer.verdict in ("FENCED", "ENDED")

    def _end(self, ended: bool, status: Status, legal: bool) -> None:
        assert ended is legal
        if legal:
            self.status, self.lease = status, None
            self.epoch = self.run(self.log.last_ids([self.job]))[0].epoch

    @rule(now=SELDOM)
    def cancel(self, now: bool) -> None:
        """Somebody ends the job, whoever works on it."""
        if now or not self.open:
            self._end(self.run(self.store.cancel(self.job, "user")), Status.CANCELLED, self.open)

    @rule(stale=st.booleans(), now=SELDOM)
    def reap(self, stale: bool, now: bool) -> None:
        """The reaper ends the job if it is still as it was looked at, and nobody works on it."""
        if self.lease is None and not stale and not now:
            return
        legal = self.open and self.lease is None and not stale
        epoch = self.epoch + 1 if stale else self.epoch
        self._end(self.run(self.store.fail(self.job, "poisoned", epoch=epoch, unleased=True)), Status.FAILED, legal)

    @rule()
    def compact(self) -> None:
        """A worker rewrites the log, which nobody is to notice."""
        rewriting = LogCompaction(self.log, self.batcher).rewrite(self.job, _no_rest)
        assert self.run(rewriting) in (("OPEN",) if self.open else ("OK", "LEFT"))

    @invariant()
    def the_log_is_sound(self) -> None:
        """See the head of this file."""
        log: list[Entry] = self.run(self.log.read_all(self.job))
        acts.assert_sound(log)
        assert log[: len(self.seen)] == self.seen
        assert not any(isinstance(entry.event, TERMINAL) for entry in log[:-1])
        assert isinstance(log[-1].event, TERMINAL) is not self.open
        assert fold(entry.event for entry in log).text == self.text
        record = self.run(self.store.show(self.job))
        assert (record.status, record.attempt, record.crashes) == (self.status, self.attempt, self.crashes)
        assert record.epoch == self.epoch
        self.seen = log


async def _no_rest() -> None:
    """Nothing else is going on."""


def test_the_scripts_keep_every_log_sound() -> None:
    run_state_machine_as_test(
        Scripts,
        settings=settings(
            max_examples=100,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
