"""Lost replies: whatever is asked twice is done once, and the second answer is the first."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from shared.errors import StorageError
from shared.events import Event, Token
from shared.jobs import Act, JobKey
from shared.queue import Queue
from shared.storage import keys
from shared.storage.batch import Batcher
from shared.storage.compaction import LogCompaction
from shared.storage.connect import open_redis
from shared.storage.control import Control
from shared.storage.creation import Creation
from shared.storage.jobs import JobStore
from shared.storage.log import EventLog
from shared.storage.notices import Notices
from shared.storage.scripts import CLAIM, END, RELEASE, Script
from tests.storage import acts
from tests.storage.conftest import Stores
from tests.support.cutter import Cutter, cut_wire
from tests.support.loops import running
from tests.support.stores import ValkeyProcess
from worker.claim import Claimer, Taken

CLAIM_ARGS = ("token", "w1", 500, acts.LEASE_MS, "", "", "", "", "", "", "")
END_ARGS = ("token", 500, "cancelled", "", "0", "z", '"reason":"user"', "tailrace:worker:")


async def _state(stores: Stores, job: JobKey) -> tuple[object, ...]:
    """Everything that the store knows of a job."""
    record = await stores.jobs.show(job)
    return record, await stores.log.read_all(job), await stores.redis.get(keys.job_keys(job).lease)


@pytest.mark.parametrize(("script", "args"), [(CLAIM, CLAIM_ARGS), (END, END_ARGS)], ids=["claim", "end"])
async def test_an_operation_that_is_repeated_answers_as_it_did_and_does_nothing(
    stores: Stores, script: Script, args: Sequence[str | int]
) -> None:
    job = await acts.create(stores)
    first = await stores.jobs._batcher.call(script, keys.job_keys(job), args)
    state = await _state(stores, job)
    assert first[0] == "OK"
    assert await stores.jobs._batcher.call(script, keys.job_keys(job), args) == first
    assert await _state(stores, job) == state


async def test_a_release_that_is_repeated_after_the_next_claim_takes_nothing_from_it(stores: Stores) -> None:
    job = await acts.create(stores)
    epoch = (await acts.claim(stores, job)).epoch
    args = ("token", "w1", epoch, "{}")
    first = await stores.jobs._batcher.call(RELEASE, keys.job_keys(job), args)
    await acts.claim(stores, job, "w2")
    state = await _state(stores, job)
    assert await stores.jobs._batcher.call(RELEASE, keys.job_keys(job), args) == first == ["OK"]
    assert await _state(stores, job) == state


async def test_what_was_done_is_remembered_until_the_job_has_ended_and_a_little_longer(stores: Stores) -> None:
    job = await acts.create(stores)
    await acts.claim(stores, job)
    name = keys.job_keys(job).ops
    assert await stores.redis.pttl(name) > keys.OPEN_SLACK_MS
    await stores.jobs.cancel(job, "user")
    assert 0 < await stores.redis.pttl(name) <= keys.OPS_MS


async def test_what_ended_a_queued_job_is_remembered_no_longer(stores: Stores) -> None:
    job = await acts.create(stores)
    await stores.jobs.cancel(job, "user")
    assert 0 < await stores.redis.pttl(keys.job_keys(job).ops) <= keys.OPS_MS


async def test_nothing_is_appended_after_the_end_even_by_its_owner(stores: Stores) -> None:
    job = await acts.create(stores)
    epoch = (await acts.claim(stores, job)).epoch
    await stores.jobs.finish(job, epoch, 3, [acts.DONE], act=Act.DONE, usage={})
    assert (await stores.jobs.append(job, epoch, 4, [Token("late")])).verdict != "OK"


@pytest.fixture
async def wired(valkey: ValkeyProcess, tmp_path: Path) -> AsyncIterator[tuple[Stores, Cutter]]:
    """The storage layer on a real server, and the wire between them."""
    async with cut_wire(valkey.url, tmp_path / "s") as (url, cutter):
        redis = open_redis(url, timeout_s=5.0, max_connections=8)
        await redis.flushall()
        batcher = Batcher(redis)
        async with running(batcher.run()):
            await JobStore(redis, batcher).attend(acts.new_job())  # loads the scripts
            log, queue = EventLog(redis), Queue(redis, "q")
            jobs, compaction = JobStore(redis, batcher), LogCompaction(log, batcher)
            yield Stores(redis, jobs, log, Control(redis), queue, Notices(redis), compaction), cutter
        await redis.aclose()


async def test_a_job_that_is_posted_over_a_cut_wire_is_made_once(wired: tuple[Stores, Cutter]) -> None:
    stores, cutter = wired
    job = acts.new_job()
    cutter.cut_next_reply()
    await stores.jobs.create(Creation(job, acts.request(), deadline_s=60, ttl_s=60))
    assert (cutter.cuts, [event.type for event in await acts.events(stores, job)]) == (1, ["queued"])


async def test_a_claim_over_a_cut_wire_costs_no_attempt(wired: tuple[Stores, Cutter]) -> None:
    stores, cutter = wired
    job = await acts.create(stores)
    cutter.cut_next_reply()
    taken = await acts.claim(stores, job)
    assert (cutter.cuts, taken.attempt, taken.record.crashes) == (1, 1, 0)
    assert [event.type for event in await acts.events(stores, job)] == ["queued", "start"]


async def test_an_append_and_an_end_over_a_cut_wire_are_written_once(wired: tuple[Stores, Cutter]) -> None:
    stores, cutter = wired
    job = await acts.create(stores)
    epoch = (await acts.claim(stores, job)).epoch
    batch: list[Event] = [Token("a"), Token("b")]
    cutter.cut_next_reply()
    assert (await stores.jobs.append(job, epoch, 3, batch)).verdict == "OK"
    cutter.cut_next_reply()
    assert (await stores.jobs.finish(job, epoch, 5, [acts.DONE], act=Act.DONE, usage={})).verdict == "OK"
    assert cutter.cuts == 2
    assert [event.type for event in await acts.events(stores, job)][2:] == ["token", "token", "done"]


async def test_a_cancel_over_a_cut_wire_says_that_it_was_this_one(wired: tuple[Stores, Cutter]) -> None:
    stores, cutter = wired
    job = await acts.create(stores)
    cutter.cut_next_reply()
    assert await stores.jobs.cancel(job, "user") is True
    assert [event.type for event in await acts.events(stores, job)] == ["queued", "cancelled"]


async def test_an_offer_and_a_reservation_over_a_cut_wire_are_made_once(wired: tuple[Stores, Cutter]) -> None:
    stores, cutter = wired
    cutter.cut_next_reply()
    await stores.queue.offer(acts.new_job(), epoch=0, priority=5)
    assert len(await acts.offers(stores)) == 1
    assert cutter.cuts == 1


async def test_a_claim_whose_answer_is_lost_for_good_costs_no_crash(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await acts.create(stores)
    whole: Any = stores.jobs._batcher.call

    async def timed_out(*args: Any) -> Any:
        await whole(*args)
        monkeypatch.undo()
        raise StorageError("storage_unavailable")

    monkeypatch.setattr(stores.jobs._batcher, "call", timed_out)
    claimer = Claimer(stores.jobs, stores.log, "w1", acts.LEASE_MS)
    with pytest.raises(StorageError):
        await claimer.take(job)

    taken = await claimer.take(job)  # as arq delivers it again, half a second later

    assert isinstance(taken, Taken)
    assert (taken.claimed.attempt, taken.claimed.record.crashes) == (1, 0)


async def test_an_offer_that_comes_by_both_ways_at_once_is_taken_once(stores: Stores) -> None:
    job = await acts.create(stores)
    claimer = Claimer(stores.jobs, stores.log, "w1", acts.LEASE_MS)

    answers = await asyncio.gather(*(claimer.take(job, offered=0) for _ in range(3)))

    assert sum(isinstance(answer, Taken) for answer in answers) == 1
