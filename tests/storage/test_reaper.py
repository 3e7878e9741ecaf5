"""The reaper's sweep on real stores: no open job is forgotten, no living one is disturbed, and one sweep is enough."""

import asyncio
from typing import Any

import pytest

from shared import recovery
from shared.errors import RecordError, StorageError
from shared.events import Cancelled, Failed
from shared.jobs import MAX_ATTEMPTS, JobKey, JobRequest, Status
from shared.queue import offer_id
from shared.recovery import HALF_MADE_MS, LEAD_MS, OFFER_AFTER_MS, Reaper
from shared.storage import keys
from shared.storage.creation import Creation
from shared.storage.jobs import Claimed
from shared.storage.sending import OwnLine
from tests.storage import acts
from tests.storage.conftest import Stores
from tests.support.loops import end, running, until


async def _now_ms(stores: Stores) -> int:
    now_ms, _ = await stores.jobs.standings([])
    return now_ms


async def _indexed(
    stores: Stores,
    *,
    age_ms: int = OFFER_AFTER_MS + 1_000,
    deadline_s: float = 60,
    log: bool = True,
    asked: JobRequest | None = None,
) -> JobKey:
    """A job on the index of open ones since `age_ms`, with a log or without one, and not offered."""
    job = acts.new_job()
    await stores.control.index(job, await _now_ms(stores) - age_ms, 3_600_000)
    return await acts.create(stores, job, asked, deadline_s=deadline_s) if log else job


async def _crashed(stores: Stores, times: int = 1) -> tuple[JobKey, int]:
    """A job whose lease has lapsed so many times; its last epoch."""
    job = await _indexed(stores)
    for _ in range(times):
        taken = await acts.claim(stores, job)
        await acts.lapse(stores, job)
    return job, taken.epoch


@pytest.fixture
async def reaper(stores: Stores) -> Reaper:
    """A reaper that nobody runs."""
    return Reaper(stores.jobs, stores.control, stores.queue, owner="me", lease_s=6.0)


async def _offers(stores: Stores) -> list[str]:
    return await acts.offers(stores)


async def _open(stores: Stores) -> list[JobKey]:
    return [job for job, _ in await stores.control.open_jobs(0, 2000)]


async def _ended_with(stores: Stores, job: JobKey) -> str:
    record = await stores.jobs.show(job)
    last = (await acts.events(stores, job))[-1]
    assert isinstance(last, Failed)
    assert (record.status, record.terminal["code"]) == (Status.FAILED, last.code)
    return last.code


@pytest.mark.parametrize("trusted", [True, False])
async def test_a_queued_job_without_an_offer_is_offered(stores: Stores, reaper: Reaper, trusted: bool) -> None:
    job = await _indexed(stores, asked=acts.request(priority=9))
    await reaper.sweep(trusted=trusted)
    assert await _offers(stores) == [offer_id(job, 0)]
    assert await acts.bells(stores) == [offer_id(job, 0)]
    low = await _indexed(stores, asked=acts.request(priority=0))
    await reaper.sweep(trusted=trusted)
    assert await _offers(stores) == [offer_id(job, 0), offer_id(low, 0)]


async def test_a_queued_job_that_is_offered_wakes_nobody_again(stores: Stores, reaper: Reaper) -> None:
    job = await _indexed(stores)
    await stores.queue.offer(job, epoch=0, priority=5)
    await stores.redis.delete(keys.WAKE)
    await reaper.sweep(trusted=True)
    assert await stores.redis.exists(keys.WAKE) == 0


async def test_a_job_that_was_only_just_posted_is_left_to_its_post(stores: Stores, reaper: Reaper) -> None:
    await _indexed(stores, age_ms=0)
    await reaper.sweep(trusted=True)
    assert await _offers(stores) == []


async def test_a_job_whose_offer_was_lost_is_offered_as_soon_as_it_is_of_age(stores: Stores, reaper: Reaper) -> None:
    job = await _indexed(stores, age_ms=0)
    await reaper.sweep(trusted=True)
    await stores.redis.zincrby(keys.OPEN, -OFFER_AFTER_MS - 1, str(job))
    await reaper.sweep(trusted=True)
    assert await _offers(stores) == [offer_id(job, 0)]


async def test_a_job_whose_lease_lapsed_is_offered_under_its_last_epoch(stores: Stores, reaper: Reaper) -> None:
    job, epoch = await _crashed(stores)
    await reaper.sweep(trusted=True)
    assert await _offers(stores) == [offer_id(job, epoch)]
    taken = await acts.claim(stores, job, "w2")
    assert (taken.attempt, taken.record.crashes) == (2, 1)


async def test_a_lapsed_lease_is_not_believed_while_the_stores_may_have_been_away(
    stores: Stores, reaper: Reaper
) -> None:
    job, epoch = await _crashed(stores)
    await reaper.sweep(trusted=False)
    assert await _offers(stores) == []
    assert await stores.jobs.renew(job, "w1", epoch, acts.LEASE_MS) == "OK"
    await reaper.sweep(trusted=True)
    assert await _offers(stores) == []


async def test_a_job_that_somebody_works_on_is_not_touched(stores: Stores, reaper: Reaper) -> None:
    job = await _indexed(stores)
    await acts.claim(stores, job)
    before = await acts.events(stores, job)
    await reaper.sweep(trusted=True)
    assert (await acts.events(stores, job), await _offers(stores), await _open(stores)) == (before, [], [job])


async def test_a_job_that_a_worker_has_taken_and_not_yet_claimed_is_not_offered_again(
    stores: Stores, reaper: Reaper
) -> None:
    job = await _indexed(stores)
    await stores.queue.offer(job, epoch=0, priority=5)
    line = OwnLine(stores.redis)
    await stores.queue.turns.take(line, 9, seat_ms=9)
    await reaper.sweep(trusted=True)
    assert await _offers(stores) == []

    await stores.redis.delete(keys.TAKEN)  # the worker died, and its offer was lost on the way
    await stores.redis.delete("tailrace:queue")
    reaper._due_s.clear()
    await reaper.sweep(trusted=True)
    assert await _offers(stores) == [offer_id(job, 0)]
    await line.aclose()


async def test_a_job_that_is_claimed_while_the_reaper_looks_is_not_offered_again(
    stores: Stores, reaper: Reaper, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await _indexed(stores)

    async def claimed_meanwhile(names: list[str]) -> list[bool]:
        await acts.claim(stores, job)
        return [False for _ in names]

    monkeypatch.setattr(stores.queue, "outstanding", claimed_meanwhile)
    await reaper.sweep(trusted=True)
    assert await _offers(stores) == []


async def test_many_that_wait_with_their_offers_are_looked_at_less_often_and_yet_end_in_time(
    stores: Stores, reaper: Reaper
) -> None:
    few, many, overdue = [await _indexed(stores, deadline_s=deadline_s) for deadline_s in (60, 60, 2)]
    for job in (few, many, overdue):
        await stores.queue.offer(job, epoch=0, priority=5)
    now_s = asyncio.get_running_loop().time()
    await reaper.sweep(trusted=True)
    assert reaper._due_s[few] - now_s < recovery.LOOK_AGAIN_S * 2

    reaper._open = 20 * recovery.LOOKS_PER_S
    reaper._due_s.clear()
    await reaper.sweep(trusted=True)
    assert 10 < reaper._due_s[many] - now_s < 30
    assert reaper._due_s[overdue] - now_s <= 3


async def test_a_queued_job_that_is_ended_leaves_no_offer_for_its_tenant_to_pay_a_turn_for(
    stores: Stores, reaper: Reaper
) -> None:
    job = await _indexed(stores, deadline_s=-1)
    await stores.queue.offer(job, epoch=0, priority=5)
    await reaper.sweep(trusted=True)
    assert (await _offers(stores), await stores.redis.zcard("tailrace:queue")) == ([], 0)


@pytest.mark.parametrize("state", ["queued", "leased", "lapsed"])
async def test_the_deadline_ends_a_job_however_it_stands(stores: Stores, reaper: Reaper, state: str) -> None:
    job = await _indexed(stores)
    if state != "queued":
        await acts.claim(stores, job)
    if state == "lapsed":
        await acts.lapse(stores, job)
    await stores.redis.hset(keys.job_keys(job).meta, "deadline_ms", str(await _now_ms(stores)))  # type: ignore[misc]

    await reaper.sweep(trusted=False)

    assert await _ended_with(stores, job) == "deadline_exceeded"
    assert (await _open(stores), await _offers(stores)) == ([], [])


async def test_a_worker_hears_that_the_deadline_took_its_job(stores: Stores, reaper: Reaper) -> None:
    heard: list[str | None] = []
    job = await _indexed(stores)
    await stores.notices.subscribe(keys.worker_channel("w1"), heard.append)
    await acts.claim(stores, job)
    await stores.redis.hset(keys.job_keys(job).meta, "deadline_ms", "0")  # type: ignore[misc]

    await reaper.sweep(trusted=True)

    await until(lambda: keys.job_keys(job).meta in heard)
    await stores.notices.unsubscribe(keys.worker_channel("w1"))


async def test_a_job_that_took_three_workers_down_is_not_offered_to_a_fourth(stores: Stores, reaper: Reaper) -> None:
    job, _ = await _crashed(stores, 3)
    await reaper.sweep(trusted=True)
    assert await _ended_with(stores, job) == "poisoned"
    assert (await _open(stores), await _offers(stores)) == ([], [])


async def test_a_job_that_was_started_too_often_is_ended(stores: Stores, reaper: Reaper) -> None:
    job = await _indexed(stores)
    taken = await acts.claim(stores, job)
    for _ in range(MAX_ATTEMPTS - 1):
        again = await stores.jobs.claim(job, "w1", acts.LEASE_MS, epoch=taken.epoch, reason="provider_error")
        assert isinstance(again, Claimed)
        taken = again
    await acts.lapse(stores, job)

    await reaper.sweep(trusted=True)

    assert await _ended_with(stores, job) == "attempts_exhausted"


@pytest.mark.parametrize("trusted", [True, False])
async def test_a_half_made_job_is_given_up_only_when_its_post_cannot_come_back(
    stores: Stores, reaper: Reaper, trusted: bool
) -> None:
    old = await _indexed(stores, log=False, age_ms=HALF_MADE_MS + 1_000)
    await reaper.sweep(trusted=trusted)
    assert await _open(stores) == [old], "by its node's clock alone, which may be wrong"
    reaper._known_s[old] -= HALF_MADE_MS / 1000 + 1
    reaper._due_s.clear()
    young = await _indexed(stores, log=False)
    await reaper.sweep(trusted=trusted)
    assert await _open(stores) == [young]


async def test_ended_jobs_leave_the_index_with_their_last_event_as_it_was(stores: Stores, reaper: Reaper) -> None:
    job, other = await _indexed(stores), await _indexed(stores)
    await stores.jobs.cancel(job, "user")
    await reaper.sweep(trusted=True)
    assert await _open(stores) == [other]
    assert isinstance((await acts.events(stores, job))[-1], Cancelled)


async def test_a_sweep_skips_nobody_when_jobs_leave_the_index_under_it(
    stores: Stores, reaper: Reaper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "PAGE", 3)
    jobs = [await _indexed(stores) for _ in range(10)]
    for job in jobs[:7:2]:
        await stores.jobs.cancel(job, "user")
    left = [job for place, job in enumerate(jobs) if place >= 7 or place % 2]

    await reaper.sweep(trusted=True)

    assert sorted(map(str, await _open(stores))) == sorted(map(str, left))
    assert sorted(await _offers(stores)) == sorted(offer_id(job, 0) for job in left)


async def test_two_sweeps_do_what_one_does(stores: Stores, reaper: Reaper) -> None:
    job, epoch = await _crashed(stores)
    poison, _ = await _crashed(stores, 3)
    rival = Reaper(stores.jobs, stores.control, stores.queue, owner="rival", lease_s=6.0)

    await asyncio.gather(reaper.sweep(trusted=True), rival.sweep(trusted=True))
    await reaper.sweep(trusted=True)

    assert await _offers(stores) == [offer_id(job, epoch)]
    assert sum(isinstance(event, Failed) for event in await acts.events(stores, poison)) == 1


async def test_a_job_whose_record_is_damaged_keeps_the_reaper_from_no_other(stores: Stores, reaper: Reaper) -> None:
    damaged = await _indexed(stores, deadline_s=-1, age_ms=9_000)
    overdue = await _indexed(stores, deadline_s=-1)
    waiting = await _indexed(stores)
    redis: Any = stores.redis
    await redis.hdel(keys.job_keys(damaged).meta, "created_ms")
    await reaper.sweep(trusted=True)

    assert await _ended_with(stores, overdue) == "deadline_exceeded"
    assert await _offers(stores) == [offer_id(waiting, 0)]
    with pytest.raises(RecordError):
        await stores.jobs.cancel(damaged, "user")


async def test_a_record_of_the_wrong_type_keeps_the_reaper_from_no_other(stores: Stores, reaper: Reaper) -> None:
    damaged, overdue = await _indexed(stores), await _indexed(stores, deadline_s=-1)
    await stores.redis.set(keys.job_keys(damaged).meta, "?", px=60_000)
    await reaper.sweep(trusted=True)
    assert await _ended_with(stores, overdue) == "deadline_exceeded"


async def test_a_job_that_nobody_reads_is_cancelled_if_it_asked_for_that(stores: Stores, reaper: Reaper) -> None:
    async def asked(unread_s: float | None) -> JobKey:
        job = acts.new_job()
        await stores.control.index(job, await _now_ms(stores), 3_600_000)
        assert await stores.jobs.create(Creation(job, acts.request(), deadline_s=60, ttl_s=60, unread_s=unread_s))
        await acts.claim(stores, job)
        return job

    unread, read, unconcerned = await asked(0.001), await asked(0.001), await asked(None)
    meta = keys.job_keys(read).meta
    created_ms = int((await stores.jobs.show(read)).created_ms)
    redis: Any = stores.redis
    await redis.hset(meta, mapping={"created_ms": created_ms - 60_000, "unread_ms": 50_000})
    await stores.jobs.attend(read)
    await stores.jobs.attend(unconcerned)
    await acts.until_ms(stores, created_ms + 5)
    await reaper.sweep(trusted=False)
    assert len(await _open(stores)) == 3, "no node could have said that somebody reads"
    reaper._due_s.clear()
    await reaper.sweep(trusted=True)

    assert set(await _open(stores)) == {read, unconcerned}
    last = (await acts.events(stores, unread))[-1]
    assert isinstance(last, Cancelled)
    assert last.reason == "unread"
    assert (await stores.jobs.show(unconcerned)).unread_ms is None


async def test_what_the_reaper_remembers_goes_with_the_jobs(stores: Stores, reaper: Reaper) -> None:
    jobs = [await _indexed(stores) for _ in range(3)]
    await reaper.sweep(trusted=True)
    await stores.control.close(*jobs)
    await reaper.sweep(trusted=True)
    assert reaper._due_s == {}


async def test_of_many_processes_one_reaps_and_a_fault_of_the_store_ends_none(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "TICK_S", 0.005)
    swept: list[str] = []
    faults = iter([StorageError("storage_unavailable")] * 2)

    class Watched(Reaper):
        async def sweep(self, *, trusted: bool) -> None:
            swept.append(self._owner)
            for fault in faults:
                raise fault
            await super().sweep(trusted=trusted)

    job = await _indexed(stores)
    fleet = [Watched(stores.jobs, stores.control, stores.queue, owner=f"p{n}", lease_s=6.0) for n in range(3)]
    tasks = [asyncio.create_task(one.run()) for one in fleet]
    await until(lambda: len(swept) > 4)
    assert await _offers(stores) == [offer_id(job, 0)]
    assert len(set(swept)) == 1
    assert 0 < await stores.redis.pttl(keys.REAPER_LOCK) <= LEAD_MS

    await end(tasks[int(swept[0][1:])])
    await stores.redis.delete(keys.REAPER_LOCK)  # what time does to a leader that is gone
    await until(lambda: len(set(swept)) == 2)

    await end(*tasks)


async def test_leases_are_not_believed_by_the_first_sweep_after_the_stores_were_away(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "TICK_S", 0.005)
    trusts: list[bool] = []

    class Watched(Reaper):
        async def sweep(self, *, trusted: bool) -> None:
            trusts.append(trusted)

    async def first_trust() -> bool:
        trusts.clear()
        reaper = Watched(stores.jobs, stores.control, stores.queue, owner="me", lease_s=60)
        async with running(reaper.run()):
            await until(lambda: bool(trusts))
        return trusts[0]

    assert await first_trust() is False  # nobody has vouched for the stores
    assert await first_trust() is True  # the sweep before has, a moment ago
    await stores.redis.delete(keys.WATCHED)  # what time does to that word while the stores are away
    assert await first_trust() is False
