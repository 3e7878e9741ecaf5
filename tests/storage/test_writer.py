"""The append pipeline on real stores: what was added is in the log once and in order, or the writer knows its place."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from shared.errors import StorageError, TailraceError
from shared.events import Done, EventId, Start, Token
from shared.jobs import Act, JobKey, Status
from shared.storage.appends import Appended, Appending, Batch
from shared.storage.jobs import Claimed, JobStore
from shared.storage.keys import job_keys
from tests.storage import acts
from tests.storage.conftest import Stores
from tests.support.loops import GUARD_S, end, until
from worker.writer import MAX_BATCH, Ending, LogWriter


class Written:
    """A writer at work on one job."""

    def __init__(self, store: JobStore, job: JobKey, claimed: Claimed, reclaim: Callable[[], Awaitable[Any]]) -> None:
        self.writer = LogWriter(store, job, claimed, reclaim=reclaim, patience_s=GUARD_S)
        self.task = asyncio.create_task(self.writer.run())

    def add(self, *texts: str) -> None:
        for text in texts:
            self.writer.add(Token(text), 7)

    async def flush(self) -> None:
        async with asyncio.timeout(GUARD_S):
            await self.writer.flush()

    async def ended(self) -> Ending:
        async with asyncio.timeout(GUARD_S):
            return await self.task

    async def close(self) -> Ending:
        self.writer.close(acts.DONE, Act.DONE, {"output_tokens": 1})
        return await self.ended()


Writers = Callable[..., Awaitable[tuple[JobKey, Written]]]


@pytest.fixture
async def writing(stores: Stores) -> AsyncIterator[Writers]:
    """Makes a running job and its writer."""
    made: list[Written] = []

    async def make(store: JobStore | None = None, *, reclaim: Any = None) -> tuple[JobKey, Written]:
        job = await acts.create(stores)
        claimed = await acts.claim(stores, job)

        async def take_again() -> Claimed | None:
            taken = await stores.jobs.claim(
                job, "w1", acts.LEASE_MS, epoch=made[-1].writer.epoch, reason="storage_failover", usage={}
            )
            return taken if isinstance(taken, Claimed) else None

        made.append(Written(store or stores.jobs, job, claimed, reclaim or take_again))
        return job, made[-1]

    yield make
    await end(*(one.task for one in made))


def _calls(written: Written, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many events each append takes, from now on."""
    sizes: list[int] = []
    next_batch = written.writer.next_batch

    def counted() -> Batch | None:
        batch = next_batch()
        if batch is not None:
            sizes.append(len(batch.events))
        return batch

    monkeypatch.setattr(written.writer, "next_batch", counted)
    return sizes


async def test_the_terminal_event_is_written_last_and_ends_the_job(stores: Stores, writing: Writers) -> None:
    job, written = await writing()
    written.add("a", "b")

    assert await written.close() is Ending.WRITTEN

    assert [event.type for event in await acts.events(stores, job)] == ["queued", "start", "token", "token", "done"]
    record = await stores.jobs.show(job)
    assert (record.status, record.ttft_ms, record.usage) == (Status.DONE, 7, {"output_tokens": 1})


async def test_an_answer_without_content_still_gets_its_end(stores: Stores, writing: Writers) -> None:
    job, written = await writing()
    assert await written.close() is Ending.WRITTEN
    assert (await acts.events(stores, job))[-1] == acts.DONE


async def test_the_first_token_waits_for_nothing_and_what_comes_meanwhile_goes_together(
    stores: Stores, writing: Writers, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, written = await writing()
    sizes = _calls(written, monkeypatch)
    written.add("first")
    await until(lambda: sizes == [1])
    written.add(*"abcdef")
    await written.flush()
    assert sizes == [1, 6]
    assert await acts.text(stores, job) == "firstabcdef"


async def test_batches_are_bounded_and_their_order_is_kept(
    stores: Stores, writing: Writers, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, written = await writing()
    sizes = _calls(written, monkeypatch)
    texts = [f"{n} " for n in range(2 * MAX_BATCH + 10)]
    written.add(*texts)
    await written.flush()
    assert sizes == [MAX_BATCH, MAX_BATCH, 10]
    assert await acts.text(stores, job) == "".join(texts)


async def test_what_is_left_at_the_end_and_the_end_are_one_step(
    stores: Stores, writing: Writers, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, written = await writing()
    sizes = _calls(written, monkeypatch)
    written.add(*["x"] * (MAX_BATCH + 3))
    assert await written.close() is Ending.WRITTEN
    assert sizes == [MAX_BATCH]
    assert len(await acts.events(stores, job)) == 2 + MAX_BATCH + 3 + 1


async def test_a_flush_returns_when_all_that_was_added_is_in_the_log(stores: Stores, writing: Writers) -> None:
    job, written = await writing()
    await written.flush()
    for n in range(20):
        written.add(str(n))
        await written.flush()
        assert len(await acts.events(stores, job)) == 3 + n


class Lossy:
    """A writer whose batch is lost on its way, or whose answer is."""

    def __init__(self, source: Appending, chance: random.Random) -> None:
        self._source = source
        self._chance = chance

    def _lost(self) -> bool:
        return self._chance.random() < 0.35

    def next_batch(self) -> Batch | None:
        """Lost before, or not."""
        batch = self._source.next_batch()
        if batch is None or not self._lost():
            return batch
        self._source.answered(StorageError("storage_unavailable"))
        return None

    def answered(self, answer: Appended | TailraceError) -> None:
        """Lost after, or not."""
        self._source.answered(StorageError("storage_unavailable") if self._lost() else answer)


class LossyStore(JobStore):
    """A store whose calls are lost on their way, or whose replies are."""

    def __init__(self, stores: Stores, chance: random.Random) -> None:
        super().__init__(stores.redis, stores.jobs._batcher)
        self._chance = chance

    def _lose(self) -> None:
        if self._chance.random() < 0.35:
            raise StorageError("storage_unavailable")

    def append_from(self, source: Appending) -> None:
        """Lost before, lost after, or neither."""
        super().append_from(Lossy(source, self._chance))

    async def finish(self, *args: Any, **more: Any) -> Appended:
        """Lost before, lost after, or neither."""
        self._lose()
        answer = await super().finish(*args, **more)
        self._lose()
        return answer


@pytest.mark.parametrize("seed", range(4))
async def test_lost_calls_and_lost_replies_lose_and_double_nothing(
    stores: Stores, writing: Writers, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr("worker.writer.random.uniform", lambda low, high: 0.0)
    chance = random.Random(seed)
    job, written = await writing(LossyStore(stores, chance))
    texts = [f"{n} " for n in range(60)]
    for text in texts:
        written.add(text)
        for _ in range(chance.randint(0, 8)):
            await asyncio.sleep(0)

    assert await written.close() is Ending.WRITTEN

    entries = await stores.log.read_all(job)
    acts.assert_sound(entries)
    assert [entry.event.text for entry in entries if isinstance(entry.event, Token)] == texts
    assert isinstance(entries[-1].event, Done)


async def test_a_lost_reply_to_a_batch_that_grows_meanwhile_is_not_taken_for_a_lost_tail(
    stores: Stores, writing: Writers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job, written = await writing()
    answered = written.writer.answered

    def lose_the_reply(_: Appended | TailraceError) -> None:
        monkeypatch.setattr(written.writer, "answered", answered)
        written.add("b", "c")
        answered(StorageError("storage_unavailable"))

    monkeypatch.setattr(written.writer, "answered", lose_the_reply)
    written.add("a")
    await written.flush()

    assert await written.close() is Ending.WRITTEN
    assert [event.text for event in await acts.events(stores, job) if isinstance(event, Token)] == ["a", "b", "c"]
    assert "lost its tail" not in caplog.text


@pytest.mark.parametrize("keep", [2, 3, 5, 6])
async def test_a_lost_tail_is_appended_again_with_the_same_ids_and_bytes(
    stores: Stores, writing: Writers, keep: int
) -> None:
    job, written = await writing()
    for text in "abcd":
        written.add(text)
        await written.flush()
    before = await stores.log.read_all(job)
    await acts.lose_tail(stores, job, keep)

    written.add("e")
    await written.flush()

    after = await stores.log.read_all(job)
    assert after[:6] == before
    assert [entry.id for entry in after[6:]] == [EventId(before[-1].id.epoch, 7)]
    assert await written.close() is Ending.WRITTEN


async def test_a_tail_that_was_lost_at_the_end_is_written_with_the_end(stores: Stores, writing: Writers) -> None:
    job, written = await writing()
    written.add(*"abcd")
    await written.flush()
    await acts.lose_tail(stores, job, 4)
    assert await written.close() is Ending.WRITTEN
    assert await acts.text(stores, job) == "abcd"
    acts.assert_sound(await stores.log.read_all(job))


async def test_a_failover_does_not_make_shown_content_unshown(stores: Stores, writing: Writers) -> None:
    job, written = await writing()
    written.add("a")
    await written.flush()
    await acts.lose_tail(stores, job, 2)
    await stores.redis.hdel(job_keys(job).meta, "ttft_ms")  # type: ignore[misc]  # its types promise no awaitable
    written.add("b")
    await written.flush()
    assert (await stores.jobs.show(job)).ttft_ms == 7


async def _lose_claim(stores: Stores, job: JobKey) -> None:
    """What a failover does that lost the claim: the job is queued again, and nobody ever worked on it."""
    await acts.lose_tail(stores, job, 1)
    keys = job_keys(job)
    await stores.redis.delete(keys.lease, keys.ops)
    await stores.redis.hset(keys.meta, mapping={"status": "queued", "epoch": 0, "attempt": 0})  # type: ignore[misc]


async def test_a_lost_claim_is_taken_again_and_the_answer_goes_on(stores: Stores, writing: Writers) -> None:
    job, written = await writing()
    written.add(*"abc")
    await written.flush()
    epoch = written.writer.epoch
    await _lose_claim(stores, job)

    written.add("d")
    await written.flush()
    assert await written.close() is Ending.WRITTEN

    entries = await stores.log.read_all(job)
    acts.assert_sound(entries)
    assert epoch not in {entry.id.epoch for entry in entries}
    assert [event.type for event in await acts.events(stores, job)][:2] == ["queued", "start"]
    assert await acts.text(stores, job) == "abcd"


async def test_a_lost_claim_that_somebody_else_took_is_given_up(stores: Stores, writing: Writers) -> None:
    job, written = await writing()
    await _lose_claim(stores, job)
    # The other's epoch may be lower or higher than the lost one: nothing of ours may get in either way.
    await acts.claim(stores, job, "w2")
    log = await stores.log.read_all(job)
    written.add("a")
    assert await written.ended() is Ending.FENCED
    assert await stores.log.read_all(job) == log


async def test_a_store_that_is_away_for_the_claim_too_is_waited_for(stores: Stores, writing: Writers) -> None:
    asked: list[int] = []

    async def take_again() -> Claimed | None:
        asked.append(1)
        if len(asked) == 1:
            raise StorageError("storage_unavailable")
        taken = await stores.jobs.claim(job, "w1", acts.LEASE_MS, epoch=written.writer.epoch, reason="storage_failover")
        return taken if isinstance(taken, Claimed) else None

    job, written = await writing(reclaim=take_again)
    await _lose_claim(stores, job)
    written.add("a")
    assert await written.close() is Ending.WRITTEN


@pytest.mark.parametrize("how", ["taken", "cancelled", "deadline", "deleted"])
async def test_a_writer_whose_job_is_anothers_writes_nothing_more(stores: Stores, writing: Writers, how: str) -> None:
    job, written = await writing()
    written.add("mine")
    await written.flush()
    if how == "taken":
        await acts.lapse(stores, job)
        await acts.claim(stores, job, "w2")
    elif how == "cancelled":
        await stores.jobs.cancel(job, "user")
    elif how == "deadline":
        await stores.jobs.fail(job, "deadline_exceeded")
    else:
        await stores.redis.delete(*job_keys(job))
    log = await stores.log.read_all(job)

    written.add("late")

    assert await written.ended() is Ending.FENCED
    assert await stores.log.read_all(job) == log
    assert sum(isinstance(entry.event, Start) for entry in log) == {"taken": 2, "deleted": 0}.get(how, 1)


async def test_a_writer_that_closes_too_late_writes_no_second_end(stores: Stores, writing: Writers) -> None:
    job, written = await writing()
    written.add("a")
    await stores.jobs.cancel(job, "user")
    assert await written.close() is Ending.FENCED
    assert [event.type for event in await acts.events(stores, job)].count("done") == 0


async def test_a_writer_that_was_stopped_writes_nothing_more(stores: Stores, writing: Writers) -> None:
    job, written = await writing()
    written.add("a")
    await written.flush()
    written.task.cancel()
    written.add("b")
    await end(written.task)
    written.add("c")
    _, other = await writing()
    other.add("x")
    await other.flush()  # whatever was asked for has been served by then
    assert await acts.text(stores, job) == "a"
