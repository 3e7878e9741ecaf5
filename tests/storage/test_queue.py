"""The queue: an offer made twice is one offer, its place is by priority and age, and bells are bounded."""

import asyncio
import json
import time
from typing import Any

import pytest
from arq.constants import in_progress_key_prefix, job_key_prefix

from shared.jobs import JobKey, job_id_ms, job_id_prefix, new_job_id
from shared.queue import FUNCTION, deserialize, offer_id, parse_offer
from shared.storage.keys import TAKEN, WAKE, waiting
from shared.storage.sending import OwnLine
from tests.storage.acts import bells, new_job, offers
from tests.storage.conftest import Stores

QUEUE = "tailrace:queue"


async def _offer(stores: Stores, *, epoch: int = 0, priority: int = 5, job: JobKey | None = None) -> str:
    job = job or new_job()
    await stores.queue.offer(job, epoch=epoch, priority=priority)
    return offer_id(job, epoch)


async def _places(stores: Stores, name: str) -> tuple[Any, Any]:
    return await stores.redis.zscore(waiting("default"), name), await stores.redis.zscore(QUEUE, name)


async def test_an_offer_made_twice_is_one_offer_with_its_first_place(stores: Stores) -> None:
    job = new_job()
    name = await _offer(stores, job=job)
    places = await _places(stores, name)

    await asyncio.gather(*(_offer(stores, job=job) for _ in range(5)))

    assert await offers(stores) == [name]
    assert await _places(stores, name) == places
    assert await stores.redis.pttl(job_key_prefix + name) > 0


async def test_an_offer_after_a_claim_is_another_offer(stores: Stores) -> None:
    job = new_job()
    names = {await _offer(stores, job=job, epoch=epoch) for epoch in (0, 602_505)}
    assert set(await offers(stores)) == names
    assert {parse_offer(name) for name in names} == {(job, 0), (job, 602_505)}


async def test_offers_wait_by_priority_in_both_queues(stores: Stores) -> None:
    offered = [(priority, await _offer(stores, priority=priority)) for priority in (5, 0, 9, 5, 9, 0)]
    priorities = {name: priority for priority, name in offered}
    for name in (waiting("default"), QUEUE):
        assert [priorities[str(offer)] for offer in await stores.redis.zrange(name, 0, -1)] == [9, 9, 5, 5, 0, 0]


async def test_of_one_priority_the_older_job_comes_first_whenever_it_was_offered(stores: Stores) -> None:
    jobs = [JobKey("default", job_id_prefix(1_763_800_000_000 + ms) + new_job_id()[10:]) for ms in (2, 1, 3)]
    names = [await _offer(stores, job=job) for job in jobs]
    again = await _offer(stores, job=jobs[1], epoch=602_505)
    assert (await offers(stores))[:2] in ([names[1], again], [again, names[1]])
    assert (await offers(stores))[2:] == [names[0], names[2]]


def test_a_jobs_id_says_when_it_was_made() -> None:
    for ms in (0, 1_763_800_000_123, 2**48):
        assert job_id_ms(job_id_prefix(ms) + new_job_id()[10:]) == ms
    assert job_id_ms("x") is None


@pytest.mark.parametrize("priority", [0, 9])
async def test_every_offer_is_due_at_once(stores: Stores, priority: int) -> None:
    name = await _offer(stores, priority=priority)
    score = await stores.redis.zscore(QUEUE, name)
    (seconds, _) = await stores.redis.time()
    assert score is not None
    assert 0 < score < seconds * 1000


async def test_a_job_of_a_foreign_id_is_offered_with_the_age_of_its_offer(stores: Stores) -> None:
    name = await _offer(stores, job=JobKey("default", "x"))
    in_a_second = job_id_prefix(time.time_ns() // 1_000_000 + 1000) + new_job_id()[10:]
    later = await _offer(stores, job=JobKey("default", in_a_second))
    assert await offers(stores) == [name, later]


async def test_an_offer_carries_the_job_as_json_and_nothing_that_runs(stores: Stores) -> None:
    job = new_job()
    raw = await stores.redis.get(job_key_prefix + await _offer(stores, job=job))
    assert raw is not None
    assert json.loads(raw)["a"] == [str(job)]
    assert deserialize(str(raw).encode())["f"] == FUNCTION


async def test_an_offer_is_outstanding_while_it_waits_or_is_taken_and_no_longer(stores: Stores) -> None:
    withdrawn, delivering, bodiless, taken = [await _offer(stores, priority=5 + n) for n in range(4)]
    line = OwnLine(stores.redis)
    assert (await stores.queue.turns.take(line, 1, seat_ms=9)).offers == [taken]
    await line.aclose()
    await stores.redis.zrem(waiting("default"), delivering)
    await stores.redis.set(in_progress_key_prefix + delivering, "1", px=60_000)
    await stores.redis.delete(job_key_prefix + bodiless)  # arq would drop it; it waits all the same
    await stores.queue.withdraw(withdrawn)

    names = [taken, delivering, bodiless, withdrawn, offer_id(new_job(), 0)]

    assert await stores.queue.outstanding(names) == [True, True, True, False, False]
    assert await stores.queue.outstanding([]) == []


async def test_a_withdrawn_offer_is_soon_gone_and_can_be_made_again(stores: Stores) -> None:
    job, other = new_job(), new_job("acme")
    name, foreign = await _offer(stores, job=job), await _offer(stores, job=other)
    await stores.queue.withdraw(name, foreign)
    await stores.queue.withdraw(name)
    assert (await offers(stores), await offers(stores, "acme")) == ([], [])
    assert await stores.redis.exists(QUEUE, TAKEN, waiting("default"), waiting("acme")) == 0
    assert await stores.queue.outstanding([name]) == [False]
    assert await stores.redis.pttl(job_key_prefix + name) <= 10_000  # arq may be about to read it

    await _offer(stores, job=job)

    assert await stores.queue.outstanding([name]) == [True]


async def test_bells_carry_the_offers_in_their_order_for_older_workers(stores: Stores) -> None:
    names = [await _offer(stores) for _ in range(3)]
    assert await bells(stores) == names


async def test_bells_that_nobody_hears_are_bounded_and_end(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.queue._WAKE_LIST_MAX", 3)
    names = [await _offer(stores) for _ in range(5)]
    assert await bells(stores) == names[2:]
    assert 0 < await stores.redis.pttl(WAKE) <= 3_600_000
