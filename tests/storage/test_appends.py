"""Appends that go out together: each job has its own answer, whatever becomes of the others."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from redis.exceptions import ClusterCrossSlotError

from shared.errors import RecordError, StorageError, TailraceError
from shared.events import Event, Token, ToolCall
from shared.jobs import JobKey
from shared.storage.appends import MAX_CHARS, MAX_EVENTS, MAX_JOBS, Appended, Appends
from shared.storage.jobs import Claimed
from shared.storage.keys import job_keys
from shared.storage.script_line import ScriptCall, ScriptLine
from tests.storage import acts
from tests.storage.conftest import Stores
from tests.support.loops import GUARD_S, running, until


class Line(ScriptLine):
    """A line that says how many jobs each of its calls has; with `apart`, before a server that keeps them apart."""

    def __init__(self, stores: Stores, *, apart: bool = False) -> None:
        super().__init__(stores.redis)
        self._apart = apart
        self.calls: list[int] = []

    async def run(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """As ever."""
        sizes = [len(call.keys) // 2 for call in calls]
        self.calls += sizes
        if self._apart and max(sizes) > 1:
            return [ClusterCrossSlotError("Keys in request don't hash to the same slot") for _ in calls]
        return await super().run(calls)


@pytest.fixture
def line(stores: Stores) -> Line:
    """The line of the store's appends."""
    stores.jobs._batcher.appends._line = made = Line(stores)
    return made


async def _running(stores: Stores, count: int) -> list[tuple[JobKey, Claimed]]:
    jobs = [await acts.create(stores) for _ in range(count)]
    return [(job, await acts.claim(stores, job)) for job in jobs]


async def _append(stores: Stores, jobs: list[tuple[JobKey, Claimed]], texts: str = "a") -> list[Any]:
    events: list[Event] = [Token(text) for text in texts]
    appends = (stores.jobs.append(job, claimed.epoch, claimed.seq + 1, events) for job, claimed in jobs)
    async with asyncio.timeout(GUARD_S):
        return await asyncio.gather(*appends, return_exceptions=True)


async def test_jobs_that_have_something_at_the_same_time_share_a_call(stores: Stores, line: Line) -> None:
    jobs = await _running(stores, 3)
    assert await _append(stores, jobs, "ab") == [Appended("OK", 4)] * 3
    assert line.calls == [3]
    assert [await acts.text(stores, job) for job, _ in jobs] == ["ab"] * 3


async def test_a_call_has_so_many_jobs_at_most(stores: Stores, line: Line) -> None:
    jobs = await _running(stores, MAX_JOBS + 1)
    assert await _append(stores, jobs) == [Appended("OK", 3)] * (MAX_JOBS + 1)
    assert line.calls == [MAX_JOBS, 1]


async def test_a_call_has_so_many_events_at_most(stores: Stores, line: Line) -> None:
    jobs = await _running(stores, 5)
    texts = "x" * (MAX_EVENTS // 2)
    await _append(stores, jobs, texts)
    assert line.calls == [2, 2, 1]
    assert [await acts.text(stores, job) for job, _ in jobs] == [texts] * 5


async def test_each_job_has_its_own_verdict(stores: Stores, line: Line) -> None:
    jobs = await _running(stores, 5)
    (stale, _), (cancelled, _), (gone, _), (repeated, its), _ = jobs
    await acts.lose_tail(stores, stale, 1)
    await stores.jobs.cancel(cancelled, "user")
    await stores.redis.delete(*job_keys(gone))
    await stores.jobs.append(repeated, its.epoch, 3, [Token("a")])
    line.calls.clear()

    answers = await _append(stores, jobs)

    assert [answer.verdict for answer in answers] == ["STALE", "FENCED", "GONE", "OK", "OK"]
    assert [answer.last_seq for answer in answers] == [1, 3, 0, 3, 3]
    assert line.calls == [5]
    assert await acts.text(stores, repeated) == "a"


async def test_a_damaged_record_spoils_no_other_jobs_append(stores: Stores, line: Line) -> None:
    jobs = await _running(stores, 4)
    damaged = job_keys(jobs[2][0]).log
    await stores.redis.delete(damaged)
    await stores.redis.set(damaged, "x", ex=60)

    answers = await _append(stores, jobs, "ab")

    assert isinstance(answers.pop(2), RecordError)
    assert answers == [Appended("OK", 4)] * 3
    assert line.calls == [4, 1, 1, 1, 1]
    for place in (0, 1, 3):
        acts.assert_sound(await stores.log.read_all(jobs[place][0]))
        assert await acts.text(stores, jobs[place][0]) == "ab"


async def test_a_cluster_that_keeps_jobs_apart_is_asked_to_join_them_once(stores: Stores) -> None:
    stores.jobs._batcher.appends._line = line = Line(stores, apart=True)
    jobs = await _running(stores, 2)
    assert await _append(stores, jobs) == [Appended("OK", 3)] * 2
    assert line.calls == [2, 1, 1]
    line.calls.clear()
    assert await _append(stores, jobs) == [Appended("OK", 3)] * 2  # a repetition
    assert line.calls == [1, 1]


async def test_an_append_whose_caller_has_gone_keeps_nobody(stores: Stores, line: Line) -> None:
    (job, claimed), other = await _running(stores, 2)
    gone = asyncio.create_task(stores.jobs.append(job, claimed.epoch, 3, [Token("a")]))
    await asyncio.sleep(0)
    gone.cancel()
    assert await _append(stores, [other]) == [Appended("OK", 3)]
    assert line.calls == [1]


async def test_what_is_under_way_when_a_process_ends_is_told_so(stores: Stores) -> None:
    class Silent(Line):
        async def run(self, calls: Sequence[ScriptCall]) -> list[Any]:
            self.calls += [len(call.keys) // 2 for call in calls]
            never: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
            return await never

    (job, claimed), (other, its) = await _running(stores, 2)
    line = Silent(stores)
    appends = Appends(line)
    stores.jobs._batcher.appends = appends
    async with running(appends.run()):
        first = asyncio.create_task(stores.jobs.append(job, claimed.epoch, 3, [Token("a")]))
        await until(lambda: line.calls == [1])
        second = asyncio.create_task(stores.jobs.append(other, its.epoch, 3, [Token("a")]))
        await until(lambda: bool(appends._asking))
    for told in (first, second):
        with pytest.raises(StorageError):
            await told


async def test_an_event_that_cannot_be_written_is_its_own_jobs_trouble(stores: Stores, line: Line) -> None:
    jobs = await _running(stores, 3)
    (broken, its), *others = jobs
    bad = stores.jobs.append(broken, its.epoch, its.seq + 1, [ToolCall(0, "\ud800", "n", "{}")])
    async with asyncio.timeout(GUARD_S):
        refused, *answers = await asyncio.gather(bad, _append(stores, others), return_exceptions=True)
    assert isinstance(refused, TailraceError)
    assert refused.code == "internal"
    assert answers == [[Appended("OK", 3)] * 2]
    assert await _append(stores, jobs[:1]) == [Appended("OK", 3)]


async def test_a_call_has_so_much_text_at_most(stores: Stores, line: Line) -> None:
    jobs = await _running(stores, 3)
    texts = ["x" * (MAX_CHARS // 2)]
    appends = (stores.jobs.append(job, claimed.epoch, 3, list(map(Token, texts))) for job, claimed in jobs)
    async with asyncio.timeout(GUARD_S):
        assert await asyncio.gather(*appends) == [Appended("OK", 3)] * 3
    assert line.calls == [1, 1, 1]
