"""Fencing: one owner at a time writes into a log, and a lost reply costs nothing."""

import pytest

from shared.events import START, Cancelled, Done, EventId, Failed, Queued, Reset, Start, Token
from shared.jobs import Act, JobKey, JobRequest, OnInterrupt, Status
from shared.storage.creation import Creation
from shared.storage.jobs import Claimed, Refused
from shared.storage.keys import job_keys
from tests.storage.conftest import Stores

DONE = Done("stop", {"output_tokens": 1}, 1, 1, {"latency_ms": 5}, at_ms=5)


async def create(stores: Stores, job: JobKey, request: JobRequest) -> None:
    assert await stores.jobs.create(Creation(job, request, deadline_s=60, ttl_s=60))


async def claim(stores: Stores, job: JobKey, worker: str = "w1") -> Claimed:
    taken = await stores.jobs.claim(job, worker, 6000)
    assert isinstance(taken, Claimed), taken
    return taken


async def lapse(stores: Stores, job: JobKey) -> None:
    """What time does to a lease that nobody renews."""
    await stores.redis.delete(job_keys(job).lease)


async def test_a_new_job_starts_with_queued_as_its_first_event(
    stores: Stores, job: JobKey, request_: JobRequest
) -> None:
    await create(stores, job, request_)

    (entry,) = await stores.log.read_all(job)

    assert entry.id == EventId(0, 1)
    assert isinstance(entry.event, Queued)
    assert entry.event.job_id == job.id
    assert (await stores.jobs.show(job)).status is Status.QUEUED


async def test_creating_a_job_twice_makes_one(stores: Stores, job: JobKey, request_: JobRequest) -> None:
    await create(stores, job, request_)

    assert await stores.jobs.create(Creation(job, request_, deadline_s=60, ttl_s=60)) is None
    assert len(await stores.log.read_all(job)) == 1


async def test_a_claim_raises_the_epoch_and_starts_attempt_one(
    stores: Stores, job: JobKey, request_: JobRequest
) -> None:
    await create(stores, job, request_)

    taken = await claim(stores, job)

    entries = await stores.log.read_all(job)
    assert entries[-1].id == EventId(taken.epoch, 2)
    assert isinstance(entries[-1].event, Start)
    assert entries[-1].event.attempt == 1
    assert taken.record.status is Status.RUNNING


async def test_a_leased_job_cannot_be_claimed_by_another(stores: Stores, job: JobKey, request_: JobRequest) -> None:
    await create(stores, job, request_)
    await claim(stores, job)

    assert await stores.jobs.claim(job, "w2", 6000) == Refused("BUSY")


async def test_a_zombie_appends_nothing_after_its_job_was_taken_over(
    stores: Stores, job: JobKey, request_: JobRequest
) -> None:
    await create(stores, job, request_)
    zombie = await claim(stores, job, "w1")
    await stores.jobs.append(job, zombie.epoch, 3, [Token("old ")])
    await lapse(stores, job)
    await claim(stores, job, "w2")

    fenced = await stores.jobs.append(job, zombie.epoch, 4, [Token("late")])
    finished = await stores.jobs.finish(job, zombie.epoch, 4, [DONE], act=Act.DONE, usage={})

    entries = await stores.log.read_all(job)
    assert (fenced.verdict, finished.verdict) == ("FENCED", "FENCED")
    assert [type(entry.event) for entry in entries] == [Queued, Start, Token, Reset, Start]
    assert [entry.id.seq for entry in entries] == [1, 2, 3, 4, 5]


async def test_an_append_whose_reply_was_lost_is_not_written_twice(
    stores: Stores, job: JobKey, request_: JobRequest
) -> None:
    await create(stores, job, request_)
    taken = await claim(stores, job)

    first = await stores.jobs.append(job, taken.epoch, 3, [Token("a"), Token("b")])
    again = await stores.jobs.append(job, taken.epoch, 3, [Token("a"), Token("b")])

    assert first == again
    assert first.verdict == "OK"
    assert len(await stores.log.read_all(job)) == 4


async def test_a_log_that_lost_its_tail_says_gap_and_takes_the_same_ids_again(
    stores: Stores, job: JobKey, request_: JobRequest
) -> None:
    await create(stores, job, request_)
    taken = await claim(stores, job)

    gap = await stores.jobs.append(job, taken.epoch, 5, [Token("c")])
    repaired = await stores.jobs.append(job, taken.epoch, gap.last_seq + 1, [Token("a"), Token("b"), Token("c")])

    assert (gap.verdict, gap.last_seq) == ("GAP", 2)
    assert repaired.verdict == "OK"


async def test_an_append_to_a_job_that_is_gone_brings_nothing_back(stores: Stores, job: JobKey) -> None:
    assert (await stores.jobs.append(job, 7, 1, [Token("x")])).verdict == "GONE"
    assert await stores.log.read_all(job) == []


async def test_finish_writes_the_terminal_event_last_and_repeats_without_harm(
    stores: Stores, job: JobKey, request_: JobRequest
) -> None:
    await create(stores, job, request_)
    taken = await claim(stores, job)
    batch = [Token("hello"), DONE]

    answers = [
        await stores.jobs.finish(job, taken.epoch, 3, batch, act=Act.DONE, usage={"output_tokens": 1}, ttft_ms=4)
        for _ in range(2)
    ]

    record = await stores.jobs.show(job)
    assert [answer.verdict for answer in answers] == ["OK", "OK"]
    assert record.status is Status.DONE
    assert record.terminal["finish_reason"] == "stop"
    assert record.ttft_ms == 4
    assert [type(entry.event) for entry in await stores.log.read_all(job)] == [Queued, Start, Token, Done]


async def test_cancel_works_although_the_worker_is_silent_and_fences_it(
    stores: Stores, job: JobKey, request_: JobRequest
) -> None:
    await create(stores, job, request_)
    taken = await claim(stores, job)

    assert await stores.jobs.cancel(job, "user") is True
    assert await stores.jobs.cancel(job, "user") is False

    assert (await stores.jobs.append(job, taken.epoch, 3, [Token("x")])).verdict == "FENCED"
    assert await stores.jobs.renew(job, "w1", taken.epoch, 6000) == "ENDED"
    entries = await stores.log.read_all(job)
    assert isinstance(entries[-1].event, Cancelled)
    assert entries[-1].id.epoch > taken.epoch


async def test_a_lapsed_lease_comes_back_while_nobody_took_the_job(
    stores: Stores, job: JobKey, request_: JobRequest
) -> None:
    await create(stores, job, request_)
    taken = await claim(stores, job)
    await lapse(stores, job)

    assert await stores.jobs.renew(job, "w1", taken.epoch, 6000) == "OK"
    assert await stores.jobs.claim(job, "w2", 6000) == Refused("BUSY")


async def test_three_crashes_make_a_job_poison_and_a_drain_is_none(
    stores: Stores, job: JobKey, request_: JobRequest
) -> None:
    await create(stores, job, request_)
    for _ in range(2):
        await claim(stores, job)
        await lapse(stores, job)
    drained = await claim(stores, job, "w2")
    assert drained.record.crashes == 2
    assert await stores.jobs.release(job, "w2", drained.epoch, {})
    taken = await claim(stores, job, "w3")
    assert taken.record.crashes == 2
    await lapse(stores, job)

    assert await stores.jobs.claim(job, "w4", 6000) == Refused("POISONED", taken.epoch)
    assert await stores.jobs.fail(job, "poisoned", epoch=taken.epoch, unleased=True)
    last = (await stores.log.read_all(job))[-1].event
    assert isinstance(last, Failed)
    assert last.code == "poisoned"
    resets = [entry.event for entry in await stores.log.read_all(job) if isinstance(entry.event, Reset)]
    assert [reset.reason for reset in resets] == ["worker_lost", "worker_lost", "drained"]


async def test_the_reaper_cannot_end_a_job_that_somebody_works_on(
    stores: Stores, job: JobKey, request_: JobRequest
) -> None:
    await create(stores, job, request_)
    taken = await claim(stores, job)

    assert await stores.jobs.fail(job, "worker_lost", epoch=taken.epoch, unleased=True) is False
    assert await stores.jobs.fail(job, "worker_lost", epoch=taken.epoch - 1) is False


async def test_a_job_with_on_interrupt_fail_is_not_started_again_after_its_first_token(
    stores: Stores, job: JobKey
) -> None:
    request = JobRequest("scripted", "demo", [], on_interrupt=OnInterrupt.FAIL)
    await create(stores, job, request)
    taken = await claim(stores, job)
    await lapse(stores, job)
    taken = await claim(stores, job)  # nothing was shown yet: it may start again
    await stores.jobs.append(job, taken.epoch, 5, [Token("x", 9)], ttft_ms=9)
    await lapse(stores, job)

    assert await stores.jobs.claim(job, "w2", 6000) == Refused("INTERRUPTED", taken.epoch)


async def test_continue_keeps_the_text_that_readers_have(stores: Stores, job: JobKey) -> None:
    request = JobRequest("scripted", "demo", [], on_interrupt=OnInterrupt.CONTINUE)
    await create(stores, job, request)
    taken = await claim(stores, job)
    await stores.jobs.append(job, taken.epoch, 3, [Token("añ🙂", 9)], ttft_ms=9)
    await lapse(stores, job)

    asked = await stores.jobs.claim(job, "w2", 6000)
    assert isinstance(asked, Refused)
    assert (asked.verdict, asked.last) == ("NEED_TEXT", EventId(taken.epoch, 3))
    again = await stores.jobs.claim(job, "w2", 6000, keep=3, counted_at=asked.last)
    assert isinstance(again, Claimed)

    page = await stores.log.read_after(job, asked.last or START)
    assert page.held
    assert isinstance(page.entries[0].event, Reset)
    assert page.entries[0].event.keep == 3


async def test_a_new_attempt_of_the_same_worker_needs_no_second_lease(
    stores: Stores, job: JobKey, request_: JobRequest
) -> None:
    await create(stores, job, request_)
    first = await claim(stores, job)

    second = await stores.jobs.claim(
        job, "w1", 6000, epoch=first.epoch, reason="provider_error", usage={"input_tokens": 3}
    )

    assert isinstance(second, Claimed)
    assert second.attempt == 2
    assert second.record.crashes == 0
    assert second.record.usage == {"input_tokens": 3}


@pytest.mark.parametrize("cursor", ["5-2", "0-9", "99999999-1"])
async def test_a_cursor_that_the_log_does_not_hold_is_noticed(
    stores: Stores, job: JobKey, request_: JobRequest, cursor: str
) -> None:
    await create(stores, job, request_)
    await claim(stores, job)

    assert (await stores.log.read_after(job, EventId.parse(cursor))).held is False


async def test_pages_join_without_a_hole(stores: Stores, job: JobKey, request_: JobRequest) -> None:
    await create(stores, job, request_)
    taken = await claim(stores, job)
    await stores.jobs.append(job, taken.epoch, 3, [Token(str(n)) for n in range(40)])

    seen: list[int] = []
    cursor = START
    while True:
        page = await stores.log.read_after(job, cursor, count=7)
        assert page.held
        if not page.entries:
            break
        seen += [entry.id.seq for entry in page.entries]
        cursor = page.entries[-1].id

    assert seen == list(range(1, 43))


async def test_a_claim_whose_job_was_deleted_meanwhile_says_so_and_is_refused_once_it_is_erased(
    stores: Stores, job: JobKey, request_: JobRequest
) -> None:
    await create(stores, job, request_)
    assert isinstance(await stores.jobs.claim(job, "w1", 6000, token="once"), Claimed)
    await stores.jobs.cancel(job, "deleted")
    assert await stores.jobs.delete(job)

    again = await stores.jobs.claim(job, "w1", 6000, token="once")
    assert isinstance(again, Claimed)
    assert again.record.ended  # whoever repeated it sees that there is nothing to do

    await stores.redis.delete(job_keys(job).meta)
    assert await stores.jobs.claim(job, "w1", 6000, token="once") == Refused("GONE")
